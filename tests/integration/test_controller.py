# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller in its pod on a real node: it keeps the DaemonSet, and takes nothing away."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.cluster import Cluster

from .conftest import CONFIG_MAP, DAEMONSET, DEPLOYMENT, Install, Kubectl, container_of, eventually, stays

JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"


@pytest.fixture
def installed(cluster: Cluster, install: Install, kubectl: Kubectl) -> Kubectl:
    """An installation with one cached image."""
    for reference in (JAVA, THEIA):
        cluster.push(reference)
    install({"java11": JAVA})
    return kubectl


def images(kubectl: Kubectl) -> list[str]:
    return [c["image"] for c in kubectl.daemonset()["spec"]["template"]["spec"]["containers"]]


def controller_pod(kubectl: Kubectl) -> dict[str, Any]:
    (pod,) = [
        pod
        for pod in kubectl.list("pod", "-l", "app.kubernetes.io/component=controller")
        if not pod["metadata"].get("deletionTimestamp")
    ]
    return pod


def log(cluster: Cluster, kubectl: Kubectl) -> str:
    """What its present process has said; empty while its container is still to come."""
    return cluster.kubectl("logs", "-n", kubectl.namespace, controller_pod(kubectl)["metadata"]["name"], check=False)


def ask(cluster: Cluster, kubectl: Kubectl, path: str) -> str:
    address = controller_pod(kubectl)["status"]["podIP"]
    told = cluster.run(["curl", "-s", "-i", "--max-time", "5", f"http://{address}:8080{path}"])
    return told.stdout


def test_a_config_map_edited_by_hand_reaches_the_daemonset_without_a_restart(
    cluster: Cluster, installed: Kubectl
) -> None:
    pod = controller_pod(installed)
    installed.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};\n theia={THEIA};"}})
    eventually(lambda: images(installed) == [JAVA, THEIA])
    eventually(lambda: all(cluster.node(node).has_image(THEIA) for node in cluster.nodes))
    assert controller_pod(installed)["metadata"]["uid"] == pod["metadata"]["uid"]
    assert controller_pod(installed)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_deleted_daemonset_is_back_at_once(cluster: Cluster, installed: Kubectl) -> None:
    before = installed.daemonset()["metadata"]["uid"]
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", installed.namespace, "--wait=false")

    def after() -> str:
        found = installed.get("daemonset", DAEMONSET)
        return found["metadata"]["uid"] if found and found["metadata"]["uid"] != before else ""

    assert eventually(after, pause=0.1)
    eventually(lambda: "created DaemonSet" in log(cluster, installed))


def test_drift_is_mended_and_what_others_added_stays(cluster: Cluster, installed: Kubectl) -> None:
    installed.patch("daemonset", DAEMONSET, {"metadata": {"labels": {"team": "platform"}}})
    change = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": THEIA}]
    installed.patch("daemonset", DAEMONSET, change, "json")
    eventually(lambda: images(installed) == [JAVA])
    assert installed.daemonset()["metadata"]["labels"]["team"] == "platform"
    eventually(lambda: "differs in spec.template.spec.containers[java11].image" in log(cluster, installed))


def test_bad_settings_take_nothing_away_and_are_named(cluster: Cluster, installed: Kubectl) -> None:
    before = installed.daemonset()
    installed.patch("configmap", CONFIG_MAP, {"data": {"CACHING_MEMORY_REQUEST": "lots"}})
    eventually(lambda: "CACHING_MEMORY_REQUEST 'lots': it is no Kubernetes quantity" in log(cluster, installed))
    stays(lambda: installed.daemonset()["metadata"]["generation"], seconds=2)
    assert installed.daemonset()["metadata"]["uid"] == before["metadata"]["uid"]
    assert controller_pod(installed)["status"]["containerStatuses"][0]["restartCount"] == 0
    problems = f'image_puller_settings_problems{{image_set="{CONFIG_MAP}"}} 1.0'
    eventually(lambda: problems in ask(cluster, installed, "/metrics"))
    installed.patch("configmap", CONFIG_MAP, {"data": {"CACHING_MEMORY_REQUEST": "5Mi"}})
    eventually(
        lambda: (
            installed.daemonset()["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
            == "5Mi"
        )
    )


def test_a_bad_entry_is_left_out_and_the_good_ones_are_cached(cluster: Cluster, installed: Kubectl) -> None:
    installed.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};Bad=x/Y:1;theia={THEIA}"}})
    eventually(lambda: images(installed) == [JAVA, THEIA])
    eventually(lambda: "IMAGES, entry 2 'Bad=x/Y:1'" in log(cluster, installed))


