# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses misspelt variables and wrong values; documented in plugins/modules/image_puller_validate_variables.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.action.image_puller_report import wrong_names
from ansible_collections.kubecache.image_puller.plugins.module_utils.variables import PREFIX, unclear, unknown

ARGUMENTS: dict[str, Any] = {
    "known": {"type": "list", "elements": "str", "required": True},
    "switches": {"type": "dict", "default": {}},
    "report": {"type": "list", "elements": "path", "default": []},
}


class ActionModule(ActionBase):
    """Looks at the names of all variables, and at no value but those that it is given: no other is templated."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with a sentence for each misspelt variable and each wrong value; warn of variables that are unknown."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(ARGUMENTS)
        found = unknown(task_vars or {}, options["known"])
        for sentence in found.ignored:
            Display().warning(sentence)
        wrong = [f"{PREFIX}report: {sentence}" for sentence in wrong_names(options["report"])]
        problems = [*found.misspelt, *unclear(options["switches"]), *wrong]
        return {"changed": False, **({"failed": True, "msg": " ".join(problems)} if problems else {})}
