# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report to keep and to pass on: one document, written as HTML, as JSON, or as a textfile for Prometheus.

Pure: results of modules and a time go in, text comes out, the same for the same input. Whatever comes from a cluster
is text here, never markup, and what looks like a credential does not get in.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_per_node
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import redact
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES, VERDICTS
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import (
    CLASS,
    STATE,
    Matrix,
    from_rows,
    seconds_of,
    unpack,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import format_quantity, parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_options

NAME = "kubecache.image_puller"
FORMAT = 1  # Of the document; a former one of another format is not compared.
DATA_ID = "report-data"
_NAMED = 5  # Nodes that a change names before it counts the rest.


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value) if "://" in value or " " in value else value
    if isinstance(value, Mapping):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(each) for each in value]
    return value


# --- the document ----------------------------------------------------------------------------------------------------


def document(
    result: Mapping[str, Any],
    *,
    time: str,
    version: str,
    notes: Iterable[str] = (),
    former: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a report tells, as plain data.

    :param result: what image_puller_info returned, of one set or of all ``sets``. ValueError if it has neither all
        rows nor the matrix.
    :param time: when it was read, in RFC 3339.
    :param version: the collection's version.
    :param notes: sentences that belong to it.
    :param former: an earlier document, to compare with.
    """
    sets = [_set(entry) for entry in _entries(result)]
    made: dict[str, Any] = {
        "report": NAME,
        "format": FORMAT,
        "time": time,
        "version": version,
        "server": redact(result.get("server") or ""),
        "verdict": result["verdict"],
        "notes": _redacted(list(notes)),
        "sets": sets,
        "former": None,
    }
    if former is not None:
        before = {each["key"]: each for each in former["sets"]}
        now = {each["key"] for each in sets}
        made["former"] = {
            "time": former["time"],
            "added": [each["key"] for each in sets if each["key"] not in before],
            "removed": [each["name"] for key, each in before.items() if key not in now],
            "sets": {each["key"]: _changes(before[each["key"]], each) for each in sets if each["key"] in before},
        }
    return made


def _entries(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """An element for each set: the names of the set, and what image_puller_info tells of it."""
    sets = result.get("sets") or []
    if len(sets) == 1 and "report" not in sets[0]:
        return [{**sets[0], **result}]
    return [{**each, **each["report"]} for each in sets] or [result]


def _set(told: Mapping[str, Any]) -> dict[str, Any]:
    """One set of images. Its key stays the same while the DaemonSet comes and goes."""
    matrix, daemonset = _matrix(told), told["daemonset"]
    name = f"{daemonset['namespace']}/{daemonset['name']}" if daemonset else told.get("daemonset_name")
    key = told.get("config_map_name") or name or NAME
    return {
        "key": key,
        "name": name or key,
        "group": told.get("group"),
        "daemonset": daemonset,
        "verdict": told["verdict"],
        "reasons": _redacted(told["reasons"]),
        "problems": _redacted(told.get("problems") or []),
        "inferred": told["inferred"],
        "summary": told["summary"],
        "cost": _cost(told.get("settings"), told.get("daemonset") or {}, len(matrix.nodes)),
        "matrix": {**matrix.as_dict(), "stories": _redacted(matrix.stories)},
    }


def _matrix(told: Mapping[str, Any]) -> Matrix:
    if told.get("matrix"):
        return unpack(told["matrix"])
    if told.get("details") != "all":
        raise ValueError("its rows are not complete; ask the module with matrix: true")
    images = [(image["name"], image["image"]) for image in told["images"]]
    nodes = [node["name"] for node in told["nodes"] if not node["skipped"]]
    why = {key: {node["name"]: node[key] for node in told["nodes"] if node[key]} for key in ("excused", "skipped")}
    return from_rows(told["rows"], images, nodes, **why)


def _cost(options: Mapping[str, Any] | None, daemonset: Mapping[str, Any], nodes: int) -> dict[str, Any] | None:
    """What the set reserves on a node, and on so many; None where the settings are not known."""
    settings = from_options(options).settings if options else None
    if settings is None:
        return None
    strategy, whole = daemonset.get("strategy") or settings.strategy, daemonset.get("pod_resources", True)
    settings = replace(settings, strategy=strategy, pod_resources=whole)
    node = cost_per_node(settings)
    total = {
        key: format_quantity(parse_quantity(value) * nodes, binary="memory" in key)
        if isinstance(value, str)
        else value * nodes
        for key, value in node.items()
    }
    return {"nodes": nodes, "node": node, "total": total}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What is different: the verdict, images, nodes, and for each image which nodes went from which state to which."""
    then, matrices = _cells(before), (before["matrix"], now["matrix"])
    moved: dict[tuple[str, str, str, str | None], list[str]] = {}
    for (image, node), (state, class_) in _cells(now).items():
        was = then.get((image, node))
        if was and was != (state, class_):
            moved.setdefault((image, was[0], state, class_), []).append(node)
    images = [dict(matrix["images"]) for matrix in matrices]
    nodes = [dict.fromkeys(matrix["nodes"]) for matrix in matrices]
    return {
        "verdict": [before["verdict"], now["verdict"]] if before["verdict"] != now["verdict"] else None,
        "images_added": [name for name in images[1] if name not in images[0]],
        "images_removed": [name for name in images[0] if name not in images[1]],
        "images_changed": [name for name in images[1] if images[0].get(name, images[1][name]) != images[1][name]],
        "nodes_added": _named(name for name in nodes[1] if name not in nodes[0]),
        "nodes_removed": _named(name for name in nodes[0] if name not in nodes[1]),
        "moved": [
            {"image": image, "from": was, "to": state, "class": class_, "nodes": _named(found)}
            for (image, was, state, class_), found in sorted(
                moved.items(), key=lambda item: (item[0][2] != "failed", -len(item[1]), item[0][:3])
            )
        ],
    }


def _cells(each: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, str | None]]:
    """(name of the image, node) -> state and class."""
    matrix = each["matrix"]
    told = [(story[STATE], story[CLASS]) for story in matrix["stories"]]
    return {
        (image[0], node): told[cell]
        for image, column in zip(matrix["images"], matrix["cells"], strict=True)
        for node, cell in zip(matrix["nodes"], column, strict=True)
        if cell >= 0
    }


