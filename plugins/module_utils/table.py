# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as lines of plain text, for a terminal and for a log alike."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import OURS

_COUNTS = ("nodes", "cached", "pulling", "waiting", "failed")
_REASON = 12  # Columns that the reason has at least: the longest class.
_NAMED = 3  # Names that a sentence lists before it counts the rest.


def table(report: Mapping[str, Any], width: int, notes: Iterable[str] = ()) -> list[str]:
    """The result of image_puller_info as lines of ASCII, none longer than ``width`` (at least 60).

    The first line is the verdict. Below the table stands everything that needs a sentence: what failed with the
    kubelet's words and the remedy, what is waited for, which nodes do not count and why, and the notes.
    """
    sections = [_headline(report, width)]
    if report["images"] and report["summary"]["nodes"]:
        sections.append(_grid(report["images"], width))
    sections.append([line for sentence in (*_sentences(report), *notes) for line in bullet(sentence, width)])
    return [line for section in sections if section for line in ("", *section)][1:]


def tables(sets: Sequence[Mapping[str, Any]], width: int, notes: Iterable[str] = ()) -> list[str]:
    """The sets of image_puller_info as lines: the table of the only one, or of each under its heading.

    Of several sets the first line says how many are healthy. The notes are below all.
    """
    if len(sets) == 1:
        return table(sets[0]["report"], width, notes)
    healthy = sum(set_["report"]["verdict"] == "Healthy" for set_ in sets)
    lines = [f"{healthy} of {len(sets)} sets of images {'is' if healthy == 1 else 'are'} healthy"]
    for set_ in sets:
        heading = f"Group {set_['group']}" if set_["group"] else f"ConfigMap {set_['config_map_name']}"
        lines += ["", heading, "-" * len(heading), *table(set_["report"], width)]
    told = [line for note in notes for line in bullet(note, width)]
    return lines + (["", *told] if told else [])


def bullet(sentence: str, width: int) -> list[str]:
    """The sentence as a wrapped item of a list; the kubelet's words and the remedy begin on a line of their own."""
    lines: list[str] = []
    for part in re.split(r" (?=The kubelet says: |Remedy: )", _plain(sentence)):
        lines += _wrap(part, width, "  " if lines else "- ")
    return lines


class _Wrapper(textwrap.TextWrapper):
    """Breaks what is longer than a line behind its slashes: image references are, at times."""

    def _split(self, text: str) -> list[str]:
        room = self.width - len(self.subsequent_indent)
        words = super()._split(text)
        return [part for word in words for part in (re.split(r"(?<=/)", word) if len(word) > room else [word])]


def _wrap(text: str, width: int, first: str = "") -> list[str]:
    return _Wrapper(width, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False).wrap(text)


def _headline(report: Mapping[str, Any], width: int) -> list[str]:
    daemonset, summary = report["daemonset"], report["summary"]
    name = f"DaemonSet {daemonset['namespace']}/{daemonset['name']}" if daemonset else "Image Puller"
    lines = _wrap(f"{report['verdict']}: {_plain(name)}", width)
    if summary["nodes"]:
        there = sum(0 < image["nodes"] == image["cached"] for image in report["images"])
        nodes = {1: "the node", 2: "both nodes"}.get(summary["nodes"], f"all {summary['nodes']} nodes")
        lines.append(f"{there} of {_number(summary['images'], 'image')} cached on {nodes}")
    return lines


def _grid(images: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    counts = "".join(f" {name.upper()}" for name in _COUNTS)
    room = width - len(counts) - 1 - _REASON
    column = min(room, max(len(_plain(image["name"])) for image in images))
    column = max(column, len("IMAGE"))
    reason = width - column - len(counts) - 1
    lines = [f"{'IMAGE':{column}}{counts} REASON"]
    for image in images:
        name = _plain(image["name"])
        if len(name) > column:
            lines.append(name)
            name = ""
        numbers = "".join(f" {image[key] or '-':>{len(key)}}" for key in _COUNTS)
        why = _plain(image["class"] or image["reason"] or "")
        why = why if len(why) <= reason else why[: reason - 3] + "..."
        lines.append(f"{name:{column}}{numbers} {why}".rstrip())
    return lines


def _sentences(report: Mapping[str, Any]) -> Iterable[str]:
    yield from dict.fromkeys((*report["reasons"], *report["problems"]))
    untold: dict[tuple[str | None, str], list[str]] = {}
    for image in report["images"]:
        # What failed is among the reasons, in full, and so is some of what is waited for.
        if image["message"] and not image["failed"] and not any(image["message"] in why for why in report["reasons"]):
            untold.setdefault((image["reason"], image["message"]), []).append(image["name"])
    for (reason, message), names in untold.items():
        yield f"{_names(names)}: {'' if reason in (None, *OURS) else f'{reason}: '}{message}"
    for key in ("excused", "skipped"):
        for told in report[key]:
            yield f"{_number(told['nodes'], 'node')} {key} ({_names(told['names'], told['nodes'])}): {told['why']}"
    if report["inferred"]:
        yield "The nodes were not read: what is said of them is inferred from the pods"


def _names(names: Sequence[str], count: int = 0) -> str:
    more = max(count, len(names)) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    """ASCII without control characters: a registry's words must not reach a terminal as commands."""
    ascii_text = text.encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else " " for character in ascii_text)
