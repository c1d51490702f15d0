# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as one HTML page that needs nothing else: no network, no other file.

All but the matrix of nodes and images is plain HTML, for viewers that run no scripts. Text becomes markup in one
place only, :func:`_tag`, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import DIGEST, SIZE, STATE
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import image_counts

_TEMPLATE = Path(__file__).with_name("page.html")
_LABELS = {"not_applicable": "not applicable"}
_ORDER = ("cached", "failed", "waiting", "pulling", "released", "not_applicable")
_VERDICT_STATES = {"Healthy": "cached", "Degraded": "failed", "InvalidSettings": "failed", "Progressing": "pulling"}
_RESOURCES = (
    ("pods", "Pods"),
    ("cpu_requests", "CPU request"),
    ("cpu_limits", "CPU limit"),
    ("memory_requests", "Memory request"),
    ("memory_limits", "Memory limit"),
)
_FIRST = 12  # Sentences, or names in one, that stand there before the rest is folded away.
_MEANINGS = (
    (
        "cached",
        "The image is on the node. With a dashed edge no container holds it, so that the kubelet may collect it.",
    ),
    ("failed", "The kubelet could not pull it; the message says why."),
    ("pulling", "The kubelet has begun to pull it."),
    ("waiting", "Its turn has not come, or nobody has told of it yet."),
    ("released", "It was given back because the node was short of disk."),
    ("not_applicable", "The image does not exist for the node's platform."),
)


class _Html(str):
    """Text that is markup already."""

    __slots__ = ()


def to_html(report: Mapping[str, Any]) -> str:
    """The page of a document that report.document() made; the same for the same document."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    parts = {
        "title": escape(f"{report['verdict']}: Image Puller report, {_time(report['time'])}"),
        "content": _content(report),
        "data": _script_data(report),
        "style-hash": _hash(template, "style"),
        "script-hash": _hash(template, "script"),
    }
    return re.sub(r"\{(title|content|data|style-hash|script-hash)\}", lambda found: parts[found[1]], template)


def _hash(template: str, tag: str) -> str:
    """What a Content-Security-Policy calls our own style or script, so that nothing else is obeyed."""
    text = template.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _script_data(report: Mapping[str, Any]) -> str:
    """JSON that no text in it can end early: without angle brackets and ampersands."""
    text = json.dumps(report, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- markup ----------------------------------------------------------------------------------------------------------


def _tag(name: str, *children: str | None, **attributes: object) -> _Html:
    """An element. Children and attributes are escaped, but for elements; ``class_`` is ``class``, None leaves out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return _Html(f"<{name}{told}>{_join(children)}</{name}>")


def _join(children: Iterable[str | None]) -> _Html:
    return _Html("".join(child if isinstance(child, _Html) else escape(child) for child in children if child))


def _icon(state: str) -> _Html:
    return _tag("svg", _tag("use", href=f"#i-{state}"), class_="icon", aria_hidden="true")


def _list(items: Iterable[str], **attributes: object) -> _Html:
    return _tag("ul", *(_tag("li", item) for item in items), **attributes)


def _folded(items: Sequence[str], thing: str, **attributes: object) -> _Html:
    """A list whose rest is folded away when it is long."""
    first, rest = items[:_FIRST], items[_FIRST:]
    folded = _tag("details", _tag("summary", f"{_number(len(rest))} more {thing}"), _list(rest, **attributes))
    return _join([_list(first, **attributes), folded if rest else None])


# --- sentences -------------------------------------------------------------------------------------------------------


def _number(count: float) -> str:
    return f"{count:,}"


def _count(count: int, thing: str) -> str:
    return f"{_number(count)} {thing}{'' if count == 1 else 's'}"


def _time(time: str) -> str:
    return time.replace("T", " ").replace("Z", " UTC")


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _names(named: Mapping[str, Any]) -> str:
    more = named["count"] - len(named["names"])
    return ", ".join(named["names"]) + (f" and {_number(more)} more" if more else "")


def _label(state: str) -> str:
    return _LABELS.get(state, state)


# --- the page --------------------------------------------------------------------------------------------------------