def _named(names: Iterable[str]) -> dict[str, Any]:
    found = list(names)
    return {"count": len(found), "names": found[:_NAMED]}


def image_counts(each: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each image of a set: name, image, nodes that count, how many of them are in each state and class of failure."""
    matrix = each["matrix"]
    counts = [node not in matrix["excused"] for node in matrix["nodes"]]
    found = []
    for (name, image), column in zip(matrix["images"], matrix["cells"], strict=True):
        cells = Counter(cell for cell, count in zip(column, counts, strict=True) if count)
        states = dict.fromkeys(STATES, 0)
        classes: Counter[str] = Counter()
        for cell, number in cells.items():
            if cell >= 0:
                story = matrix["stories"][cell]
                states[story[STATE]] += number
                if story[STATE] == "failed":
                    classes[story[CLASS] or "other"] += number
        found.append(
            {"name": name, "image": image, "nodes": sum(counts), **states, "classes": dict(sorted(classes.items()))}
        )
    return found


# --- as JSON ---------------------------------------------------------------------------------------------------------


def to_json(report: Mapping[str, Any]) -> str:
    """The document with rows as image_puller_info returns them in the place of the matrix."""
    sets = []
    for each in report["sets"]:
        matrix = Matrix(**each["matrix"])
        told = {
            "images": image_counts(each),
            "nodes": matrix.nodes,
            "excused": matrix.excused,
            "skipped": matrix.skipped,
            "rows": list(matrix.rows()),
        }
        sets.append({**{key: value for key, value in each.items() if key != "matrix"}, **told})
    return json.dumps({**report, "sets": sets}, separators=(",", ":")) + "\n"


def read(text: str) -> dict[str, Any]:
    """The document of a report that was written before, as HTML or as JSON; ValueError if it is none."""
    embedded = re.search(rf'<script type="application/json" id="{DATA_ID}">(.*?)</script>', text, re.DOTALL)
    try:
        found: dict[str, Any] = json.loads(embedded[1] if embedded else text)
        if (found["report"], found["format"]) != (NAME, FORMAT):
            raise ValueError(f"its format is {found['format']}")
        for each in found["sets"]:
            if "rows" in each:
                images = [(image["name"], image["image"]) for image in each["images"]]
                each["matrix"] = from_rows(each.pop("rows"), images, each["nodes"]).as_dict()
            _changes(each, each)
        return {"time": str(found["time"]), "sets": [{**each, "key": str(each["key"])} for each in found["sets"]]}
    except (AttributeError, KeyError, TypeError, IndexError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no report of {NAME}: {error}") from None


# --- as a textfile for Prometheus ------------------------------------------------------------------------------------


def to_prometheus(report: Mapping[str, Any]) -> str:
    """Gauges in the text format, for the textfile collector of node_exporter. No label grows with the nodes."""
    lines: dict[str, tuple[str, list[str]]] = {}

    def tell(name: str, meaning: str, value: float, **labels: str) -> None:
        told = ",".join(f'{key}="{_label(label)}"' for key, label in labels.items())
        lines.setdefault(name, (meaning, []))[1].append(f"image_puller_report_{name}{{{told}}} {value}")

    for each in report["sets"]:
        of = {"set": each["name"]}
        for verdict in VERDICTS:
            tell("verdict", "1 for the verdict", int(each["verdict"] == verdict), **of, verdict=verdict)
        tell("nodes", "Nodes that count", each["summary"]["nodes"], **of)
        tell("excused_nodes", "Nodes that do not count now", each["summary"]["excused_nodes"], **of)
        for image in image_counts(each):
            for state in STATES:
                meaning = "Nodes on which the image is in the state"
                tell("image_nodes", meaning, image[state], **of, image=image["name"], state=state)
            for class_, number in image["classes"].items():
                meaning = "Nodes on which the image failed, by class"
                tell("failed_nodes", meaning, number, **of, image=image["name"], **{"class": class_})
    tell("timestamp_seconds", "When the cluster was read", seconds_of(report["time"]) or 0)
    text = []
    for name, (meaning, samples) in lines.items():
        text += [f"# HELP image_puller_report_{name} {meaning}", f"# TYPE image_puller_report_{name} gauge", *samples]
    return "\n".join(text) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
