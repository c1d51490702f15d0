# SPDX-License-Identifier: GPL-3.0-or-later
"""The alerts name metrics that there are, their runbook is written, and the PodMonitor finds our pods."""

from __future__ import annotations

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
    metrics.digests["set"] = Digest("Degraded", failed={"theia": {"not_found": 1}})
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