def _content(report: Mapping[str, Any]) -> _Html:
    sets = report["sets"]
    single = len(sets) == 1
    on_server = f" on {report['server']}" if report["server"] else ""
    header = _tag(
        "header",
        _tag("p", "Image Puller report", class_="over"),
        _tag("h1", _badge(report["verdict"]), report["verdict"]),
        _daemonset(sets[0]) if single else None,
        _tag("p", f"As it was at {_time(report['time'])}{on_server}.", class_="quiet"),
        _list(report["notes"]) if report["notes"] else None,
    )
    matrices = [i for i, each in enumerate(sets) if _has_matrix(each)]
    gone = (report["former"] or {}).get("removed") or []
    return _join(
        [
            *(_tag("a", "To the matrix of nodes and images", class_="skip", href=f"#matrix-{i}") for i in matrices[:1]),
            header,
            _tag(
                "main",
                None if single else _overview(sets),
                *(_section(report, index, single) for index in range(len(sets))),
                _tag("p", f"Since the former report these sets are gone: {', '.join(gone)}.") if gone else None,
            ),
            _footer(report),
        ]
    )


def _title(each: Mapping[str, Any]) -> str:
    return f"Group {each['group']}" if each["group"] else each["key"]


def _daemonset(each: Mapping[str, Any]) -> _Html | None:
    return _tag("p", f"DaemonSet {each['name']}") if each["daemonset"] else None


def _badge(verdict: str) -> _Html:
    state = _VERDICT_STATES.get(verdict, "not_applicable")
    return _tag("span", _icon(state), class_=f"badge {state}")


def _overview(sets: Sequence[Mapping[str, Any]]) -> _Html:
    rows = [
        _tag(
            "tr",
            _tag("th", _tag("a", _title(each), href=f"#set-{index}"), scope="row"),
            _tag("td", each["verdict"]),
            _tag("td", _bar(each["summary"]), class_="graph"),
            _tag("td", _share(each["summary"]), class_="number"),
        )
        for index, each in enumerate(sets)
    ]
    head = (("Set of images", None), ("Verdict", None), ("Images on nodes", "graph"), ("Cached", "number"))
    return _tag("section", _tag("h2", "All sets"), _table(head, rows), class_="sheet")


def _table(head: Iterable[tuple[str, str | None]], rows: Iterable[str]) -> _Html:
    columns = _tag("tr", *(_tag("th", text, scope="col", class_=class_) for text, class_ in head))
    table = _tag("table", _tag("thead", columns), _tag("tbody", *rows), class_="list")
    return _tag("div", table, class_="scroll", tabindex="0", role="group", aria_label=next(iter(head))[0])


def _section(report: Mapping[str, Any], index: int, single: bool) -> _Html:
    each = report["sets"][index]
    heading = _join([_tag("h2", _badge(each["verdict"]), f"{_title(each)}: {each['verdict']}"), _daemonset(each)])
    images = image_counts(each)
    return _tag(
        "section",
        _tag("h2", "Images on nodes") if single else heading,
        _tag("p", _headline(each, images)),
        _bar(each["summary"]) if each["summary"]["nodes"] and images else None,
        _legend(each["summary"]) if each["summary"]["nodes"] and images else None,
        _why(each),
        _former(report["former"], each),
        _matrix(each, index),
        _images(each, images) if images else None,
        _left_out(each),
        _cost(each),
        class_="sheet",
        id=f"set-{index}",
    )


def _share(summary: Mapping[str, int]) -> str:
    total = sum(summary[state] for state in STATES) - summary["not_applicable"]
    # Rounded down: 100 % is said when nothing is missing, and not before.
    return f"{int(1000 * summary['cached'] / total) / 10:g} %" if total else "-"


