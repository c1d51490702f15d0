# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller does not do: write when nothing is to be done, fight with admission, restart pods."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.running import ROOT

from .conftest import CONFIG_MAP, DAEMONSET, Install, Kubectl, Module, eventually, stays, until_all_is_told
from .test_controller import controller_pod, images, log

JAVA, MIRRORED = "registry.example.com/quiet/java11:2.1", "registry.example.com/mirror/java11:2.1"
THEIA = "registry.example.com/quiet/theia:2.1"
HOURS, SPEED = 24, 2880  # Simulated hours, and how many of their seconds pass in one.
FAST = """
import json, sys
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS, open_client
from controller.clock import Clock
from controller.loop import Controller
from controller.server import serve
kubeconfig, namespace, config_map, port, speed = sys.argv[1:]
client = open_client(dict.fromkeys(CONNECTION_ARGUMENTS) | {"kubeconfig": kubeconfig})
environment = {"CONFIG_MAP_NAME": config_map}
made = Controller(
    Cluster(client), namespace=namespace, deployment_name="none", environment=environment, clock=Clock(float(speed))
)
serve(made, int(port))
made.run()
"""


def of_the_controller(cluster: Cluster, mark: int, namespace: str) -> list[dict[str, Any]]:
    """The requests of this namespace's controller since then, but for its watches."""
    user = f"system:serviceaccount:{namespace}:"
    return [e for e in cluster.audit(mark) if e["user"].startswith(user) and e["verb"] != "watch"]


@pytest.mark.thorough
def test_with_nothing_to_do_it_asks_nothing(cluster: Cluster, install: Install, kubectl: Kubectl) -> None:
    cluster.push(JAVA)
    install({"java11": JAVA}, refresh="never")  # What tags stand for it would ask at some time of the first minute.
    eventually(lambda: '"verdict": "Healthy"' in annotation(kubectl))
    until_all_is_told(cluster, kubectl.namespace)
    mark = cluster.audit_mark()
    time.sleep(30)
    asked = of_the_controller(cluster, mark, kubectl.namespace)
    assert len(asked) <= 1, asked
    assert not [event for event in asked if event["verb"] not in ("get", "list")]


def annotation(kubectl: Kubectl) -> str:
    """What the controller publishes on the DaemonSet; the words of the API."""
    return str(kubectl.daemonset()["metadata"].get("annotations", {}).get("kubecache.io/status", ""))


POLICY = """
[
  JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: "%s"},
  JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/resources/requests/memory", value: "11Mi"}
]
"""


def is_rewritten(cluster: Cluster, namespace: str) -> bool:
    """Whether the policy is active, of which the API server learns by a watch of its own."""
    labels = {"app": "probe"}
    container = {"name": "probe", "image": JAVA, "resources": {"requests": {"memory": "10Mi"}}}
    probe = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    return MIRRORED in cluster.kubectl("create", "--dry-run=server", "-o=json", "-f", "-", input=json.dumps(probe))


