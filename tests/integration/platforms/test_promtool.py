# SPDX-License-Identifier: GPL-3.0-or-later
"""The alerts of deploy/monitoring, asked by promtool: when they fire, and on what a real controller tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.cluster.tools import program
from tests.running import ROOT

from ..conftest import CONFIG_MAP, eventually, modules_of, new_namespace

HERE = Path(__file__).parent
JAVA = "registry.example.com/team/java11:2.1"
ABSENT = "registry.example.com/team/absent:1"


def promtool(*arguments: str, cwd: Path, ok: bool = True, text: str = "") -> str:
    """What promtool says; it must succeed unless told otherwise."""
    command = [str(program("promtool")), *arguments]
    done = subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A directory with the rules as Prometheus reads them."""
    manifest = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus_rule.yaml").read_text())
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(manifest["spec"]))
    return tmp_path


def test_prometheus_accepts_the_rules(rules: Path) -> None:
    assert "SUCCESS: 8 rules found" in promtool("check", "rules", "rules.yml", cwd=rules)


def test_prometheus_can_read_what_the_dashboard_asks(tmp_path: Path) -> None:
    """As recording rules, since promtool checks those; Grafana puts regular expressions in the place of variables."""
    manifest = yaml.safe_load((ROOT / "deploy" / "monitoring" / "dashboard.yaml").read_text())
    panels = json.loads(manifest["data"]["image-puller.json"])["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    recorded = [{"record": f"panel:{n}", "expr": re.sub(r"\$\w+", ".*", expr)} for n, expr in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"SUCCESS: {len(asked)} rules found" in promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_each_alert_fires_when_it_should_and_only_then(rules: Path) -> None:
    shutil.copy(HERE / "alerts.yml", rules)
    promtool("test", "rules", "alerts.yml", cwd=rules)


@pytest.fixture(scope="module")
def metrics(cluster: Cluster) -> Iterator[str]:
    """What a real controller tells of a set in which one image can be had and the other one not."""
    cluster.push(JAVA)
    with new_namespace(cluster) as namespace:
        installed = modules_of(cluster, namespace)("install", images={"java11": JAVA, "absent": ABSENT}, wait=True)
        assert installed["changed"]
        selector = ("-n", namespace, "-l", "app.kubernetes.io/component=controller")
        address = cluster.kubectl("get", "pod", *selector, "-o", "jsonpath={.items[0].status.podIP}")

        def told() -> str:
            done = cluster.run(["curl", "-s", "--max-time", "5", f"http://{address}:8080/metrics"])
            degraded = f'image_puller_verdict{{image_set="{CONFIG_MAP}",verdict="Degraded"}} 1.0'
            return done.stdout if degraded in done.stdout else ""

        yield eventually(told, seconds=90, pause=1)


def test_what_a_controller_tells_is_as_prometheus_wants_it(metrics: str, tmp_path: Path) -> None:
    promtool("check", "metrics", cwd=tmp_path, text=metrics)


def series(metrics: str) -> list[dict[str, Any]]:
    """Each sample as a series that stays what it is for half an hour, as the PodMonitor's Prometheus labels it."""
    found = re.findall(r"^(image_puller_\w+)(?:\{(.*)\})? (\S+)$", metrics, re.MULTILINE)
    return [
        {"series": f'{name}{{namespace="cache",pod="a"{"," if labels else ""}{labels}}}', "values": f"{value}x30"}
        for name, labels, value in found
        if "e" not in value  # promtool's notation has no exponents: times, of which no alert that fires here is made
    ]


def test_the_alerts_of_a_failing_image_fire_on_what_a_real_controller_tells(metrics: str, rules: Path) -> None:
    expected = [
        {"alertname": "ImagePullerDegraded", "verdict": "Degraded"},
        {"alertname": "ImagePullerImageFailing", "name": "absent", "class": "not_found"},
    ]
    common = {"alertstate": "firing", "severity": "warning", "namespace": "cache", "image_set": CONFIG_MAP}
    texts = [",".join(f'{key}="{value}"' for key, value in {**common, **labels}.items()) for labels in expected]
    samples = [{"labels": f"ALERTS{{{text}}}", "value": 1} for text in texts]
    asked = [{"expr": 'ALERTS{alertstate="firing"}', "eval_time": "20m", "exp_samples": samples}]
    test = {"interval": "1m", "input_series": series(metrics), "promql_expr_test": asked}
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (rules / "real.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "real.yml", cwd=rules)
