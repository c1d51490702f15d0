# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until what a policy asks for is cached, and no longer than that can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import PERMANENT, Report, failure_sentences
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import EVERYTHING, Policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.progress import progress

# The kubelet tries again after 10 s: a host whose name is unknown for longer than that failed twice.
SECOND_TRY = 12.0
_FIRST_PAUSE, _QUIET_PAUSE, _LONGEST_PAUSE = 0.5, 1.0, 5.0
_SHARE = 4  # Looking takes at most a fifth of the time, so that waiting for a large cluster is no burden on its API.


class NotCached(Exception):
    """The wait ended without success; the text says which images, where, why, and what to do."""

    def __init__(self, message: str, reports: dict[str, Report], timed_out: bool = False) -> None:
        super().__init__(message)
        self.reports = reports
        self.timed_out = timed_out


@dataclass(frozen=True)
class Slice:
    """How far a wait is that is made in slices: of ``seconds``, None for one without an end of its own.

    ``waited``: seconds before this slice. ``unknown``: image of a set -> a node that does not know its host, and since
    which second of the wait.
    """

    seconds: float | None = None
    waited: float = 0.0
    unknown: Mapping[str, Any] = field(default_factory=dict)


WHOLE = Slice()
# What keeps the controller from running, empty if nothing does, and whether waiting can't help.
Controller = Callable[[], tuple[str, bool]]


@dataclass(frozen=True)
class Waited:
    """What was seen last; ``slice_`` is the next one where the wait is not over, ``progress`` how far it is."""

    reports: dict[str, Report]
    slice_: Slice | None = None
    progress: str = ""


def wait_until_cached(
    observers: Mapping[str, Callable[[], Report]],
    *,
    timeout: float,
    policy: Policy = EVERYTHING,
    slice_: Slice = WHOLE,
    controller: Controller = lambda: ("", False),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Waited:
    """Observe sets until each has what the policy asks for, and the controller runs; :class:`NotCached` otherwise.

    Failures that only a person can mend end the wait at once, a host whose name is unknown at the second try. All
    others may pass, and are waited for. So is an API server that does not answer, up to the end: an ApiError then.

    :param observers: how to look at each set, by what its sentences begin with (empty: nothing).
    :param timeout: seconds of the whole wait.
    :param controller: how to look at the controller, where one is waited for.
    """
    start, pause, unknown = clock() - slice_.waited, _FIRST_PAUSE, dict(slice_.unknown)
    end_of_slice = slice_.waited + (timeout if slice_.seconds is None else slice_.seconds)
    before: list[Any] = []
    reports: dict[str, Report] = {}
    while True:
        looked = clock()
        found = _look(observers, controller)
        now, cost = clock() - start, clock() - looked
        if isinstance(found, ApiError):
            held_up = str(found)
            if now >= timeout:
                raise found
        else:
            reports, (held_up, final) = found
            pending = {name: report for name, report in reports.items() if not policy.is_met(report)}
            if not pending and not held_up:
                return Waited(reports)
            unknown = _unknown(pending, unknown, now)
            twice = {key for key, (_node, since) in unknown.items() if now - since >= SECOND_TRY}
            if hopeless := {name: why for name in pending if (why := _hopeless(name, reports[name], policy, twice))}:
                raise NotCached(_joined(hopeless), reports)
            if final:
                raise NotCached(held_up, reports)
            if now >= timeout:
                why = _joined({name: _lacking(report, policy) for name, report in pending.items()})
                why = " ".join(filter(None, (why, held_up)))
                raise NotCached(f"Not cached after {timeout:.0f} s: {why}", reports, timed_out=True)
        if reports and now >= end_of_slice:
            line = "; ".join(filter(None, (progress(reports), held_up)))
            return Waited(reports, Slice(slice_.seconds, now, unknown), line)
        seen: list[Any] = [(report.verdict, report.rows) for report in reports.values()]
        pause = _FIRST_PAUSE if seen != before else min(pause * 1.2, _QUIET_PAUSE)
        before = seen
        until = min(timeout, end_of_slice) if now < end_of_slice else timeout
        sleep(min(max(pause, min(_SHARE * cost, _LONGEST_PAUSE)), until - now))


def _look(
    observers: Mapping[str, Callable[[], Report]], controller: Controller
) -> tuple[dict[str, Report], tuple[str, bool]] | ApiError:
    """What is to be seen now, or why not, where that may pass: an API server that starts anew, or asks for patience."""
    try:
        return {name: observe() for name, observe in observers.items()}, controller()
    except ApiError as error:
        if not error.transient:
            raise
        return error


def _unknown(reports: Mapping[str, Report], before: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Of each image whose host is unknown one node, and since when: the same as before while it still fails there."""
    found: dict[str, set[str]] = {}
    for name, report in reports.items():
        for row in report.counted:
            if row.class_ == "unknown_host" and row.state == "failed":
                found.setdefault(_key(name, row.name), set()).add(row.node)
    known = {key: before[key] for key, nodes in found.items() if key in before and before[key][0] in nodes}
    return {key: known.get(key) or [min(nodes), now] for key, nodes in found.items()}


def _hopeless(name: str, report: Report, policy: Policy, twice: Collection[str]) -> str:
    """Why waiting can't help, empty where it may."""
    if report.verdict == "NoMatchingNodes":
        return (
            f"{'; '.join(report.reasons)}. Remedy: change node_selector, affinity or tolerations, or set min_nodes "
            "to 0 if the nodes are still to come"
        )
    images = {row.name for row in report.counted if _key(name, row.name) in twice}
    return " ".join(failure_sentences(policy.final(report, PERMANENT, images)))


def _lacking(report: Report, policy: Policy) -> str:
    """What is still missing at the end, and what to do."""
    sentences = list(report.reasons)
    if not policy.asks_for_all:
        complete, needed = policy.progress(report)
        sentences.insert(0, f"{complete} of {needed} nodes have what wait_for asks for")
    if short := policy.short_of(report):
        sentences.insert(0, f"{short}. Remedy: ask for fewer, or wait until more nodes have joined")
    if not any("Remedy: " in sentence for sentence in sentences):
        sentences.append("Remedy: raise wait_timeout, or look at what holds it up")
    return " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)


def _key(set_name: str, image_name: str) -> str:
    return f"{set_name}/{image_name}"


def _joined(sentences: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {sentence}" if name else sentence for name, sentence in sentences.items())
