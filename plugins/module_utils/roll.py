# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging the pods after a change, a few nodes at a time: which pods go next. Pure, and without a memory.

Everything follows from the pods as they are, so that a controller that starts in the middle goes on from there. A node
is done when each image of its new pod is cached or has failed; one that can't be pulled keeps no other from any node.
A change that brings nothing but images that can't be pulled goes no further than the first nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import held_images, is_current
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import OTHER_DIGEST
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    PERMANENT,
    REMEDIES,
    TERMINATING,
    Report,
    Row,
    pods_by_node,
    read_time,
)

# Seconds that a new pod has before its node is given up, and before a pull that may still succeed counts as failed.
PATIENCE, FAILED_PATIENCE = 900.0, 60.0
_UNOBTAINABLE = PERMANENT - {OTHER_DIGEST}  # An image that is not the locked one was pulled all the same.


@dataclass(frozen=True)
class PodRef:
    """A pod, by what a precondition needs."""

    name: str
    uid: str
    node: str


@dataclass(frozen=True)
class Step:
    """Where a roll is: ``delete`` now; ``old`` and ``updated`` nodes, those ``in_flight``; ``stopped``: why.

    ``waits``: it is stopped since nothing that it brings has arrived yet, and nothing is worse for it.
    """

    delete: tuple[PodRef, ...] = ()
    old: int = 0
    updated: int = 0
    in_flight: tuple[str, ...] = ()
    stopped: str = ""
    waits: bool = False

    @property
    def sentence(self) -> str:
        """How far the roll is; empty when there is none."""
        if not self.old:
            return ""
        reached = f"the change has reached {self.updated} of {self.updated + self.old} nodes"
        if not self.stopped:
            return reached
        return f"the roll {'waits' if self.waits else 'is stopped'}, {reached}: {self.stopped}"


def next_step(
    daemonset: Mapping[str, Any],
    pods: Iterable[Mapping[str, Any]],
    report: Report,
    max_unavailable: str,
    now: datetime,
) -> Step:
    """Which pods to delete, so that never more than ``max_unavailable`` nodes are without their images held.

    :param pods: the DaemonSet's pods.
    :param report: what ``assess`` made of the same pods; its excused nodes (dead, cordoned, going) stall nothing.
    :param max_unavailable: a number of nodes or a percentage of those that count, rounded up.
    """
    by_node = pods_by_node(pods)
    rows = _rows_by_node(report)
    nodes = [node for node in report.nodes if report.excused.get(node) in (None, TERMINATING)]
    old, done, in_flight = [], [], []
    given_up = _given_up(daemonset, by_node, rows, now)
    for node in nodes:
        pod = by_node.get(node)
        ending = None if pod is None else _seconds_since(pod, "deletionTimestamp", now)
        if pod is None or ending is not None:
            in_flight += [node] if (ending or 0.0) <= PATIENCE else []
        elif not is_current(daemonset, pod):
            old.append(node)
        elif _age(pod, now) > PATIENCE or all(_is_settled(row, given_up) for row in rows[node]):
            done.append(node)
        else:
            in_flight.append(node)
    updated = len(nodes) - len(old)
    if not old:
        return Step(updated=updated, in_flight=tuple(in_flight))
    stopped = _stopped(old, done, rows)
    waits = "" if stopped else _brings_nothing(daemonset, old, done, by_node, rows)
    if stopped or waits:
        return Step((), len(old), updated, tuple(in_flight), stopped or waits, bool(waits))
    # A canary first. Those that are best off go before the others: what fails there fails because of the change.
    budget = allowance(max_unavailable, len(nodes)) if done else 1
    order = sorted(old, key=lambda node: (-sum(row.held for row in rows[node]), node))
    going = [_ref(by_node[node], node) for node in order[: max(0, budget - len(in_flight))]]
    return Step(tuple(going), len(old), updated, tuple(in_flight))


def _rows_by_node(report: Report) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {node: [] for node in report.nodes}
    for row in report.rows:
        rows[row.node].append(row)
    return rows


