# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the DaemonSets of one set or of several for a module, look at their images, and put it all into a result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import imageset
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Wanted, group_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import VERDICTS, Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    Digests,
    ImageSet,
    config_maps,
    keep,
    our_daemonsets,
    remove_former_daemonsets,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import describe
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision, judged
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    InvalidSettings,
    Reading,
    Settings,
    from_config_map,
    require,
)

# From the weakest to the strongest.
ACTIONS = ("none", "patched", "restarted", "created", "deleted", "recreated")


@dataclass(frozen=True)
class Member:
    """One set as it was read; ``title`` is what its sentences begin with, empty for the main or the only one."""

    image_set: ImageSet
    reading: Reading
    group: str = ""
    title: str = ""


@dataclass(frozen=True)
class Kept:
    """What was done to the DaemonSets of a set, or in a dry run would be done, and why; ``error``: why it was not."""

    member: Member
    changes: tuple[Change, ...] = ()  # Of the DaemonSet first, then of those that bore another name.
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    decision: Decision | None = None
    error: str = ""


def members_of(
    image_set: ImageSet,
    live: Mapping[str, Mapping[str, Any]],
    sets: Sequence[Wanted] = (),
    leaving: Collection[str] = (),
) -> list[Member]:
    """All sets of an installation, the main one first.

    :param image_set: the main one.
    :param live: the installation's ConfigMaps, by name.
    :param sets: those whose ConfigMaps were written since, or in a dry run would be.
    :param leaving: the ConfigMaps of sets that leave the installation.
    """
    found = {
        name: (group_of(config_map), from_config_map(config_map.get("data") or {}))
        for name, config_map in live.items()
        if name not in leaving
    }
    found |= {wanted.config_map_name: (wanted.group, Reading(wanted.settings)) for wanted in sets}
    main = image_set.config_map_name
    members = []
    for name, (group, reading) in sorted(found.items(), key=lambda item: (item[0] != main, item[0])):
        title = "" if name == main else f"group {group}" if group else f"set {name}"
        members.append(Member(replace(image_set, config_map_name=name), reading, group, title))
    return members


def read_members(cluster: Cluster, image_set: ImageSet, several: bool) -> list[Member]:
    """All sets of the installation, or only this one, as their ConfigMaps say; none where there is no ConfigMap."""
    if several:
        return members_of(image_set, config_maps(cluster, image_set))
    live = cluster.get("ConfigMap", image_set.config_map_name, image_set.namespace)
    return [Member(image_set, from_config_map(live.get("data") or {}), group_of(live))] if live else []


def keep_sets(
    cluster: Cluster,
    members: Sequence[Member],
    *,
    openshift: bool,
    recreate: str = "unhealthy",
    read_nodes: bool = True,
    dry_run: bool = False,
) -> list[Kept]:
    """Make the DaemonSet of each set where it is missing, and mend it where it differs.

    Raises InvalidSettings, RuntimeError where it belongs to somebody else or does not go, ApiError where the API server
    refuses. Of several sets each is kept, whatever is wrong with another: what is wrong is in its ``error``.
    """
    kept = []
    for member in members:
        try:
            kept.append(_keep(cluster, member, openshift, recreate, read_nodes, dry_run))
        except (InvalidSettings, ApiError, RuntimeError) as error:
            if len(members) == 1 or (isinstance(error, ApiError) and not error.status):
                raise
            kept.append(Kept(member, error=str(error)))
    return kept


def _keep(cluster: Cluster, member: Member, openshift: bool, recreate: str, read_nodes: bool, dry_run: bool) -> Kept:
    settings = require(member.reading)
    decision, change, warnings = keep(
        cluster,
        member.image_set,
        settings,
        openshift=openshift,
        recreate=recreate,
        read_nodes=read_nodes,
        dry_run=dry_run,
    )
    former = remove_former_daemonsets(cluster, member.image_set, settings, dry_run=dry_run)
    return Kept(
        member,
        (change, *(Change("deleted", "DaemonSet", name) for name in former)),
        (*decision.reasons, *change.notes, *(f"{name} has a former name and is deleted" for name in former)),
        tuple(titled(member, warning) for warning in warnings),
        decision,
    )


