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

from ansible_collections.kubecache.image_puller.plugins.module_utils.table import bullet, plan_table, table

# Asked while the plugin is loaded: the worker process in which it runs is cut off from the terminal.
WIDTH = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
COLORS = {"Healthy": "green", "Fits": "green", "Degraded": "red", "InvalidSettings": "red", "Blocked": "red"}


class ActionModule(ActionBase):
    """Displays, returns the lines, changes nothing."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print ``report`` or ``plan`` as a table, and the ``notes``; the result holds the same ``lines``."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "report": {"type": "dict"},
                "plan": {"type": "dict"},
                "notes": {"type": "list", "elements": "str", "default": []},
            },
            required_one_of=(("report", "plan", "notes"),),
            mutually_exclusive=(("report", "plan"),),
        )
        report, plan, notes = options["report"], options["plan"], list(options["notes"])
        if report is not None and not {"verdict", "images", "nodes"} <= report.keys():
            raise AnsibleActionFail("report: this is no result of kubecache.image_puller.image_puller_info")
        if plan is not None and not {"verdict", "findings", "cost"} <= plan.keys():
            raise AnsibleActionFail("plan: this is no plan of kubecache.image_puller.image_puller_config")
        if self._task.check_mode:
            notes.append("Check mode: nothing was changed" + ("; this is the state as it is" if report else ""))
        shown = report or plan
        if report:
            lines = table(report, WIDTH, notes)
        elif plan:
            lines = plan_table(plan, WIDTH, notes)
        else:
            lines = [line for note in notes for line in bullet(note, WIDTH)]
        display = Display()
        display.display("")
        if shown:
            display.display(lines[0], color=COLORS.get(shown["verdict"], "yellow"))
        display.display("\n".join(lines[1:] if shown else lines))
        return {"changed": False, "lines": lines}