def _headline(each: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> str:
    summary = each["summary"]
    if not images or not summary["nodes"]:
        return f"{_count(summary['images'], 'image')} on {_count(summary['nodes'], 'node')}."
    there = sum(0 < image["nodes"] == image["cached"] + image["not_applicable"] for image in images)
    nodes = {1: "the node", 2: "both nodes"}.get(summary["nodes"], f"all {_number(summary['nodes'])} nodes")
    share = _share(summary)
    rest = "" if share == "100 %" else f" {share} of what is wanted is on the nodes."
    excused = summary["excused_nodes"]
    away = f" {_count(excused, 'node')} {'does' if excused == 1 else 'do'} not count now." if excused else ""
    return f"{_number(there)} of {_count(len(images), 'image')} cached on {nodes}.{rest}{away}"


def _bar(counts: Mapping[str, int]) -> _Html:
    """A bar of the states; the numbers stand beside it as text."""
    total = sum(counts[state] for state in STATES) or 1
    rects, x = [], 0.0
    for state in _ORDER:
        # What is there is seen, however little it is.
        width = max(0.6, 100 * counts[state] / total) if counts[state] else 0.0
        if width:
            rects.append(_tag("rect", x=f"{x:.2f}", y="0", width=f"{width:.2f}", height="1", class_=state))
        x += width
    box = f"0 0 {max(x, 1):.2f} 1"
    return _tag("svg", *rects, class_="bar", viewBox=box, preserveAspectRatio="none", aria_hidden="true")


def _legend(counts: Mapping[str, int]) -> _Html:
    items = [
        _join([_tag("span", _icon(state), class_=f"mark {state}"), f"{_number(counts[state])} {_label(state)}"])
        for state in _ORDER
        if counts[state]
    ]
    return _list(items, class_="legend")


def _why(each: Mapping[str, Any]) -> _Html | None:
    sentences = [*each["problems"], *each["reasons"]]
    if each["inferred"]:
        sentences.append("The nodes were not read: what is said of them is inferred from the pods")
    if not sentences:
        return None
    bad = "reasons bad" if each["verdict"] in ("Degraded", "InvalidSettings") else "reasons"
    heading = _tag("h3", "Why it is " + each["verdict"] if each["reasons"] else "To note")
    return _join([heading, _folded([_sentence(sentence) for sentence in sentences], "reasons", class_=bad)])


def _sentence(sentence: str) -> _Html:
    """The kubelet's words and the remedy stand on lines of their own."""
    parts = re.split(r" (?=The kubelet says: |Remedy: )", sentence)
    lines = []
    for part in parts:
        words = part.removeprefix("The kubelet says: ")
        said = _join(["The kubelet says:", _tag("code", words, class_="said")])
        lines.append(_tag("p", part if words == part else said))
    return _join(lines)


def _former(former: Mapping[str, Any] | None, each: Mapping[str, Any]) -> _Html | None:
    """What changed since the former report."""
    if former is None:
        return None
    heading = _tag("h3", f"Since the report of {_time(former['time'])}")
    if each["key"] in former["added"]:
        return _join([heading, _tag("p", "This set was not there.")])
    changes = former["sets"][each["key"]]
    items: list[str] = []
    if changes["verdict"]:
        items.append("Verdict: {} became {}".format(*changes["verdict"]))
    for key, what in (("added", "new"), ("removed", "gone"), ("changed", "another reference")):
        if names := changes[f"images_{key}"]:
            items.append(f"{_count(len(names), 'image')} {what}: {', '.join(names)}")
    for key, what in (("added", "new"), ("removed", "gone")):
        if (named := changes[f"nodes_{key}"])["count"]:
            items.append(f"{_count(named['count'], 'node')} {what}: {_names(named)}")
    items += [_moved(moved) for moved in changes["moved"]]
    return _join([heading, _folded(items, "changes") if items else _tag("p", "Nothing changed.")])


def _moved(moved: Mapping[str, Any]) -> _Html:
    state = moved["to"] + (f": {moved['class']}" if moved["class"] else "")
    return _join(
        [
            _tag("strong", moved["image"]),
            f" {_label(moved['from'])} became {_label(state)} on {_count(moved['nodes']['count'], 'node')} ",
            _tag("span", f"({_names(moved['nodes'])})", class_="quiet"),
        ]
    )


def _images(each: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> _Html:
    """One line for each image, the worst first."""
    order = sorted(
        range(len(images)), key=lambda i: (-images[i]["failed"], images[i]["cached"] == images[i]["nodes"], i)
    )
    rows = [_image(images[i], *_told(each["matrix"], i)) for i in order]
    head: list[tuple[str, str | None]] = [("Image", None), ("Nodes by state", "graph")]
    head += [("Cached", "number"), ("Failed", "number"), ("On its way", "number"), ("Size", "number")]
    head += [("Longest pull", "number")]
    return _join([_tag("h3", "Images"), _table(head, rows)])


def _image(image: Mapping[str, Any], size: int | None, digests: Sequence[str], seconds: float | None) -> _Html:
    failed = ", ".join(f"{name} on {_count(number, 'node')}" for name, number in image["classes"].items())
    coming = image["pulling"] + image["waiting"]
    several = f"{len(digests)} different digests are on the nodes" if len(digests) > 1 else None
    return _tag(
        "tr",
        _tag(
            "th",
            image["name"],
            _tag("code", image["image"], _short(digests[0]) if len(digests) == 1 else None, class_="mono"),
            _tag("span", failed, class_="mono") if failed else None,
            _tag("span", several, class_="mono") if several else None,
            scope="row",
        ),
        _tag("td", _bar(image), class_="graph"),
        _tag("td", f"{_number(image['cached'])} of {_number(image['nodes'])}", class_="number"),
        _tag("td", _number(image["failed"]) if image["failed"] else "-", class_="number"),
        _tag("td", _number(coming) if coming else "-", class_="number"),
        _tag("td", _size(size) if size else "-", class_="number"),
        _tag("td", f"{seconds:,.1f} s" if seconds is not None else "-", class_="number"),
    )


def _short(digest: str) -> _Html:
    return _tag("span", f" @{digest[:19]}", title=digest)


def _told(matrix: Mapping[str, Any], image: int) -> tuple[int | None, list[str], float | None]:
    """Size and digests of an image as far as told, and the seconds of its longest pull."""
    stories = [matrix["stories"][cell] for cell in Counter(matrix["cells"][image]) if cell >= 0]
    sizes = [story[SIZE] for story in stories if story[SIZE]]
    seconds = [taken for taken in matrix["seconds"][image] if taken is not None]
    digests = sorted({story[DIGEST] for story in stories if story[DIGEST] and story[STATE] == "cached"})
    return max(sizes, default=None), digests, max(seconds, default=None)


def _has_matrix(each: Mapping[str, Any]) -> bool:
    return bool(each["matrix"]["nodes"] and each["matrix"]["images"])


def _matrix(each: Mapping[str, Any], index: int) -> _Html | None:
    """The place that the script fills."""
    if not _has_matrix(each):
        return None
    without = "The matrix needs scripts, which this viewer does not run. All the rest of the page does without."
    place = _tag("div", _tag("p", without, class_="quiet"), data_set=index, id=f"matrix-{index}")
    return _join([_tag("h3", "Nodes and images"), place])


def _left_out(each: Mapping[str, Any]) -> _Html | None:
    """The nodes that do not count, by the reason."""
    items = []
    for kind, nodes in (("excused for now", each["matrix"]["excused"]), ("skipped", each["matrix"]["skipped"])):
        reasons: dict[str, list[str]] = {}
        for node, why in nodes.items():
            reasons.setdefault(why, []).append(node)
        for why, names in reasons.items():
            rest = names[_FIRST:]
            folded = (
                _tag("details", _tag("summary", f"{_number(len(rest))} more nodes"), ", ".join(rest)) if rest else None
            )
            what = _tag("strong", f"{_count(len(names), 'node')} {kind}")
            items.append(_join([what, f": {why}. ", _tag("span", ", ".join(names[:_FIRST]), class_="mono"), folded]))
    return _join([_tag("h3", "Nodes that do not count"), _list(items)]) if items else None


def _cost(each: Mapping[str, Any]) -> _Html | None:
    cost = each["cost"]
    if cost is None:
        return None
    rows = [
        _tag(
            "tr",
            _tag("th", name, scope="row"),
            _tag("td", str(cost["node"][key]), class_="number"),
            _tag("td", str(cost["total"][key]), class_="number"),
        )
        for key, name in _RESOURCES
    ]
    head = (("What it reserves", None), ("On each node", "number"), (f"On {_count(cost['nodes'], 'node')}", "number"))
    return _join([_tag("h3", "What it costs"), _table(head, rows)])


def _footer(report: Mapping[str, Any]) -> _Html:
    facts = [
        ("Read", f"{_time(report['time'])}, by the Ansible collection kubecache.image_puller {report['version']}"),
        (
            "From",
            "the ConfigMap and DaemonSet of each set, its pods, the kubelets' events, and the nodes with their images",
        ),
        *((_label(state), meaning) for state, meaning in _MEANINGS),
    ]
    items = [part for name, text in facts for part in (_tag("dt", name), _tag("dd", text))]
    return _tag("footer", _tag("h2", "How this was made"), _tag("dl", *items, class_="facts"))