def remove_left(cluster: Cluster, namespace: str, leaving: Collection[str], *, dry_run: bool = False) -> list[Change]:
    """Delete the DaemonSets of the sets that leave an installation, whose ConfigMaps these are."""
    changes = []
    for name in leaving:
        for daemonset in our_daemonsets(cluster, ImageSet(namespace, name)):
            data = daemonset["metadata"]
            if not data.get("deletionTimestamp"):
                cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"], dry_run=dry_run)
                changes.append(Change("deleted", "DaemonSet", describe(daemonset), daemonset))
    return changes


def look(cluster: Cluster, member: Member, *, read_nodes: bool, locked: Digests | None = None) -> Report:
    """How the images of a set are now; ``locked`` as of ``assess``."""
    if member.reading.settings is None:
        return Report("InvalidSettings", tuple(str(problem) for problem in member.reading.problems))
    return imageset.look(cluster, member.reading.settings, read_nodes=read_nodes, locked=locked)


def lockable(members: Iterable[Member]) -> list[tuple[str, Settings]]:
    """Title and settings of each set whose settings can be read, as a lock names its images."""
    return [
        (m.group or (m.title and m.image_set.config_map_name), settings)
        for m in members
        if (settings := m.reading.settings)
    ]


def _concluded(kept: Kept, report: Report) -> Report:
    """The report of a set with what only this call knows: that it could not be kept, or not now."""
    settings = kept.member.reading.settings
    if kept.error and settings:
        return Report("Degraded", (kept.error,), images=settings.images)
    return judged(report, kept.decision) if kept.decision and kept.decision.paused else report


def errors_of(kept: Iterable[Kept]) -> str:
    """Why sets could not be kept, empty where all were."""
    return " ".join(titled(each.member, each.error) for each in kept if each.error)


def titled(member: Member, sentence: str) -> str:
    """The sentence, with the set that it is about before it."""
    return f"{member.title}: {sentence}" if member.title else sentence


def result_of(
    kept: Sequence[Kept], reports: Sequence[Report], left: Sequence[Change] = (), *, several: bool = True
) -> dict[str, Any]:
    """What a module returns of DaemonSets and their images.

    :param reports: how the images of each were afterwards.
    :param left: what was done to the DaemonSets of sets that left.
    :param several: with False the report of the only set is that of the result, else each set has its own.
    """
    judgements = [_concluded(each, report) for each, report in zip(kept, reports, strict=True)]
    told = [_told(each, report, len(kept)) for each, report in zip(kept, judgements, strict=True)]
    changes = [*(change for each in kept for change in each.changes), *left]
    reasons = [titled(each.member, reason) for each in kept for reason in each.reasons]
    reasons += [f"the set of {change.name} left the list" for change in left]
    verdict_reasons = [
        titled(each.member, why) for each, report in zip(kept, judgements, strict=True) for why in report.reasons
    ]
    sets = told if several else [{key: value for key, value in set_.items() if key != "report"} for set_ in told]
    return {
        "changed": any(change.changed for change in changes),
        "action": max((change.action for change in changes), key=ACTIONS.index, default="none"),
        "reasons": reasons,
        "verdict_reasons": verdict_reasons,
        **total(told),
        "sets": sets,
        "warnings": [warning for each in kept for warning in each.warnings],
        **({} if several else {"report": told[0]["report"]}),
    }


def _told(kept: Kept, report: Report, share: int) -> dict[str, Any]:
    told = {**report.as_dict(share=share), "problems": [str(problem) for problem in kept.member.reading.problems]}
    del told["rows"]  # One for each image on each node: whoever wants them asks image_puller_info.
    return {
        **names_of(kept.member),
        "action": kept.changes[0].action if kept.changes else "none",
        "reasons": list(kept.reasons),
        "verdict": told["verdict"],
        "verdict_reasons": told["reasons"],
        "summary": told["summary"],
        "report": told,
    }


def names_of(member: Member) -> dict[str, Any]:
    """By which names a set is known; of the DaemonSet null where the settings can't be read."""
    settings = member.reading.settings
    return {
        "config_map_name": member.image_set.config_map_name,
        "daemonset_name": settings.daemonset_name if settings else None,
        "group": member.group,
    }


def total(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst verdict of several sets, and the sums of their counts; Absent where there is none."""
    summaries = [set_["summary"] for set_ in sets] or [Report("Absent", ()).as_dict()["summary"]]
    return {
        "verdict": max((set_["verdict"] for set_ in sets), key=VERDICTS.index, default="Absent"),
        "summary": {key: sum(summary[key] for summary in summaries) for key in summaries[0]},
    }
