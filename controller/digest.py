# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a report to those who don't read rows: numbers for /metrics, and sentences where something changed.

Pure. Nothing here grows with the number of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    STATES,
    Report,
    Row,
    failure_sentences,
)

NODE_STATES = ("complete", "incomplete", "excused", "skipped")
_WARNINGS = ("Absent", "Degraded", "NoMatchingNodes", "InvalidSettings")


@dataclass(frozen=True)
class Told:
    """One sentence for a Kubernetes Event: ``type`` is Normal or Warning, ``reason`` one word."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Digest:
    """Numbers of images on nodes by state, and of nodes by state; of each image where it fails (nodes by class)."""

    verdict: str
    reasons: tuple[str, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    pulling: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sentences: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Report) -> Digest:
        """In one pass through the rows."""
        states = dict.fromkeys(STATES, 0)
        pulling: Counter[str] = Counter({image.name: 0 for image in report.images})
        failed: dict[str, list[Row]] = {image.name: [] for image in report.images}
        incomplete: set[str] = set()
        for row in report.rows:
            if row.node in report.excused:
                continue
            states[row.state] += 1
            if row.state in ("pulling", "waiting", "failed"):
                incomplete.add(row.node)
            if row.state == "pulling":
                pulling[row.name] += 1
            elif row.state == "failed":
                failed[row.name].append(row)
        counted = len(report.nodes) - len(report.excused)
        numbers = (counted - len(incomplete), len(incomplete), len(report.excused), len(report.skipped))
        return cls(
            report.verdict,
            report.reasons,
            states,
            dict(zip(NODE_STATES, numbers, strict=True)),
            pulling,
            {name: Counter(row.class_ or "other" for row in rows) for name, rows in failed.items() if rows},
            {name: " ".join(failure_sentences(rows)) for name, rows in failed.items() if rows},
        )

    def sentence(self) -> str:
        """The verdict in one line."""
        rows = sum(self.states.values())
        told = f": {self.states.get('cached', 0)} of {rows} cached ({self._counted()} nodes)" if rows else ""
        return f"{self.verdict}{told}. {' '.join(self.reasons)}".strip()

    def _counted(self) -> int:
        return self.nodes.get("complete", 0) + self.nodes.get("incomplete", 0)


def transitions(before: Digest | None, after: Digest, published: str = "") -> Iterator[Told]:
    """What is worth an Event now: another verdict, an image that begins to fail, or fails otherwise, or no longer.

    :param before: None where this process has not judged yet.
    :param published: the verdict that was told last by whoever judged before this process.
    """
    if after.verdict != (before.verdict if before else published):
        type_ = "Warning" if after.verdict in _WARNINGS else "Normal"
        yield Told(type_, after.verdict, after.sentence())
    if before is None:
        return
    for name, classes in after.failed.items():
        if set(classes) - set(before.failed.get(name, ())):
            yield Told("Warning", "ImageFailed", after.sentences[name])
    for name in before.failed:
        if name not in after.failed and name in after.pulling:
            yield Told("Normal", "ImageRecovered", f"{name} does not fail any more")