@pytest.mark.thorough
def test_a_replaced_config_map_takes_nothing_away(cluster: Cluster, installed: Kubectl) -> None:
    """As tools do that replace an object by deleting it first."""
    before = installed.daemonset()
    config_map = installed.get("configmap", CONFIG_MAP)
    assert config_map
    kept = {key: config_map["metadata"][key] for key in ("name", "namespace", "labels")}
    cluster.kubectl("delete", "configmap", CONFIG_MAP, "-n", installed.namespace)
    time.sleep(3)
    cluster.kubectl("create", "-f", "-", input=json.dumps({**config_map, "metadata": kept}))
    config_map = installed.get("configmap", CONFIG_MAP)
    assert config_map
    uid = config_map["metadata"]["uid"]
    eventually(lambda: uid in [owner["uid"] for owner in installed.daemonset()["metadata"]["ownerReferences"]])
    stays(lambda: installed.daemonset()["metadata"]["uid"], seconds=12)
    assert installed.daemonset()["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_deleted_config_map_removes_its_daemonset_on_purpose(cluster: Cluster, installed: Kubectl) -> None:
    cluster.kubectl("delete", "configmap", CONFIG_MAP, "-n", installed.namespace)
    eventually(lambda: installed.get("daemonset", DAEMONSET) is None, seconds=60)
    assert "ConfigMap" in log(cluster, installed)
    assert "was taken away" in log(cluster, installed)


def runs(cluster: Cluster, pod: dict[str, Any]) -> bool:
    """Whether the controller's process is alive, as the node's own runtime tells."""
    return cluster.node(pod["spec"]["nodeName"]).runs(container_of(pod))


def seconds_to_leave(cluster: Cluster, pod: dict[str, Any]) -> float:
    """Seconds from a SIGTERM to the end of the process."""
    assert runs(cluster, pod)
    start = time.monotonic()
    cluster.node(pod["spec"]["nodeName"]).kill(container_of(pod), "SIGTERM")
    eventually(lambda: not runs(cluster, pod), seconds=40, pause=0.02)
    return time.monotonic() - start


def test_on_sigterm_it_leaves_and_the_daemonset_stays(cluster: Cluster, installed: Kubectl) -> None:
    before = installed.daemonset()
    # The goal is a second; what is above it here is the machine's, and far below the 30 s after which it is killed.
    assert seconds_to_leave(cluster, controller_pod(installed)) < 5
    stays(lambda: installed.daemonset()["metadata"]["uid"], seconds=2)
    after = installed.daemonset()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_it_answers_for_its_health_and_counts_what_it_does(cluster: Cluster, installed: Kubectl) -> None:
    assert ask(cluster, installed, "/healthz").startswith("HTTP/1.0 200")
    assert ask(cluster, installed, "/readyz").startswith("HTTP/1.0 200")
    healthy = f'image_puller_verdict{{image_set="{CONFIG_MAP}",verdict="Healthy"}} 1.0'
    eventually(lambda: healthy in ask(cluster, installed, "/metrics"), seconds=60)
    metrics = ask(cluster, installed, "/metrics")
    assert f'image_puller_images{{image_set="{CONFIG_MAP}",state="cached"}} 2.0' in metrics
    assert f'image_puller_nodes{{image_set="{CONFIG_MAP}",state="complete"}} 2.0' in metrics
    assert re.search(r"process_resident_memory_bytes [0-9.e+]+", metrics)


def test_settings_come_from_the_environment_where_the_config_map_may_not_be_read(
    cluster: Cluster, installed: Kubectl
) -> None:
    """As the known Deployment gives them: envFrom the ConfigMap, and a Role without configmaps."""
    rules = [
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get", "list", "watch", "create", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
    ]
    installed.patch("role", "k8s-image-puller", {"rules": rules})
    cluster.kubectl("rollout", "restart", f"deployment/{DEPLOYMENT}", "-n", installed.namespace)
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", installed.namespace, "--timeout=60s")
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", installed.namespace)
    eventually(lambda: installed.get("daemonset", DAEMONSET), seconds=20)
    assert images(installed) == [JAVA]
    assert "The settings are taken from the environment of the process" in log(cluster, installed)


def test_a_pod_that_has_just_started_leaves_at_once_too(cluster: Cluster, install: Install, kubectl: Kubectl) -> None:
    """Process 1 gets only the signals that it handles, and the imports take seconds under the CPU limit."""
    cluster.push(JAVA)
    install({"java11": JAVA}, wait=False)
    eventually(
        lambda: "running" in str((controller_pod(kubectl)["status"].get("containerStatuses") or [{}])[0].get("state")),
        pause=0.05,
    )
    assert seconds_to_leave(cluster, controller_pod(kubectl)) < 5
