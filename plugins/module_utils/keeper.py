# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the DaemonSet of a set for a module, look at its images, and put both into a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    carry_out,
    desired_daemonset,
    observe,
    remove_former_daemonsets,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import decide
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings


@dataclass(frozen=True)
class Kept:
    """What was done to the set's DaemonSets, or in a dry run would be done, and why."""

    changes: Sequence[Change] = ()  # Of the DaemonSet first, then of those that bore another name.
    reasons: Sequence[str] = ()


def keep_daemonset(
    cluster: Cluster,
    image_set: ImageSet,
    settings: Settings,
    *,
    openshift: bool,
    recreate: str = "unhealthy",
    dry_run: bool = False,
) -> Kept:
    """Make the set's DaemonSet where it is missing, and mend it where it differs.

    Raises RuntimeError where it belongs to somebody else or does not go, ApiError where the API server refuses.
    """
    live = cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
    desired = desired_daemonset(cluster, image_set, settings, live, openshift=openshift)
    decision = decide(desired, live, recreate=recreate)
    change = carry_out(cluster, decision, desired, live, dry_run=dry_run)
    former = remove_former_daemonsets(cluster, image_set, settings, dry_run=dry_run)
    return Kept(
        [change, *(Change("deleted", "DaemonSet", name) for name in former)],
        [*decision.reasons, *change.notes, *(f"{name} has a former name and is deleted" for name in former)],
    )


def look(cluster: Cluster, settings: Settings, *, read_nodes: bool) -> Report:
    """How the set's images are now."""
    live = cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
    return observe(cluster, settings.images, live, read_nodes=read_nodes)


def result_of(kept: Kept, report: Report, problems: Sequence[object] = ()) -> dict[str, Any]:
    """What a module returns of the DaemonSet and of its images; ``problems`` of the settings belong to the report."""
    told = {**report.as_dict(), "problems": [str(problem) for problem in problems]}
    del told["rows"]  # One for each image on each node: whoever wants them asks image_puller_info.
    return {
        "changed": any(change.changed for change in kept.changes),
        "action": kept.changes[0].action if kept.changes else "none",
        "reasons": list(kept.reasons),
        "verdict": told["verdict"],
        "verdict_reasons": told["reasons"],
        "summary": told["summary"],
        "report": told,
    }
