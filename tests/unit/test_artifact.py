# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job tells whoever runs Ansible: bounded, and the same as was shown."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.artifact import statistics
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from tests.unit.objects import JAVA, THEIA


def report(nodes: int, theia: str = "cached") -> dict[str, Any]:
    """What image_puller_info returns of one set."""
    names = [f"node-{number}" for number in range(nodes)]
    states = {JAVA: "cached", THEIA: theia}
    rows = [
        Row(node, image.name, image.image, state, "not_found" if state == "failed" else None)
        for node in names
        for image, state in states.items()
    ]
    verdict = "Degraded" if theia == "failed" else "Healthy"
    return Report(verdict, ("why",) * (verdict == "Degraded"), tuple(rows), (JAVA, THEIA), tuple(names)).as_dict()


def told(*sets: dict[str, Any], plan: Any = None) -> dict[str, Any]:
    made = statistics(sets, plan, ["a line"])
    assert (made["per_host"], made["aggregate"]) == (False, False)
    found: dict[str, Any] = made["data"]["image_puller"]
    return found


def test_the_artifact_of_several_sets_has_the_worst_verdict_and_the_sums() -> None:
    main = {"config_map_name": "main", "daemonset_name": "d", "group": "", "report": report(2)}
    gpu = {"config_map_name": "main-gpu", "daemonset_name": None, "group": "gpu", "report": report(1, "failed")}
    artifact = told(main, gpu)
    assert (artifact["verdict"], artifact["lines"]) == ("Degraded", ["a line"])
    assert {key: artifact["summary"][key] for key in ("images", "nodes", "cached", "failed")} == {
        "images": 4,
        "nodes": 3,
        "cached": 5,
        "failed": 1,
    }
    assert [set_["config_map_name"] for set_ in artifact["sets"]] == ["main", "main-gpu"]
    (_java, theia) = artifact["sets"][1]["images"]
    assert (theia["name"], theia["failed"], theia["class"]) == (THEIA.name, 1, "not_found")


def test_the_artifact_does_not_grow_with_the_nodes() -> None:
    few, many = (len(json.dumps(told({"report": report(nodes, "failed")}))) for nodes in (10, 5000))
    assert many < few + 100


def test_the_artifact_of_a_plan_has_what_stands_against_it() -> None:
    findings = [{"level": "error", "message": "m"}]
    assert told(plan={"verdict": "Blocked", "findings": findings, "nodes": []}) == {
        "verdict": "Blocked",
        "findings": findings,
        "lines": ["a line"],
    }


def test_what_has_neither_sets_nor_plan_tells_its_lines() -> None:
    assert told() == {"lines": ["a line"]}
