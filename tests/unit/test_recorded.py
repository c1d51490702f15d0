# SPDX-License-Identifier: GPL-3.0-or-later
"""What real nodes said (tests/recorded) is judged as it should be."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import held_images
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage

RECORDED = Path(__file__).parents[1] / "recorded"


class Judgement(NamedTuple):
    """Of the one image on the one node; `words` are in the row's or the report's sentences."""

    verdict: str
    state: str
    class_: str | None = None
    held: bool = False
    words: str = ""


CASES = {
    "healthy": Judgement("Healthy", "cached", held=True),
    "absent_tag": Judgement("Degraded", "failed", "not_found", words="correct the tag"),
    "back_off": Judgement("Degraded", "failed", "not_found", words="correct the tag"),
    "unauthorized": Judgement("Degraded", "failed", "unauthorized", words="image_pull_secrets"),
    "unknown_host": Judgement("Degraded", "failed", "unknown_host", words="no such host"),
    "silent_name_server": Judgement("Degraded", "failed", "unknown_host", words="lookup registry.hang.test"),
    "image_volume": Judgement("Healthy", "cached", held=True),
    "image_volume_absent": Judgement("Degraded", "failed", "not_found", words="correct the tag"),
    "image_volume_back_off": Judgement("Degraded", "failed", "not_found", words="correct the tag"),
    "image_volume_unauthorized": Judgement("Degraded", "failed", "unauthorized", words="image_pull_secrets"),
    "image_volume_helper_absent": Judgement("Degraded", "failed", "not_found", words="helper image registry.example"),
    "hanging_registry": Judgement("Progressing", "pulling"),
    "no_platform": Judgement("Degraded", "failed", "no_platform", words="no match for platform"),
    "invalid_name": Judgement("Degraded", "failed", "invalid_name", words="correct the image reference"),
    "rate_limit": Judgement("Degraded", "failed", "rate_limit", words="429 Too Many Requests"),
    "registry_error": Judgement("Degraded", "failed", "network", words="503 Service Unavailable"),
    "broken_layer": Judgement("Degraded", "failed", "runtime", words="unexpected commit digest"),
    "run_container_error": Judgement("Healthy", "cached", held=True, words="/no/such/program"),
    "crash_loop": Judgement("Healthy", "cached", held=True, words="CrashLoopBackOff"),
    "oom_killed": Judgement("Healthy", "cached", held=True, words="OOMKilled"),
    "create_container_config_error": Judgement("Healthy", "cached", words='configmap "missing" not found'),
    "quota": Judgement("Degraded", "waiting", words="exceeded quota: none"),
    "evicted": Judgement("Healthy", "released", words="given back on 1 node under pressure"),
    "node_not_ready": Judgement("Progressing", "cached", held=True, words="the node is not ready"),
}


def judged(case: str) -> Report:
    """The report on a recorded case, at the time when it was recorded."""
    told: dict[str, Any] = json.loads((RECORDED / f"{case}.json").read_text())
    held = held_images(told["daemonset"]["spec"]["template"]["spec"])
    images = [CachedImage(name, image) for name, image in held.items()]
    now = datetime.fromisoformat(told["time"].replace("Z", "+00:00"))
    return assess(images, told["daemonset"], told["pods"], told["nodes"], told["events"], now=now)


def test_each_recorded_case_is_judged() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_what_a_real_node_said(case: str) -> None:
    expected, report = CASES[case], judged(case)
    (row,) = report.rows
    assert (row.state, row.class_, row.held) == (expected.state, expected.class_, expected.held), row
    assert report.verdict == expected.verdict, report.reasons
    sentences = " ".join(filter(None, (*report.reasons, *report.excused.values(), row.reason, row.message)))
    assert expected.words in sentences


@pytest.mark.parametrize("case", CASES)
def test_the_versions_are_recorded(case: str) -> None:
    told = json.loads((RECORDED / f"{case}.json").read_text())
    assert told["kubernetes"].startswith("v1.")
    assert told["runtime"].startswith("containerd://")