@pytest.fixture
def rewriting(cluster: Cluster, namespace: str) -> Iterator[None]:
    """A cluster that rewrites the registry and the requests of what is applied in this namespace."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1"}
    policy = {
        **kind,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["daemonsets"],
                    }
                ],
            },
            "reinvocationPolicy": "Never",
            "failurePolicy": "Fail",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": POLICY % MIRRORED}}],
        },
    }
    binding = {
        **kind,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace},
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(policy))
    cluster.kubectl("apply", "-f", "-", input=json.dumps(binding))
    cluster.kubectl("create", "namespace", namespace)
    eventually(lambda: is_rewritten(cluster, namespace))
    yield
    for name in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        cluster.kubectl("delete", name, namespace)


@pytest.mark.usefixtures("rewriting")
def test_what_admission_rewrites_is_said_once_and_not_fought(
    cluster: Cluster, module: Module, kubectl: Kubectl
) -> None:
    cluster.push(JAVA)
    cluster.push(MIRRORED)
    cluster.push(THEIA)
    module("install", images={"java11": JAVA}, refresh="never")  # Else it tells at some time what it knows of tags.
    eventually(lambda: kubectl.get("daemonset", DAEMONSET))
    assert images(kubectl) == [MIRRORED]
    eventually(lambda: "changed by admission, left as it is" in log(cluster, kubectl))
    eventually(lambda: '"verdict": "Healthy"' in annotation(kubectl), seconds=60)
    until_all_is_told(cluster, kubectl.namespace)  # Events go out after the verdict.
    generation = kubectl.daemonset()["metadata"]["generation"]
    mark = cluster.audit_mark()
    for number in range(3):  # Passes for a reason that changes nothing.
        kubectl.patch("configmap", CONFIG_MAP, {"metadata": {"annotations": {"touched": str(number)}}})
        time.sleep(1)
    stays(lambda: kubectl.daemonset()["metadata"]["generation"], seconds=3)
    assert kubectl.daemonset()["metadata"]["generation"] == generation
    assert not [e for e in of_the_controller(cluster, mark, kubectl.namespace) if e["verb"] not in ("get", "list")]
    assert log(cluster, kubectl).count("changed by admission") == 1
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={THEIA}"}})
    eventually(lambda: all(cluster.node(node).has_image(THEIA) for node in cluster.nodes), seconds=60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.thorough
def test_a_day_of_health_checks_restarts_no_pod(cluster: Cluster, module: Module, kubectl: Kubectl) -> None:
    cluster.push(JAVA)
    kept = module("install", images={"java11": JAVA}, controller=False)
    module("daemonset", settings=kept["settings"], wait=True, wait_timeout=60)

    def pods() -> list[tuple[str, int]]:
        found = kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")
        return sorted((p["metadata"]["uid"], p["status"]["containerStatuses"][0]["restartCount"]) for p in found)

    before, generation, port = pods(), kubectl.daemonset()["metadata"]["generation"], free_port()
    assert len(before) == len(cluster.nodes)
    arguments = [str(cluster.kubeconfig), kubectl.namespace, CONFIG_MAP, str(port), str(SPEED)]
    running = subprocess.Popen(
        [sys.executable, "-c", FAST, *arguments],
        env={**cluster.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'build' / 'collections'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        time.sleep(HOURS * 3600 / SPEED + 5)
        metrics = cluster.run(["curl", "-s", "--max-time", "5", f"http://127.0.0.1:{port}/metrics"]).stdout
    finally:
        running.terminate()
        told = running.communicate(timeout=20)[0]
    (passes,) = re.findall(r"^image_puller_reconcile_duration_seconds_count (\S+)", metrics, re.MULTILINE)
    assert float(passes) >= HOURS, told
    assert f'image_puller_verdict{{image_set="{CONFIG_MAP}",verdict="Healthy"}} 1.0' in metrics, told
    assert pods() == before
    assert kubectl.daemonset()["metadata"]["generation"] == generation
    assert not re.findall(r"^image_puller_actions_total.*", metrics, re.MULTILINE)


def test_the_verdict_is_published_and_events_tell_of_an_image_once(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    cluster.push(JAVA)
    absent = "registry.example.com/quiet/absent:1"
    install({"java11": JAVA, "absent": absent}, wait=False)
    eventually(lambda: '"verdict": "Degraded"' in annotation(kubectl), seconds=60)

    def failing() -> tuple[Any, ...]:
        (failure,) = json.loads(annotation(kubectl))["failures"]
        return failure["name"], failure["class"], failure["nodes"]

    eventually(lambda: failing() == ("absent", "not_found", len(cluster.nodes)))
    generation = kubectl.daemonset()["metadata"]["generation"]

    def events(reason: str) -> list[dict[str, Any]]:
        found = kubectl.list("event", "--field-selector", f"reason={reason},involvedObject.kind=DaemonSet")
        return [event for event in found if event["source"].get("component") == "image-puller"]

    assert eventually(lambda: events("Degraded"))
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA}"}})
    eventually(lambda: '"verdict": "Healthy"' in annotation(kubectl), seconds=60)
    assert eventually(lambda: events("Healthy"))
    assert sum(event["count"] for event in events("Degraded")) == 1
    assert kubectl.daemonset()["metadata"]["generation"] == generation + 1
    assert controller_pod(kubectl)["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.thorough
def test_without_the_right_to_delete_pods_a_change_is_rolled_by_the_daemonset_controller(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    other = "registry.example.com/quiet/other:1"
    for reference in (JAVA, other):
        cluster.push(reference)
    install({"java11": JAVA})
    assert kubectl.daemonset()["spec"]["updateStrategy"]["type"] == "OnDelete"
    role = kubectl.get("role", "k8s-image-puller")
    assert role
    rules = [
        {**rule, "verbs": [v for v in rule["verbs"] if rule["resources"] != ["pods"] or v != "delete"]}
        for rule in role["rules"]
    ]
    kubectl.patch("role", "k8s-image-puller", {"rules": rules})
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};other={other}"}})
    eventually(lambda: all(cluster.node(node).has_image(other) for node in cluster.nodes), seconds=90)
    assert kubectl.daemonset()["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert "is missing: the DaemonSet controller rolls changes out" in log(cluster, kubectl)
