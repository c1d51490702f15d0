# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports as image_puller_info returns them, of any number of nodes, for tests, screenshots and the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES, failure_sentences
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import from_rows, pack
from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import document
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import Row

TEAM = "registry.example.com/team"
DAEMONSET = {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller", "generation": 4}
NAMES = (
    *("java11", "java17", "java21", "golang", "node20", "node22", "python311", "python312", "dotnet8", "php83"),
    *("rust", "theia", "che-code", "idea", "pycharm", "universal-developer", "base-developer", "kubedock"),
    *("plugin-registry", "terminal"),
)
NOT_FOUND = (
    'failed to pull and unpack image "{image}": failed to resolve image: {image}: not found',
    "not_found",
)
NETWORK = (
    'failed to do request: Head "https://registry.example.com/v2/team/{name}/manifests/2.1": dial tcp 10.20.{n}.7:443:'
    " i/o timeout",
    "network",
)


def cell(n: int, i: int, nodes: int) -> Row:
    """A fleet as it is: most is there, one tag is absent everywhere, a rack has no network, some nodes are young."""
    name = NAMES[i % len(NAMES)] + ("" if i < len(NAMES) else f"-{i // len(NAMES)}")
    image = f"{TEAM}/{name}:2.1"
    node = f"worker-{n:04}.cluster.example.com"

    def row(state: str, **more: Any) -> Row:
        return Row(node, name, image, state, **more)

    rack = max(1, nodes // 40)
    failure = NOT_FOUND if i == 3 else NETWORK if n % 5 == 4 and n // 5 < rack and i in (7, 8) else None
    if failure:
        text, class_ = failure
        message = text.format(image=image, name=name, n=n % 250)
        return row("failed", class_=class_, reason="ErrImagePull", message=message)
    if n % 10 == 2 and n < 10 * rack and i > 14:
        return row("pulling", since="2026-11-23T15:59:41Z") if i == 15 else row("waiting")
    since = f"2026-11-{1 + (n + i) % 22:02}T{n % 24:02}:{(n * 7 + i) % 60:02}:{(n * 13 + i * 3) % 60:02}Z"
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    size = (40 + 37 * i) * 10**6 + 12345
    seconds = round(3 + ((n * 7919 + i * 104729) % 60000) / 1000, 3)
    return row("cached", held=True, digest=digest, size=size, since=since, pull_seconds=seconds)


def result(rows: Sequence[Row], *, packed: bool = False, **more: Any) -> dict[str, Any]:
    """What image_puller_info returns for these rows; ``packed`` with the matrix instead of the rows."""
    images = list(dict.fromkeys((row.name, row.image) for row in rows))
    nodes = list(dict.fromkeys(row.node for row in rows))
    excused = more.pop("excused", {})
    skipped = more.pop("skipped", {})
    counted = [row for row in rows if row.node not in excused]
    failed = [row for row in counted if row.state == "failed"]
    states = [row.state for row in counted]
    counts = {state: states.count(state) for state in STATES}
    told: dict[str, Any] = {
        "server": "https://api.example.com:6443",
        "verdict": "Degraded" if failed else "Healthy",
        "reasons": failure_sentences(failed),
        "inferred": False,
        "summary": {
            "images": len(images),
            "nodes": len(nodes) - len(excused),
            "excused_nodes": len(excused),
            **counts,
        },
        "images": [{"name": name, "image": image} for name, image in images],
        "nodes": [{"name": name, "excused": excused.get(name), "skipped": None} for name in nodes]
        + [{"name": name, "excused": None, "skipped": why} for name, why in skipped.items()],
        "daemonset": DAEMONSET,
        "problems": [],
        "settings": {"images": [{"name": name, "image": image} for name, image in images]},
    }
    matrix = pack(from_rows(rows, images, nodes, excused, skipped)) if packed else None
    every = {"details": "all", "rows": [row.as_dict() for row in rows]}
    return {**told, **({"details": "summary", "rows": [], "matrix": matrix} if packed else every), **more}


def fleet(nodes: int, images: int, *, packed: bool = False) -> dict[str, Any]:
    """The result for so many nodes and images."""
    rows = [cell(n, i, nodes) for n in range(nodes) for i in range(images)]
    away = [f"worker-{n:04}.cluster.example.com" for n in range(nodes) if n % 97 == 3]
    return result(
        rows,
        packed=packed,
        excused=dict.fromkeys(away, "the node is not ready"),
        skipped={"gpu-0001.cluster.example.com": 'taint; needed toleration: [{"key": "gpu", "operator": "Exists"}]'},
    )


def page_of(nodes: int, images: int) -> str:
    """The HTML report of a fleet, compared with the day before, when less was there."""
    before = fleet(nodes - nodes // 50 if nodes > 100 else nodes + 1, images - 1, packed=True)
    former = document(before, time="2026-11-22T16:00:00Z", version="0.1.0")
    first, absent = (former["sets"][0]["matrix"]["cells"][i] for i in (0, 3))
    first[::7] = absent[::7]
    return to_html(
        document(fleet(nodes, images, packed=True), time="2026-11-23T16:00:00Z", version="0.1.0", former=former)
    )
