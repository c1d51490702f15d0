# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about one DaemonSet: pure, and the same for module and controller.

The ladder, least violent first: nothing; create or patch; exchange a few pods; delete a pod that is stuck; delete the
DaemonSet and make it again, which mends only what it can mend, and never within the guard's pause. What an action
can't mend (an image that can't be pulled, a quota, a control plane that stands still) the report says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    builder_number,
    is_builder,
    revision,
    told_builder,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.drift import differences
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import UNTOUCHED, Guard, show_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import TERMINATING, Report, read_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    BUILDER,
    MADE_FROM,
    REVISION,
    describe,
    is_ours,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import PodRef, Step, next_step

# What the known implementation's DaemonSet selects, in its older and its newer versions (the object itself carries no
# label): it is adopted.
_KNOWN_SELECTORS = ({"test": "daemonset-test"}, {"test": "daemonset-test", "app.kubernetes.io/name": "image-puller"})
# Seconds after which a deletion counts as stuck: of the DaemonSet (its garbage collection waits for a dead node), and
# of a pod on a node that is ready.
DELETION_GRACE, POD_DELETION_GRACE = 30.0, 300.0
# The garbage collector's own; a second delete, in the background, takes them off.
_COLLECTORS = {"foregroundDeletion", "orphan"}
_SOON = 0.5
_SHOWN = 80  # Characters of an annotation that can't be read.


@dataclass(frozen=True)
class Observed:
    """What was read of one set: ``live`` with its managedFields, its ``pods``, and what ``assess`` made of them.

    ``complete`` is False when something could not be read; then nothing is deleted.
    """

    live: Mapping[str, Any] | None
    pods: Sequence[Mapping[str, Any]]
    report: Report
    complete: bool = True


@dataclass(frozen=True)
class Decision:
    """One action and why.

    ``action``: none, create, patch, roll (delete ``pods``, to be made again from the new template), delete_pods (end
    ``pods`` that do not end by themselves), recreate, finish_deletion (of the DaemonSet, then create), wait (it is
    being deleted) or refuse. ``guard`` is to be written before the action, None: nothing to write. ``again``: seconds
    after which the same question has another answer though nothing has changed.
    """

    action: str
    reasons: tuple[str, ...] = ()
    pods: tuple[PodRef, ...] = ()
    guard: Guard | None = None
    again: float | None = None
    paused: str = ""
    step: Step = field(default_factory=Step)


def decide(
    desired: Mapping[str, Any],
    observed: Observed,
    *,
    now: datetime,
    recreate: str = "unhealthy",
    guard: Guard = UNTOUCHED,
    max_unavailable: str = "10%",
    may_patch: bool = True,
) -> Decision:
    """Compare the DaemonSet that is wanted with the one that is there, and choose the least that helps.

    :param desired: from ``build_daemonsets``.
    :param recreate: ``always`` asks for delete and create although nothing is wrong; ``never`` forbids it, also for
        a DaemonSet that is being deleted; ``unhealthy`` leaves it to the ladder.
    :param guard: what was done before; a decision that is guarded brings the next one.
    :param may_patch: whether the right to patch the DaemonSet is there; without it a DaemonSet for which something else
        is wanted than what it was made from is recreated, and drift stays.
    """
    live = observed.live
    if live is None:
        return _create(desired, observed)
    if not is_adoptable(live):
        reason = (
            f"{describe(live)} was not made by the Image Puller and is left alone. "
            "Remedy: choose another daemonset_name, or delete it if nobody needs it"
        )
        return Decision("refuse", (reason,))
    if metadata(live).get("deletionTimestamp"):
        return _being_deleted(live, recreate, guard, now)
    newer, ours = builder_number(live), builder_number(desired)
    if newer > ours:
        reason = (
            f"{describe(live)} was built by a newer version (builder {newer}; this one is {ours}) and is kept. "
            "Remedy: update this collection or controller"
        )
        return Decision("none", (reason,))
    if recreate == "always":
        return _recreate("asked for by recreate=always", guard, now, observed)
    fields = differences(desired, live)
    if not may_patch and not _is_made_from(live, desired):
        reason = f"{describe(live)} was made from other settings, and may not be patched"
        return _guarded(Decision("recreate", (reason,)), guard, now)
    if fields and not may_patch:
        return Decision("none", (f"{describe(live)} differs in {_show(fields)}, may not be patched, and stays",))
    if fields:
        return _patch(desired, live, fields, guard, now)
    return _pods(live, observed, recreate, guard, now, max_unavailable)


