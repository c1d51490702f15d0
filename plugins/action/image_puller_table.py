# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a report as a table while the play runs; documented in plugins/modules/image_puller_table.py."""

from __future__ import annotations

import shutil
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.module_utils.table import bullet, tables

# Asked while the plugin is loaded: the worker process in which it runs is cut off from the terminal.
WIDTH = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))


class ActionModule(ActionBase):
    """Displays, returns the lines, changes nothing."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print ``report`` or each of ``sets``, and the sentences of ``notes``; the result holds the same ``lines``."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "report": {"type": "dict"},
                "sets": {"type": "list", "elements": "dict"},
                "notes": {"type": "list", "elements": "str", "default": []},
            },
            required_one_of=(("report", "sets", "notes"),),
            mutually_exclusive=(("report", "sets"),),
        )
        notes, sets = list(options["notes"]), options["sets"] or []
        if options["report"] is not None:
            sets = [{"report": options["report"]}]
        for set_ in sets:
            if not {"verdict", "images", "nodes"} <= (set_.get("report") or {}).keys():
                raise AnsibleActionFail("report or sets: this is no result of kubecache.image_puller.image_puller_info")
        if self._task.check_mode:
            notes.append("Check mode: nothing was changed" + ("; this is the state as it is" if sets else ""))
        lines = tables(sets, WIDTH, notes) if sets else [line for note in notes for line in bullet(note, WIDTH)]
        display = Display()
        display.display("")
        if sets:
            display.display(lines[0], color=_color({set_["report"]["verdict"] for set_ in sets}))
        display.display("\n".join(lines[1:] if sets else lines))
        return {"changed": False, "lines": lines}


def _color(verdicts: set[str]) -> str:
    if verdicts & {"Degraded", "InvalidSettings"}:
        return "red"
    return "green" if verdicts == {"Healthy"} else "yellow"
