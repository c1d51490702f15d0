# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until every image is cached, and no longer than that can help."""

from __future__ import annotations

import time
from collections.abc import Callable

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    PERMANENT,
    Report,
    Row,
    failure_sentences,
)

# The kubelet tries again after 10 s: a host whose name is unknown for longer than that failed twice.
SECOND_TRY = 12.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0


class NotCached(Exception):
    """The wait ended without success; the text says which images, where, why, and what to do."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def wait_until_cached(
    observe: Callable[[], Report],
    *,
    timeout: float,
    min_nodes: int = 1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Observe until the verdict is Healthy, and raise :class:`NotCached` otherwise.

    Failures that only a person can mend end the wait at once, a host whose name is unknown at the second try. All
    others may pass, and are waited for.

    :param timeout: seconds.
    :param min_nodes: with 0, a set that matches no node is fine (pools scale to zero).
    """
    start, pause = clock(), _FIRST_PAUSE
    unknown_since: dict[tuple[str, str], float] = {}
    before: tuple[Row, ...] = ()
    while True:
        report, now = observe(), clock()
        if report.verdict == "Healthy":
            return report
        if report.verdict == "NoMatchingNodes":
            if min_nodes == 0:
                return report
            raise NotCached(
                f"{'; '.join(report.reasons)}. Remedy: change node_selector, affinity or tolerations, or set min_nodes "
                "to 0 if the nodes are still to come",
                report,
            )
        failed = [row for row in report.counted if row.state == "failed"]
        unknown_since = {
            (row.node, row.name): unknown_since.get((row.node, row.name), now)
            for row in failed
            if row.class_ == "unknown_host"
        }
        final = [
            row
            for row in failed
            if row.class_ in PERMANENT or now - unknown_since.get((row.node, row.name), now) >= SECOND_TRY
        ]
        if final:
            raise NotCached(" ".join(failure_sentences(final)), report)
        if now - start >= timeout:
            raise NotCached(f"Not cached after {timeout:.0f} s: {' '.join(report.reasons)}", report)
        pause = _FIRST_PAUSE if report.rows != before else min(pause * 1.5, _LONGEST_PAUSE)
        before = report.rows
        sleep(min(pause, max(0.0, timeout - (now - start))))
