# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as lines of plain text, for a terminal and for a log alike."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import show_bytes
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import OURS

_COUNTS = ("nodes", "cached", "pulling", "waiting", "failed")
_REASON = 12  # Columns that the reason has at least: the longest class.
_COSTS = {
    "cpu_requests": "CPU requests",
    "cpu_limits": "CPU limits",
    "memory_requests": "memory requests",
    "memory_limits": "memory limits",
    "pods": "pods",
    "disk": "disk (estimate)",
}
_FREE = {"cpu_requests": "cpu", "memory_requests": "memory", "pods": "pods", "disk": "disk"}
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


def plan_table(plan: Mapping[str, Any], width: int, notes: Iterable[str] = ()) -> list[str]:
    """A plan (see preflight.py) as lines of ASCII, none longer than ``width`` (at least 60).

    The first line is the verdict; then what is cached, what it costs, and, errors first, what stands against it.
    """
    sections = [_plan_headline(plan, width), _plan_images(plan["images"], width), _plan_costs(plan, width)]
    if plan["quotas"]:
        columns = ("name", "resource", "needed", "used", "hard")
        rows = [[_plain(str(quota[column])) for column in columns] for quota in plan["quotas"]]
        sections.append(_columns([["QUOTA", "RESOURCE", "NEEDED", "USED", "HARD"], *rows], "<<>>>", width))
    findings = [f"{finding['level']}: {finding['message']}" for finding in plan["findings"]]
    sections.append([line for sentence in (*findings, *notes) for line in bullet(sentence, width)])
    return [line for section in sections if section for line in ("", *section)][1:]


def _plan_headline(plan: Mapping[str, Any], width: int) -> list[str]:
    levels = [finding["level"] for finding in plan["findings"]]
    errors, warnings = levels.count("error"), levels.count("warning")
    counted = [_number(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    said = {
        "Fits": "nothing that is known stands against it",
        "Doubtful": f"{' and '.join(counted)} below",
        "Blocked": f"it would not work as it stands; {' and '.join(counted)} below",
    }[plan["verdict"]]
    return _wrap(f"{plan['verdict']}: {said}", width)


def _plan_images(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    lines = [["IMAGE", "REGISTRY", "SIZE", "PLATFORMS"]]
    for row in rows:
        platforms = " ".join(name.removeprefix("linux/") for name in row["platforms"])
        name = row["name"] if row["use"] in ("cache", row["name"]) else f"{row['name']} ({row['use']})"
        size = "-" if row["size"] is None else show_bytes(row["size"])
        lines.append([_plain(name), row["state"], size, _plain(platforms)])
    return _columns(lines, "<<><", width)


def _plan_costs(plan: Mapping[str, Any], width: int) -> list[str]:
    cost, nodes = plan["cost"], plan["nodes"]["matching"]
    lines = [["COST", "ONE NODE", "ALL NODES" if nodes is None else _number(nodes, "NODE").upper(), "LEAST FREE"]]
    for key, name in _COSTS.items():
        least = cost["least_free"].get(_FREE.get(key, ""))
        free = f"{_amount(key, least['free'])} on {least['node']}" if least else ""
        lines.append([name, _amount(key, cost["node"][key]), _amount(key, cost["total"][key]), _plain(free)])
    formulas = [one["documented"] for one in plan["sets"] if one["documented"]]
    told = [line for formula in formulas for line in _wrap(f"Memory as documented: {formula}", width)]
    if cost["node"]["disk"]:
        layers, unpacked = (show_bytes(int(cost["node"][key])) for key in ("compressed", "unpacked"))
        factor = f"{cost['unpack_factor']:g}"
        told += _wrap(
            f"Disk of one node: {layers} compressed and {unpacked} unpacked (estimate: {factor} times)", width
        )
    for key, name in (("pod_security", "Pod Security"), ("scc", "SCC that admits the pods")):
        if plan[key]:
            told += _wrap(f"{name}: {_plain(plan[key])}", width)
    return [*_columns(lines, "<>><", width), *told]


def _amount(key: str, value: str | int | None) -> str:
    if value is None:
        return "?"
    return show_bytes(int(value)) if key == "disk" else str(value)


def _columns(rows: Sequence[Sequence[str]], sides: str, width: int) -> list[str]:
    """Rows in columns (``<`` to the left, ``>`` to the right); the first one gives way, then what does not fit goes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(8, width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for row in rows:
        cells = [f"{cell:{side}{size}}" for cell, side, size in zip(row, sides, widths, strict=True)]
        if len(row[0]) > widths[0]:
            lines += _wrap(row[0], width)
            cells[0] = " " * widths[0]
        line = "  ".join(cells).rstrip()
        lines.append(line if len(line) <= width else f"{line[: width - 3]}...")
    return lines


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
    yield from (_several(image) for image in report["images"] if len(image["digests"]) > 1)
    for key in ("excused", "skipped"):
        for told in report[key]:
            yield f"{_number(told['nodes'], 'node')} {key} ({_names(told['names'], told['nodes'])}): {told['why']}"
    if report["inferred"]:
        yield "The nodes were not read: what is said of them is inferred from the pods"


def _several(image: Mapping[str, Any]) -> str:
    """A tag that was moved while it rolls, or an image whose digest is another one for other machines."""
    told = [f"{digest[:19]} on {_number(nodes, 'node')}" for digest, nodes in image["digests"].items()]
    return f"{image['name']} has {len(told)} digests: {', '.join(told)}"


def _names(names: Sequence[str], count: int = 0) -> str:
    more = max(count, len(names)) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    """ASCII without control characters: a registry's words must not reach a terminal as commands."""
    ascii_text = text.encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else " " for character in ascii_text)