def _is_settled(row: Row, given_up: Set[tuple[str, str | None]]) -> bool:
    """Whether the image is held or has finally failed."""
    return row.settled and (row.state != "failed" or row.class_ in PERMANENT or (row.name, row.class_) in given_up)


def _given_up(
    daemonset: Mapping[str, Any],
    by_node: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[Row]],
    now: datetime,
) -> set[tuple[str, str | None]]:
    """Name and class of failures that might have passed and did not on some node: no other waits for the same."""
    return {
        (row.name, row.class_)
        for node, pod in by_node.items()
        if _age(pod, now) > FAILED_PATIENCE and is_current(daemonset, pod)
        for row in rows.get(node, ())
        if row.state == "failed"
    }


def too_many(bad: Sequence[str], reached: int) -> bool:
    """Whether a change is not to go on: it went badly on one in ten of the nodes that it has reached."""
    return bool(bad) and len(bad) * 10 >= reached


def _stopped(old: Sequence[str], done: Sequence[str], rows: Mapping[str, Sequence[Row]]) -> str:
    """Why not to go on: images that the old pods hold and the new ones, where they have had their time, don't."""
    held_before = {row.name for node in old for row in rows[node] if row.held}
    worse = [
        row
        for node in done
        for row in rows[node]
        if row.name in held_before and not row.held and row.state not in ("not_applicable", "released")
    ]
    nodes = sorted({row.node for row in worse})
    if not too_many(nodes, len(done)):
        return ""
    first = worse[0]
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return (
        f"{first.name} ({first.image}) is held by the old pods and not by the new one on {first.node}{more} "
        f"({_said(first)}). The other nodes keep their pods. Remedy: take the change back, or mend what the message "
        "says"
    )


def _brings_nothing(
    daemonset: Mapping[str, Any],
    old: Sequence[str],
    done: Sequence[str],
    by_node: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[Row]],
) -> str:
    """Why to wait: none of the images that old pods lack can be pulled where the change is, and none ever will be.

    One that arrives on a single node takes the change to all of them.
    """
    failed = [row for node in done for row in rows[node] if row.state == "failed" and row.class_ in _UNOBTAINABLE]
    if not failed:
        return ""
    former = [held_images(by_node[node]["spec"]) for node in old]
    wanted = held_images(daemonset["spec"]["template"]["spec"])
    new = {name for name, image in wanted.items() if any(held.get(name) != image for held in former)}
    failed = [row for row in failed if row.name in new]
    if not failed or len(failed) < sum(row.name in new for node in done for row in rows[node]):
        return ""
    first, others = failed[0], len({row.name for row in failed}) - 1
    more = f" and {others} more new {'image' if others == 1 else 'images'}" if others else ""
    return (
        f"{first.name} ({first.image}){more} can't be pulled on {first.node}: {_said(first).rstrip('.')}. The other "
        "nodes keep their pods. It goes on by itself as soon as a new image arrives. Remedy: "
        f"{REMEDIES[str(first.class_)]}, or take the change back"
    )


def _said(row: Row) -> str:
    return " ".join((row.message or row.reason or row.state).split())


def allowance(max_unavailable: str, nodes: int) -> int:
    """How many nodes ``max_unavailable`` means, a number or a percentage of these, rounded up; at least one."""
    if max_unavailable.endswith("%"):
        return max(1, -(-nodes * int(max_unavailable[:-1]) // 100))
    return max(1, int(max_unavailable))


def _age(pod: Mapping[str, Any], now: datetime) -> float:
    return _seconds_since(pod, "creationTimestamp", now) or 0.0


def _seconds_since(pod: Mapping[str, Any], what: str, now: datetime) -> float | None:
    moment = read_time(pod["metadata"].get(what))
    return (now - moment).total_seconds() if moment else None


def _ref(pod: Mapping[str, Any], node: str) -> PodRef:
    return PodRef(pod["metadata"]["name"], pod["metadata"]["uid"], node)
