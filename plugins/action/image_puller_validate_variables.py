# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses misspelt variables; documented in plugins/modules/image_puller_validate_variables.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.module_utils.variables import unknown


class ActionModule(ActionBase):
    """Looks at names alone: no value is templated."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with a sentence for each misspelt variable; warn of those that are unknown."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {"known": {"type": "list", "elements": "str", "required": True}}
        )
        found = unknown(task_vars or {}, options["known"])
        for sentence in found.ignored:
            Display().warning(sentence)
        return {"changed": False, **({"failed": True, "msg": " ".join(found.misspelt)} if found.misspelt else {})}
