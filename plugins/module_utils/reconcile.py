# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about one DaemonSet: pure, and the same for module and controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import builder_number
from ansible_collections.kubecache.image_puller.plugins.module_utils.drift import differences
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import describe, is_ours, metadata

# What the known implementation's DaemonSet selects (the object itself carries no label): it is adopted.
_KNOWN_SELECTOR = {"test": "daemonset-test"}


@dataclass(frozen=True)
class Decision:
    """One action and why: ``none``, ``create``, ``patch``, ``recreate``, ``wait`` (it is being deleted), ``refuse``."""

    action: str
    reasons: tuple[str, ...] = ()


def decide(desired: Mapping[str, Any], live: Mapping[str, Any] | None, *, recreate: str = "unhealthy") -> Decision:
    """Compare the DaemonSet that is wanted with the one that is there.

    :param desired: from ``build_daemonsets``.
    :param live: as the API server returns it, with managedFields; None where there is none.
    :param recreate: ``always`` asks for delete and create although nothing is wrong; ``unhealthy`` does the least that
        helps; ``never`` does not make one again in the place of one that is being deleted.
    """
    if live is None:
        return Decision("create", (f"{describe(desired)} does not exist",))
    if not is_adoptable(live):
        return Decision(
            "refuse",
            (
                f"{describe(live)} was not made by the Image Puller and is left alone. "
                "Remedy: choose another daemonset_name, or delete it if nobody needs it",
            ),
        )
    if metadata(live).get("deletionTimestamp"):
        if recreate == "never":
            return Decision("none", (f"{describe(live)} is being deleted, and recreate=never makes no other",))
        return Decision("wait", (f"{describe(live)} is being deleted",))
    newer, ours = builder_number(live), builder_number(desired)
    if newer > ours:
        return Decision(
            "none",
            (
                f"{describe(live)} was built by a newer version (builder {newer}; this one is {ours}) and is kept. "
                "Remedy: update this collection or controller",
            ),
        )
    if recreate == "always":
        return Decision("recreate", ("asked for by recreate=always",))
    fields = differences(desired, live)
    if fields:
        return Decision("patch", (f"{describe(live)} differs in {', '.join(fields)}",))
    return Decision("none")


def is_adoptable(live: Mapping[str, Any]) -> bool:
    """Whether the DaemonSet is ours, or the known implementation's."""
    selected = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return is_ours(live) or selected == _KNOWN_SELECTOR
