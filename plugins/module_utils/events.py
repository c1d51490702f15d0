# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What events tell of images on their way: the witness that speaks first, and falls silent first. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import NOT_ITS_TURN, redact

# Reasons of events that tell nothing of images, which need not be asked for.
UNTOLD = ("Scheduled", "Killing", "SuccessfulCreate", "SuccessfulDelete")
# A kubelet drops what goes beyond so many events for one pod (and lets one more through every five minutes).
BURST = 25

_PULLING = re.compile(r'^Pulling image "([^"]+)"')
# Kubelets before 1.30 tell no size, those before 1.27 only one duration.
_PULLED = re.compile(r'^Successfully pulled image "([^"]+)"(?: in ([0-9][0-9.hmsuµn]*))?(?:.*Image size: (\d+) bytes)?')
_PRESENT = re.compile(r'^Container image "([^"]+)" already present')
_FAILED = re.compile(r'^Failed to (?:pull image|apply default image tag) "([^"]+)": (.*)', re.DOTALL)
# Beyond ten events that differ only in their message one goes on for all (of image volumes, which are all the pod's).
COMBINED = "(combined from similar events): "
_CONTAINER = re.compile(r"^spec\.containers\{(.+)\}$")
# Why a pod gets no container at all.
_TROUBLES = ("FailedCreatePodSandBox", "FailedMount", "FailedAttachVolume", "NetworkNotReady")


class Pull(NamedTuple):
    """The last that was told of one image of one pod.

    ``state`` is pulling, cached or failed, and ``since`` when it began. ``message`` is what the last failed try said,
    also while it is pulled again; that it was not its turn is said only where nothing else was.
    ``tries``: failures that were told of.
    """

    state: str
    since: str | None = None
    message: str = ""
    seconds: float | None = None
    size: int | None = None
    tries: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether a try has failed by more than the kubelet's own limit of pulls."""
        return bool(self.message) and NOT_ITS_TURN not in self.message


@dataclass
class Events:
    """What was told of a DaemonSet and its pods, by uid of the pod.

    ``started``: containers that were started. ``troubles``: why no container is. ``told``: events of the pod's kubelet.
    ``failed_create``: what the DaemonSet controller said last when it could not create pods: a quota, or admission.
    ``arrived``: when the last image arrived.
    """

    pulls: dict[tuple[str, str], Pull] = field(default_factory=dict)
    started: set[tuple[str, str]] = field(default_factory=set)
    troubles: dict[str, tuple[str, str]] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    failed_create: str | None = None
    arrived: str = ""

    def is_silent(self, uid: str) -> bool:
        """Whether the kubelet has told of the pod all that it tells, so that more may have happened since."""
        return self.told[uid] >= BURST


def read_events(events: Iterable[Mapping[str, Any]]) -> Events:
    """Read events of pods and of the DaemonSet, in any order; those of a pod's images count by their time."""
    read = Events()
    newest: dict[Any, tuple[str, bool]] = {}
    for event in events:
        uid = (event.get("involvedObject") or {}).get("uid", "")
        reason, message, at = event.get("reason") or "", event.get("message") or "", event_time(event)
        if reason == "FailedCreate":
            if (at, True) >= newest.get(reason, ("", False)):
                newest[reason], read.failed_create = (at, True), redact(message)
            continue
        if _is_kubelets(event):
            read.told[uid] += event.get("count") or 1
        if reason == "Started" and (container := _container(event)):
            read.started.add((uid, container))
        elif reason in _TROUBLES and (at, True) >= newest.get(uid, ("", False)):
            newest[uid], read.troubles[uid] = (at, True), (reason, redact(message))
        elif found := _pull(event, message, at):
            key = (uid, found[0])
            # Within the same second a pull begins before it ends.
            order = (at, found[1].state != "pulling")
            read.pulls[key] = _joined(read.pulls.get(key), found[1], order >= newest.get(key, ("", False)))
            newest[key] = max(order, newest.get(key, order))
            if found[1].state == "cached":
                read.arrived = max(read.arrived, at)
    return read


def _pull(event: Mapping[str, Any], message: str, at: str) -> tuple[str, Pull] | None:
    """The image, and what this one event tells of it."""
    since, first, tries = at or None, event.get("firstTimestamp"), event.get("count") or 1
    if message.startswith(COMBINED):  # It tells of the last one; its count and its beginning are of all.
        message, first, tries = message.removeprefix(COMBINED), None, 1
    if match := _PULLING.match(message):
        return match.group(1), Pull("pulling", since)
    if match := _PULLED.match(message):
        size = int(match.group(3)) if match.group(3) else None
        return match.group(1), Pull("cached", since, "", go_seconds((match.group(2) or "").rstrip(".")), size)
    if match := _PRESENT.match(message):
        return match.group(1), Pull("cached", since)
    if match := _FAILED.match(message):
        return match.group(1), Pull("failed", first or since, redact(match.group(2)), tries=tries)
    return None


def _joined(known: Pull | None, told: Pull, is_newer: bool) -> Pull:
    """What two events tell together; of two that say it is there, the one that saw it arrive is the better witness."""
    if known is None:
        return told
    last, other = (told, known) if is_newer else (known, told)
    if last.state == other.state == "cached" and last.seconds is None and last.size is None:
        return other
    if last.state == "cached":
        return last
    answer = last if last.is_answered or not other.message else other
    return Pull(last.state, last.since, answer.message, tries=max(last.tries, other.tries))


def _is_kubelets(event: Mapping[str, Any]) -> bool:
    component = (event.get("source") or {}).get("component") or event.get("reportingComponent")
    return component in (None, "", "kubelet")


def _container(event: Mapping[str, Any]) -> str | None:
    match = _CONTAINER.match((event.get("involvedObject") or {}).get("fieldPath") or "")
    return match.group(1) if match else None


def without(reasons: Iterable[str]) -> str:
    """The field selector of events with other reasons than these; field selectors know only "and"."""
    return ",".join(f"reason!={reason}" for reason in reasons)


def event_time(event: Mapping[str, Any]) -> str:
    """When it was told last, as text that sorts; empty where the event does not say."""
    series = event.get("series") or {}
    told = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, (*told, event["metadata"].get("creationTimestamp"))), ""))


def go_seconds(text: str) -> float | None:
    """Seconds of a Go duration such as ``1m2.5s`` or ``33ms``; None for anything else."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    parts = re.findall(r"([0-9]*\.?[0-9]+)(ms|us|µs|ns|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return round(sum(float(number) * units[unit] for number, unit in parts), 6)
