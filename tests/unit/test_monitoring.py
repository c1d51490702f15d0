# SPDX-License-Identifier: GPL-3.0-or-later
"""The alerts name metrics that there are, their runbook is written, and the PodMonitor finds our pods."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import VERDICTS
from controller.digest import Digest
from controller.metrics import Metrics, OperatorMetrics
from tests.running import ROOT
from tests.unit import objects

MONITORING = ROOT / "deploy" / "monitoring"


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))
    return found


(GROUP,) = manifest("prometheus_rule.yaml")["spec"]["groups"]
ALERTS = {rule["alert"]: rule for rule in GROUP["rules"]}


def told() -> str:
    """What /metrics of a controller and of an operator tell once everything has happened."""
    metrics, theirs = Metrics(), OperatorMetrics()
    counts: dict[str, Any] = {"states": {"failed": 1}, "nodes": {"incomplete": 1}, "pulling": {"java11": 1}}
    metrics.digests["set"] = Digest("Degraded", failed={"theia": {"not_found": 1}}, **counts)
    metrics.actions.labels("set", "create").inc()
    metrics.api_errors.labels("get", "500").inc()
    metrics.problems.labels("set").set(1)
    metrics.errors.labels("set").inc()
    metrics.paused_until.labels("set").set(1)
    metrics.roll_stopped.labels("set").set(1)
    metrics.tags_unknown.labels("set").set(1)
    metrics.synced("set", datetime.now(timezone.utc))
    return (generate_latest(metrics.registry) + generate_latest(theirs.registry)).decode()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_metrics_and_labels_that_there_are(alert: str) -> None:
    lines = [line for line in told().splitlines() if not line.startswith("#")]
    expression = ALERTS[alert]["expr"]
    asked = re.findall(r"\bimage_puller_\w+", expression)
    assert asked
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(", ")}
    for metric in asked:
        (sample, *_others) = [line for line in lines if re.match(rf"{metric}[{{ ]", line)]
        assert grouped - {"namespace"} <= set(re.findall(r"(\w+)=", sample)), metric
    for verdict in "|".join(re.findall(r'verdict=~"([^"]*)"', expression)).split("|"):
        assert verdict in (*VERDICTS, "")


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do_and_its_runbook_is_written(alert: str) -> None:
    annotations = ALERTS[alert]["annotations"]
    assert {"summary", "description", "runbook_url"} == set(annotations)
    address, anchor = annotations["runbook_url"].split("#")
    page = ROOT / address.partition("/blob/main/")[2]
    assert anchor == alert.lower()
    assert f"### {alert}\n" in page.read_text(encoding="utf-8")


def test_the_pod_monitor_finds_controller_and_operator_and_no_other_pod() -> None:
    spec = manifest("pod_monitor.yaml")["spec"]
    (expression,) = spec["selector"]["matchExpressions"]
    (endpoint,) = spec["podMetricsEndpoints"]

    def matches(template: dict[str, Any]) -> bool:
        labels = template["metadata"].get("labels") or {}
        plain = spec["selector"]["matchLabels"].items() <= labels.items()
        return plain and labels.get(expression["key"]) in expression["values"]

    made = [*installation.controller(installation.Installation(), objects.settings()), operator.deployment()]
    deployments = [obj for obj in made if obj["kind"] == "Deployment"]
    assert len(deployments) == 2
    for deployment in deployments:
        template = deployment["spec"]["template"]
        assert matches(template)
        assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert not matches({"metadata": {"labels": objects.desired()["spec"]["template"]["metadata"]["labels"]}})


DASHBOARD = json.loads(manifest("dashboard.yaml")["data"]["image-puller.json"])
EXPRESSIONS = {
    (panel["title"], target["refId"]): target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
}


@pytest.mark.parametrize("panel", EXPRESSIONS)
def test_a_panel_asks_for_metrics_and_labels_that_there_are(panel: tuple[str, str]) -> None:
    lines = [line for line in told().splitlines() if not line.startswith("#")]
    asked = re.findall(r"\b(image_puller_\w+)(?:\{([^}]*)\})?", EXPRESSIONS[panel])
    assert asked
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", EXPRESSIONS[panel]) for label in labels.split(", ")}
    for metric, matchers in asked:
        (sample, *_others) = [line for line in lines if re.match(rf"{metric}[{{ ]", line)]
        labels = grouped | set(re.findall(r"(\w+)=~?", matchers))
        assert labels - {"namespace", "pod"} <= set(re.findall(r"(\w+)=", sample)), metric


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _y in taken) < 24, "Grafana's grid has 24 columns"


def test_each_metric_of_a_set_is_in_the_dashboard() -> None:
    ours = set(re.findall(r"^(image_puller_\w+)\{[^}]*image_set=", told(), re.MULTILINE))
    ours = {name for name in ours if not name.endswith("_created")}
    shown = {name for expression in EXPRESSIONS.values() for name in re.findall(r"\bimage_puller_\w+", expression)}
    assert ours - shown == {"image_puller_last_successful_sync_timestamp_seconds"}, "which an alert watches"
