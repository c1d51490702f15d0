# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name, a wait in slices, and tells in between how far it is: a module can't print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import ACTIONS

MODULE = "kubecache.image_puller.image_puller_daemonset"
# Seconds of a slice until a time of the wait has come: each costs the start of a module.
SLICES = ((5.0, 5.0), (10.0, 120.0), (20.0, float("inf")))
PAUSE = 2.0  # Seconds until a slice is tried once more.
AGAIN = 60.0  # Seconds after which the same line is told again, so that a log shows that it goes on.


class ActionModule(ActionBase):
    """Returns what one call of the module would."""

    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module once, or as often as its wait needs."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        waits = boolean(arguments.get("wait") or False, strict=False) and arguments.get("state") != "absent"
        if not waits or self._task.check_mode or self._task.async_val or arguments.get("wait_slice"):
            result: dict[str, Any] = self._execute_module(
                MODULE, arguments, task_vars=task_vars, wrap_async=self._task.async_val
            )
        else:
            result = self._wait(arguments, task_vars or {})
        if not self._task.async_val:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _wait(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        start, told, told_at = time.monotonic(), "", 0.0
        slice_: dict[str, Any] = {"seconds": SLICES[0][0]}
        result: dict[str, Any] = {}
        while True:
            answer = self._execute_module(MODULE, {**arguments, "wait_slice": slice_}, task_vars=task_vars)
            following = answer.pop("wait_slice", None)
            if following and answer.get("failed"):  # The API server does not answer: it may start anew.
                time.sleep(PAUSE)
            else:
                result = joined(result, answer)
                if not following:
                    return result
            waited = time.monotonic() - start
            line = following.pop("progress")
            if line != told or waited - told_at >= AGAIN:
                told, told_at = line, waited
                self._tell(f"[{task_vars.get('inventory_hostname', 'localhost')}] {waited:.0f} s: {line}")
            seconds = next(seconds for seconds, until in SLICES if waited < until)
            slice_ = {**following, "seconds": seconds, "waited": waited}
            if arguments.get("recreate") == "always":
                arguments["recreate"] = "unhealthy"  # It was asked for once.

    def _tell(self, line: str) -> None:
        """On standard error, so that what a callback writes for programs stays readable for them."""
        if not self._task.no_log:
            Display().display(line, stderr=True)


def joined(before: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """What two calls of the module did, as one result; how things are is what the second one saw."""
    if not before:
        return dict(answer)
    result = _both(before, answer)
    result["changed"] = bool(before.get("changed") or answer.get("changed"))
    result["diff"] = [*before.get("diff", ()), *answer.get("diff", ())]
    result["warnings"] = list(dict.fromkeys([*before.get("warnings", ()), *answer.get("warnings", ())]))
    result["invocation"] = before.get("invocation")
    if "sets" in answer:
        sets = {each["config_map_name"]: each for each in before.get("sets", ())}
        result["sets"] = [_both(sets.get(each["config_map_name"], {}), each) for each in answer["sets"]]
    return result


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The stronger action, and all reasons; the rest of the second."""
    told = [each for each in (before, after) if "action" in each]
    if not told:
        return dict(after)
    reasons = dict.fromkeys(reason for each in told for reason in each["reasons"])
    return {**after, "action": max((each["action"] for each in told), key=ACTIONS.index), "reasons": list(reasons)}
