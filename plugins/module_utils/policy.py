# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wait waits for: which images, on how many nodes, and what may be missing. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import REMEDIES
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    InvalidSettings,
    Problem,
    Settings,
    read_mapping,
)

_KEY = "wait_for"
_EXAMPLE = '{"nodes": "95%", "images": ["java11"], "excuse": ["spot-*", "no_space"]}'
_FIELDS = {"nodes": object, "images": object, "excuse": object}


@dataclass(frozen=True)
class Policy:
    """``nodes``: a number or a percentage of those that count. ``images``: names, None for all.

    ``excused_nodes`` are patterns of node names and ``excused_classes`` classes of failures that may be missing.
    ``min_nodes``: so many nodes must match at all.
    """

    nodes: str = "100%"
    images: frozenset[str] | None = None
    excused_nodes: tuple[str, ...] = ()
    excused_classes: frozenset[str] = frozenset()
    min_nodes: int = 1

    @property
    def asks_for_all(self) -> bool:
        """Whether nothing may be missing, so that the verdict tells all."""
        return self == Policy(min_nodes=self.min_nodes)

    def is_met(self, report: Report) -> bool:
        """Whether there is what is waited for."""
        if report.verdict == "NoMatchingNodes":
            return self.min_nodes == 0
        if max(1, report.expected) < self.min_nodes or report.verdict in ("Absent", "InvalidSettings"):
            return False
        if self.asks_for_all:
            return report.verdict == "Healthy"
        complete, needed = self.progress(report)
        return complete >= needed

    def progress(self, report: Report) -> tuple[int, int]:
        """On how many nodes everything is there that is waited for, and on how many it must be."""
        nodes = self._nodes(report)
        lacking = {row.node for row in self._rows(report) if not self._is_there(row)}
        return len(nodes - lacking), self._needed(report, len(nodes))

    def final(self, report: Report, classes: Collection[str], twice: Collection[str] = ()) -> list[Row]:
        """The failures of these classes that keep the policy from being met for good; none where it still can be.

        :param twice: names of images whose unknown host has failed a second time.
        """
        rows = [
            row
            for row in self._rows(report)
            if row.state == "failed" and not self._is_there(row)
            if row.class_ in classes or (row.class_ == "unknown_host" and (row.name in twice or row.tries > 1))
        ]
        nodes = len(self._nodes(report))
        possible = nodes + _missing(report) - len({row.node for row in rows})
        return rows if rows and possible < self._needed(report, nodes) else []

    def require_images_of(self, sets: Iterable[Settings | None]) -> None:
        """InvalidSettings, if a name is waited for that no image of these sets has."""
        known = {image.name for settings in sets if settings for image in settings.images}
        unknown = sorted((self.images or frozenset()) - set(known))
        if unknown:
            what = "no image has this name"
            raise InvalidSettings(
                [_problem("images", name, what, f"write {_nearest(name, known)}") for name in unknown]
            )

    def short(self, counted: int, matching: int) -> str:
        """Where so many nodes are asked for as there are not; empty where there are.

        More may join, as autoscaled pools grow, so that this ends no wait before its time.

        :param counted: nodes that match and are not excused; :param matching: those that match.
        """
        if not self.nodes.endswith("%") and int(self.nodes) > counted:
            return f"wait_for asks for {_count(int(self.nodes))}, and there {_are(counted)}"
        if max(1, matching) < self.min_nodes:
            return f"min_nodes asks for {_count(self.min_nodes)}, and there {_are(matching)}"
        return ""

    def short_of(self, report: Report) -> str:
        """The same of what a report tells."""
        return self.short(len(self._nodes(report)) + _missing(report), report.expected)

    def _nodes(self, report: Report) -> set[str]:
        return {node for node in report.nodes if node not in report.excused and not self.excuses(node)}

    def excuses(self, node: str) -> bool:
        """Whether the images may be missing on a node."""
        return any(fnmatch.fnmatchcase(node, pattern) for pattern in self.excused_nodes)

    def _rows(self, report: Report) -> list[Row]:
        nodes = self._nodes(report)
        return [row for row in report.counted if row.node in nodes and (not self.images or row.name in self.images)]

    def _is_there(self, row: Row) -> bool:
        return row.settled and (row.state != "failed" or row.class_ in self.excused_classes)

    def _needed(self, report: Report, nodes: int) -> int:
        if self.nodes.endswith("%"):
            return -(-(nodes + _missing(report)) * int(self.nodes[:-1]) // 100) or 1
        return int(self.nodes)


EVERYTHING = Policy()


def _count(nodes: int) -> str:
    return f"{nodes} node{'' if nodes == 1 else 's'}"


def _are(nodes: int) -> str:
    return "is 1" if nodes == 1 else f"are {nodes}"


def _missing(report: Report) -> int:
    """Nodes that are known only by number: those without a pod, where nodes are inferred from their pods."""
    return max(0, report.expected - len(report.nodes)) if report.inferred else 0


def read_policy(wait_for: object, min_nodes: int = 1, wait_timeout: int = 0) -> Policy:
    """The policy that the options ask for; InvalidSettings names everything that is wrong with them."""
    given, problems = read_mapping(_KEY, wait_for, _FIELDS, _EXAMPLE)
    for option, number in (("min_nodes", min_nodes), ("wait_timeout", wait_timeout)):
        if number < 0:
            problems.append(Problem(option, str(number), "it is below 0", "write 0 or more"))
    nodes, images, excuse = (given.get(name) for name in _FIELDS)
    wanted = "100%" if nodes in (None, "", "all") else _read_nodes(nodes, problems)
    names = None if images in (None, "", "all") else frozenset(_read_names("images", images, problems))
    patterns, classes = _read_excuse(_read_names("excuse", excuse or [], problems), problems)
    if problems:
        raise InvalidSettings(problems)
    return Policy(wanted, names, patterns, classes, min_nodes)


def _read_nodes(value: object, problems: list[Problem]) -> str:
    match = re.fullmatch(r"([0-9]{1,6})(%?)", str(value).strip())
    number = int(match.group(1)) if match and not isinstance(value, bool) else 0
    if not match or number < 1 or (match.group(2) and number > 100):
        what = "it is neither a number of nodes nor a percentage of them"
        problems.append(_problem("nodes", str(value), what, "write 1 or more, or 1% to 100%"))
        return "100%"
    return f"{number}{match.group(2)}"


def _read_names(field: str, value: object, problems: list[Problem]) -> list[str]:
    """A list of names, or the same as text with commas, semicolons or white space between them."""
    names = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
    is_empty = not names and field == "images"
    if isinstance(names, list) and all(isinstance(name, str) and name for name in names) and not is_empty:
        return names
    problems.append(_problem(field, str(value), "it is no list of names", 'write a list such as ["java11", "theia"]'))
    return []


def _read_excuse(entries: Iterable[str], problems: list[Problem]) -> tuple[tuple[str, ...], frozenset[str]]:
    """What is the name of a class is a class, everything else a node's name in which * and ? may stand."""
    patterns, classes = [], set()
    for entry in entries:
        if entry in REMEDIES:
            classes.add(entry)
        elif re.fullmatch(r"[a-z0-9.*?-]+", entry):
            patterns.append(entry)
        else:
            what = "it is neither a class of failures nor the name of a node"
            remedy = f"write {_nearest(entry, REMEDIES)}, or a name such as spot-*"
            problems.append(_problem("excuse", entry, what, remedy))
    return tuple(patterns), frozenset(classes)


def _problem(field: str, value: str, what: str, remedy: str) -> Problem:
    return Problem(f"{_KEY}.{field}", value, what, remedy)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return (difflib.get_close_matches(name, names, n=1) or [" or ".join(names[:5]) + ("..." if names[5:] else "")])[0]
