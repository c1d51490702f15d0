# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a report as a table while the play runs; documented in plugins/modules/image_puller_table.py."""

from __future__ import annotations

import json
import shutil
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.module_utils.artifact import statistics
from ansible_collections.kubecache.image_puller.plugins.module_utils.table import bullet, plan_table, tables

# Asked while the plugin is loaded: the worker process in which it runs is cut off from the terminal.
WIDTH = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))


class ActionModule(ActionBase):
    """Displays, returns the lines, changes nothing."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print ``report``, each of ``sets`` or a ``plan``, and the ``notes``; the result holds the same ``lines``."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "report": {"type": "dict"},
                "sets": {"type": "list", "elements": "dict"},
                "plan": {"type": "dict"},
                "variables": {"type": "dict"},
                "notes": {"type": "list", "elements": "str", "default": []},
            },
            required_one_of=(("report", "sets", "plan", "variables", "notes"),),
            mutually_exclusive=(("report", "sets", "plan", "variables"),),
        )
        notes, sets, plan = list(options["notes"]), options["sets"] or [], options["plan"]
        if options["report"] is not None:
            sets = [{"report": options["report"]}]
        for set_ in sets:
            if not {"verdict", "images", "nodes"} <= (set_.get("report") or {}).keys():
                raise AnsibleActionFail("report or sets: this is no result of kubecache.image_puller.image_puller_info")
        if plan is not None and not {"verdict", "findings", "cost"} <= plan.keys():
            raise AnsibleActionFail("plan: this is no plan of kubecache.image_puller.image_puller_install")
        if self._task.check_mode:
            notes.append("Check mode: nothing was changed" + ("; this is the state as it is" if sets else ""))
        if plan:
            lines, verdicts = plan_table(plan, WIDTH, notes), {plan["verdict"]}
        elif sets:
            lines, verdicts = tables(sets, WIDTH, notes), {set_["report"]["verdict"] for set_ in sets}
        else:
            lines, verdicts = [line for note in notes for line in bullet(note, WIDTH)], set[str]()
            if options["variables"] is not None:
                plain = json.loads(json.dumps(options["variables"]))  # Without the tags of templated values.
                text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000)
                lines = [*text.splitlines(), *([""] if lines else []), *(f"# {line}" for line in lines)]
        display = Display()
        display.display("")
        if verdicts:
            display.display(lines[0], color=_color(verdicts))
        display.display("\n".join(lines[1:] if verdicts else lines))
        # A statistic of the play, which Ansible takes from any result. Without the tags of templated values.
        told = json.loads(json.dumps(statistics(sets, plan, lines)))
        return {"changed": False, "lines": lines, "ansible_stats": told}


def _color(verdicts: set[str]) -> str:
    if verdicts & {"Degraded", "InvalidSettings", "Blocked"}:
        return "red"
    return "green" if verdicts <= {"Healthy", "Fits"} else "yellow"