def is_adoptable(live: Mapping[str, Any]) -> bool:
    """Whether the DaemonSet is ours, or the known implementation's."""
    return is_ours(live) or is_known(live)


def is_known(live: Mapping[str, Any]) -> bool:
    """Whether the DaemonSet was made by the known implementation, and is not ours yet."""
    selected = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return selected in _KNOWN_SELECTORS and not is_ours(live)


def made_from(desired: Mapping[str, Any]) -> dict[str, Any]:
    """The DaemonSet with the annotation by which a change of what is wanted is known when nothing may be patched."""
    data = metadata(desired)
    annotations = {**(data.get("annotations") or {}), MADE_FROM: _sealed(_wish(desired))}
    return {**desired, "metadata": {**data, "annotations": annotations}}


def unreadable(live: Mapping[str, Any]) -> str:
    """Which of our annotations on a DaemonSet can't be what we wrote, and are taken for absent; empty for none."""
    told = {
        MADE_FROM: "" if _made_from(live) else _told_made_from(live),
        BUILDER: "" if is_builder(told_builder(live)) else told_builder(live),
    }
    bad = [f"{name} ({text[:_SHOWN]})" for name, text in told.items() if text]
    return f"annotations of {describe(live)} can't be read and are ignored: {', '.join(bad)}" if bad else ""


