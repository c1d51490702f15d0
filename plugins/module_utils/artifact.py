# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a play tells whoever runs Ansible, as ``ansible.builtin.set_stats`` does: a job's artifact. Pure.

It grows with the number of images, never with that of nodes: Automation Platform keeps it in its database, and gives it
to the following jobs of a workflow as a variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import total

NAME = "image_puller"  # Of the artifact. It is none of the role's variables, so that it can do no harm as one.
_OF_A_SET = ("verdict", "reasons", "summary", "images")


def statistics(
    sets: Sequence[Mapping[str, Any]], plan: Mapping[str, Any] | None, lines: Sequence[str]
) -> dict[str, Any]:
    """``ansible_stats`` of a task's result.

    :param sets: as image_puller_info returns them; each has a ``report``.
    :param plan: as image_puller_install returns it.
    :param lines: what a person was shown.
    :returns: the artifact under its ``NAME``: ``lines``; of sets ``verdict``, ``summary`` and, of each of the ``sets``,
        its names, verdict, reasons, summary and images; of a plan ``verdict`` and ``findings``.
    """
    told: dict[str, Any] = {"lines": list(lines)}
    if plan:
        told |= {"verdict": plan["verdict"], "findings": plan["findings"]}
    elif sets:
        reports = [set_["report"] for set_ in sets]
        told |= {**total(reports), "sets": [_of(set_) for set_ in sets]}
    return {"data": {NAME: told}, "per_host": False, "aggregate": False}


def _of(set_: Mapping[str, Any]) -> dict[str, Any]:
    names = {key: set_[key] for key in ("config_map_name", "daemonset_name", "group") if key in set_}
    return {**names, **{key: set_["report"][key] for key in _OF_A_SET}}
