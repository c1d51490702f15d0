# SPDX-License-Identifier: GPL-3.0-or-later
"""The rulebook, run by ansible-rulebook: what an alert as Alertmanager posts it mends, and what it tells."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.cluster.processes import PROC, Process
from tests.running import ROOT, ansible_environment
from tests.setup import BUILD

from ..conftest import DAEMONSET, Kubectl, eventually, modules_of, new_namespace

pytestmark = pytest.mark.skipif(not shutil.which("java"), reason="ansible-rulebook needs Java 17, and there is no java")

EDA = ROOT / "extensions" / "eda"
JAVA, ABSENT = "registry.example.com/team/java11:2.1", "registry.example.com/team/absent:1"
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy/monitoring/prometheus_rule.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]


def rules(name: str) -> list[dict[str, Any]]:
    (rulebook,) = yaml.safe_load((EDA / "rulebooks" / name).read_text())
    found: list[dict[str, Any]] = rulebook["rules"]
    return found


def test_both_rulebooks_hear_the_same_alerts_and_launch_what_there_is() -> None:
    playbooks, templates = rules("alerts.yml"), rules("alerts_to_job_templates.yml")
    assert [(rule["condition"], rule["throttle"]) for rule in playbooks] == [
        (rule["condition"], rule["throttle"]) for rule in templates
    ]
    heard = [alert for alert in ALERTS for rule in playbooks if f'"{alert}"' in rule["condition"]]
    assert sorted(heard) == sorted(set(ALERTS) - {"ImagePullerOperatorFailing"})
    launched = {rule["action"]["run_job_template"]["name"] for rule in templates}
    aap = yaml.safe_load((ROOT / "extensions" / "aap" / "image_puller.yml").read_text())
    assert launched <= {template["name"] for template in aap["controller_templates"]}


def descendants(pid: int) -> Iterator[Process]:
    """All processes below one."""
    for task in (PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, task.read_text().split()):
                yield from descendants(child)
                if found := Process.of(child):
                    yield found


@pytest.fixture
def cached(cluster: Cluster) -> Iterator[Kubectl]:
    """An installation that nothing but Ansible keeps."""
    cluster.push(JAVA)
    with new_namespace(cluster) as namespace:
        modules_of(cluster, namespace)("install", images={"java11": JAVA}, controller=False, daemonset=True)
        yield Kubectl(cluster, namespace)


@pytest.fixture
def alert(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Post an alert to a rulebook that runs, and is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "vars.yml").write_text(json.dumps({"image_puller_eda_token": "s3cret", "image_puller_eda_port": port}))
    environment = ansible_environment(cluster)
    environment["PATH"] = f"{BUILD / 'platform' / 'bin'}:{environment['PATH']}"
    options = ["-r", "kubecache.image_puller.alerts", "-i", str(EDA / "inventory.yml"), "-e", "vars.yml"]

    def post(name: str, namespace: str, status: str = "firing", token: str = "s3cret") -> None:
        body = {"status": status, "commonLabels": {"alertname": name, "namespace": namespace}, "alerts": []}
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        address = f"http://127.0.0.1:{port}/endpoint"
        urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers), timeout=10).close()

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(BUILD / "platform" / "bin" / "ansible-rulebook"), *options],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def listens() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens, seconds=90)
        yield post
    finally:
        plays = list(descendants(process.pid))  # In sessions of their own, so that they would outlive it.
        process.terminate()
        process.wait(30)
        for play in plays:
            play.stop()


def test_a_firing_alert_brings_a_lost_daemonset_back(
    cluster: Cluster, cached: Kubectl, alert: Callable[..., None]
) -> None:
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", cached.namespace)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        alert("ImagePullerDegraded", cached.namespace, token="wrong")
    alert("ImagePullerDegraded", cached.namespace, status="resolved")
    alert("SomebodyElses", cached.namespace)
    assert cached.get("daemonset", DAEMONSET) is None
    alert("ImagePullerDegraded", cached.namespace)
    eventually(lambda: cached.get("daemonset", DAEMONSET), seconds=90)


def test_an_alert_of_a_failing_image_leaves_the_table_in_the_log_once_however_often_it_is_posted(
    cluster: Cluster, cached: Kubectl, alert: Callable[..., None], tmp_path: Path
) -> None:
    module, images = modules_of(cluster, cached.namespace), {"java11": JAVA, "absent": ABSENT}
    module("install", images=images, controller=False, daemonset=True)
    eventually(lambda: "not_found" in {row["class"] for row in module("info")["rows"]}, seconds=60)
    for _number in range(2):
        alert("ImagePullerImageFailing", cached.namespace)
    alert("ImagePullerDegraded", cached.namespace)

    def told() -> str:
        """What was told once the last alert's play, which comes after all others, has begun."""
        text = (tmp_path / "log").read_text()
        return text if "PLAY [Check the health of the Image Puller]" in text else ""

    status, _begun, _rest = eventually(told, seconds=120).partition("PLAY [Check the health")
    assert status.count("PLAY [Show the state of the Image Puller]") == 1
    assert re.search(r"^absent .* not_found\b", status, re.MULTILINE), status