def _is_made_from(live: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    told = _made_from(live)
    if not told:  # Made by somebody who may patch, or tampered with: its template tells.
        return revision(live["spec"]["template"]) == revision(desired["spec"]["template"])
    return told == _wish(desired)


def _made_from(live: Mapping[str, Any]) -> str:
    """What the annotation tells, if its seal is whole; else empty."""
    told = _told_made_from(live)
    wish = told.rpartition(".")[0]
    return wish if wish and told == _sealed(wish) else ""


def _told_made_from(live: Mapping[str, Any]) -> str:
    return str((metadata(live).get("annotations") or {}).get(MADE_FROM, ""))


def _sealed(wish: str) -> str:
    """With a sum, so that a slip of somebody's hand is no wish: under a narrow Role it would cost the DaemonSet."""
    return f"{wish}.{hashlib.sha256(wish.encode()).hexdigest()[:8]}"


def _create(desired: Mapping[str, Any], observed: Observed) -> Decision:
    if not observed.complete:
        return Decision("none", (f"whether {describe(desired)} exists could not be read",))
    return Decision("create", (f"{describe(desired)} does not exist",))


def _being_deleted(live: Mapping[str, Any], recreate: str, guard: Guard, now: datetime) -> Decision:
    name, asked = describe(live), read_time(metadata(live)["deletionTimestamp"])
    if recreate == "never":
        return Decision("none", (f"{name} is being deleted, and recreate=never makes no other",))
    finalizers = metadata(live).get("finalizers") or []
    age = (now - asked).total_seconds() if asked else 0.0
    if age < DELETION_GRACE:
        return Decision("wait", (f"{name} is being deleted",), again=_SOON)
    foreign = [finalizer for finalizer in finalizers if finalizer not in _COLLECTORS]
    if foreign:
        reason = (
            f"{name} has been in deletion for {age:.0f} s and is kept there by the finalizer {', '.join(foreign)}. "
            "Remedy: look at the controller that should take it off"
        )
        return Decision("none", (reason,))
    reason = f"{name} has been in deletion for {age:.0f} s: its deletion is finished without waiting for its pods"
    return _guarded(Decision("finish_deletion", (reason,)), guard, now)


def _recreate(reason: str, guard: Guard, now: datetime, observed: Observed) -> Decision:
    if not observed.complete:
        return Decision("none", (f"{reason}; not everything could be read, and so nothing is deleted",))
    return _guarded(Decision("recreate", (reason,)), guard, now)


def _guarded(decision: Decision, guard: Guard, now: datetime) -> Decision:
    """The decision if the guard lets it pass, with the next guard; else the pause, and why."""
    until = guard.paused_until("recreate", now)
    if until is None:
        return replace(decision, guard=guard.after("recreate", now))
    paused = f"recreating is paused until {show_time(until)}, because {guard.because('recreate')}"
    return Decision("none", (*decision.reasons, paused), again=(until - now).total_seconds(), paused=paused)


def _patch(
    desired: Mapping[str, Any], live: Mapping[str, Any], fields: Sequence[str], guard: Guard, now: datetime
) -> Decision:
    template = _wish(desired)
    reason = f"{describe(live)} differs in {_show(fields)}"
    until = guard.paused_until("patch", now, template)
    if until is None:
        return Decision("patch", (reason,), guard=guard.after("patch", now, template))
    paused = f"patching is paused until {show_time(until)}, because {guard.because('patch')}: somebody undoes it"
    return Decision("none", (reason, paused), again=(until - now).total_seconds(), paused=paused)


def _show(fields: Sequence[str]) -> str:
    return ", ".join([field for field in fields if not field.endswith(REVISION)] or fields)


def _wish(desired: Mapping[str, Any]) -> str:
    """What the guard counts patches for: a user who changes the DaemonSet's annotations wishes for something new."""
    annotations = json.dumps(metadata(desired).get("annotations") or {}, sort_keys=True)
    return f"{revision(desired['spec']['template'])}-{hashlib.sha256(annotations.encode()).hexdigest()[:8]}"


def _pods(
    live: Mapping[str, Any], observed: Observed, recreate: str, guard: Guard, now: datetime, max_unavailable: str
) -> Decision:
    """The DaemonSet is as it should be: end pods that are stuck, and bring the change to the next nodes."""
    if not observed.complete:
        return Decision("none")
    stuck, hopeless = _stuck_pods(observed, now)
    if hopeless and recreate != "never":
        reason = (
            f"the pod on {hopeless[0].node} does not go although it was deleted by force, so that no other can take "
            "its place"
        )
        return _recreate(reason, guard, now, observed)
    if stuck:
        reasons = tuple(f"the pod on {pod.node} has been ending for {POD_DELETION_GRACE / 60:.0f} min" for pod in stuck)
        return Decision("delete_pods", reasons, stuck)
    step = next_step(live, observed.pods, observed.report, max_unavailable, now)
    told = (step.sentence,) if step.sentence else ()
    again = 30.0 if step.in_flight and step.old else None
    if step.delete and live["spec"].get("updateStrategy", {}).get("type") == "OnDelete":
        return Decision("roll", told, step.delete, again=again, step=step)
    return Decision("none", told, again=again, step=step)


def _stuck_pods(observed: Observed, now: datetime) -> tuple[tuple[PodRef, ...], tuple[PodRef, ...]]:
    """Pods on ready nodes that were told to end long ago; and those that not even force has ended."""
    stuck: list[PodRef] = []
    hopeless: list[PodRef] = []
    ready = {node for node in observed.report.nodes if observed.report.is_ready(node)}
    for pod in observed.pods:
        data = pod["metadata"]
        asked = read_time(data.get("deletionTimestamp"))
        node = str(pod["spec"].get("nodeName") or "")
        if asked and node in ready and (now - asked).total_seconds() > POD_DELETION_GRACE:
            forced = data.get("deletionGracePeriodSeconds") == 0
            (hopeless if forced else stuck).append(PodRef(data["name"], data["uid"], node))
    return tuple(stuck), tuple(hopeless)


def judged(report: Report, decision: Decision) -> Report:
    """The report with what only the decision knows: a roll that goes on or was stopped, a pause of the guard."""
    step, reasons = decision.step, report.reasons
    if decision.action == "refuse":
        return replace(report, verdict="Degraded", reasons=(*decision.reasons, *reasons))
    if step.stopped:
        return replace(report, verdict="Degraded", reasons=(step.sentence, *reasons))
    if decision.paused:
        return replace(report, verdict="Degraded", reasons=(*decision.reasons, *reasons))
    if step.old and report.verdict in ("Healthy", "Progressing"):
        return replace(report, verdict="Progressing", reasons=(step.sentence, *reasons))
    going = [node for node in step.in_flight if report.excused.get(node) == TERMINATING]
    if going and report.verdict == "Healthy":  # A moment later the node counts again, with a pod that has just begun.
        nodes = "1 node" if len(going) == 1 else f"{len(going)} nodes"
        return replace(report, verdict="Progressing", reasons=(f"the pod on {nodes} is being exchanged", *reasons))
    return report
