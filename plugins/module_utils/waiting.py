# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until every image is cached, and no longer than that can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    PERMANENT,
    Report,
    Row,
    failure_sentences,
)

# The kubelet tries again after 10 s: a host whose name is unknown for longer than that failed twice.
SECOND_TRY = 12.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0

_Key = tuple[str, str, str]  # Set, node, image.


class NotCached(Exception):
    """The wait ended without success; the text says which images, where, why, and what to do."""

    def __init__(self, message: str, reports: dict[str, Report]) -> None:
        super().__init__(message)
        self.reports = reports


def wait_until_cached(
    observers: Mapping[str, Callable[[], Report]],
    *,
    timeout: float,
    min_nodes: int = 1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Report]:
    """Observe sets until the verdict of each is Healthy, and raise :class:`NotCached` otherwise.

    Failures that only a person can mend end the wait at once, a host whose name is unknown at the second try. All
    others may pass, and are waited for.

    :param observers: how to look at each set, by what its sentences begin with (empty: nothing).
    :param timeout: seconds.
    :param min_nodes: with 0, a set that matches no node is fine (pools scale to zero).
    """
    start, pause = clock(), _FIRST_PAUSE
    unknown_since: dict[_Key, float] = {}
    before: list[tuple[Row, ...]] = []
    while True:
        reports = {name: observe() for name, observe in observers.items()}
        now = clock()
        pending = {name: report for name, report in reports.items() if not _is_enough(report, min_nodes)}
        if not pending:
            return reports
        unknown = [_key(name, row) for name, report in pending.items() for row in _failed(report, ("unknown_host",))]
        unknown_since = {key: unknown_since.get(key, now) for key in unknown}
        twice = {key for key, since in unknown_since.items() if now - since >= SECOND_TRY}
        hopeless = {name: why for name, report in pending.items() if (why := _hopeless(name, report, twice))}
        if hopeless:
            raise NotCached(_joined(hopeless), reports)
        if now - start >= timeout:
            why = _joined({name: " ".join(report.reasons) for name, report in pending.items()})
            raise NotCached(f"Not cached after {timeout:.0f} s: {why}", reports)
        rows = [report.rows for report in reports.values()]
        pause = _FIRST_PAUSE if rows != before else min(pause * 1.5, _LONGEST_PAUSE)
        before = rows
        sleep(min(pause, max(0.0, timeout - (now - start))))


def _is_enough(report: Report, min_nodes: int) -> bool:
    return report.verdict == "Healthy" or (report.verdict == "NoMatchingNodes" and min_nodes == 0)


def _hopeless(name: str, report: Report, twice: Collection[_Key]) -> str:
    """Why waiting can't help, empty where it may."""
    if report.verdict == "NoMatchingNodes":
        return (
            f"{'; '.join(report.reasons)}. Remedy: change node_selector, affinity or tolerations, or set min_nodes "
            "to 0 if the nodes are still to come"
        )
    second = [row for row in _failed(report, ("unknown_host",)) if _key(name, row) in twice]
    return " ".join(failure_sentences([*_failed(report, PERMANENT), *second]))


def _failed(report: Report, classes: Collection[str]) -> list[Row]:
    return [row for row in report.counted if row.state == "failed" and row.class_ in classes]


def _key(name: str, row: Row) -> _Key:
    return name, row.node, row.name


def _joined(sentences: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {sentence}" if name else sentence for name, sentence in sentences.items())
