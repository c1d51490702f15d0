# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a wait is, in one line, and how long it may still take. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import OLD_REVISION

_NAMED = 3


def progress(reports: Mapping[str, Report]) -> str:
    """What is there, what is pulled, what fails, and how long the rest takes, as far as anybody knows."""
    rows = [row for report in reports.values() for row in report.counted]
    if not rows:
        return "; ".join(reason for report in reports.values() for reason in report.reasons)
    states = Counter(row.state for row in rows)
    nodes = len({row.node for row in rows})
    parts = [f"{states['cached']} of {len(rows)} cached on {nodes} {'node' if nodes == 1 else 'nodes'}"]
    if states["pulling"]:
        parts.append(f"pulling {_names(row.name for row in rows if row.state == 'pulling')}")
    if states["waiting"]:
        parts.append(f"{states['waiting']} waiting")
    if states["failed"]:
        parts.append(f"failing {_names(f'{row.name} ({row.class_})' for row in rows if row.state == 'failed')}")
    if any(not row.settled for row in rows):
        left = seconds_left(rows)
        parts.append("time left unknown" if left is None else f"about {_duration(left)} left")
    return "; ".join(parts)


def seconds_left(rows: Sequence[Row]) -> float | None:
    """An estimate for the node that has most to pull, from what the same images took elsewhere; None: unknown.

    An image of which only the size is known takes as long as others took for each byte. While pods are exchanged a few
    at a time nobody knows.
    """
    seconds, sizes, rate = _known(rows)
    left: dict[str, float] = {}
    for row in rows:
        if row.reason == OLD_REVISION:
            return None
        if row.state in ("waiting", "pulling"):
            takes = seconds.get(row.name) or sizes.get(row.name, 0) * rate
            if not takes:
                return None
            left[row.node] = left.get(row.node, 0.0) + takes
    return max(left.values(), default=0.0)


def _known(rows: Iterable[Row]) -> tuple[dict[str, float], dict[str, int], float]:
    """Mean seconds of each image, sizes, and mean seconds for a byte (0: unknown)."""
    took: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    total_seconds, total_bytes = 0.0, 0
    for row in rows:
        if row.size:
            sizes[row.name] = row.size
        if row.pull_seconds is not None:
            took.setdefault(row.name, []).append(row.pull_seconds)
            total_seconds += row.pull_seconds if row.size else 0.0
            total_bytes += row.size or 0
    means = {name: sum(each) / len(each) for name, each in took.items()}
    return means, sizes, total_seconds / total_bytes if total_bytes else 0.0


def _names(names: Iterable[str]) -> str:
    counted = Counter(names)
    shown = [f"{name} on {count}" if count > 1 else name for name, count in counted.most_common(_NAMED)]
    return ", ".join(shown) + (f" and {len(counted) - _NAMED} more" if len(counted) > _NAMED else "")


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
