# SPDX-License-Identifier: GPL-3.0-or-later
"""One controller and several image sets in its namespace: each is kept for itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import DEPLOYMENT as DEPLOYMENT_LABEL
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import IMAGE_SET
from tests.cluster import Cluster

from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Install,
    Kubectl,
    Module,
    eventually,
    new_namespace,
    stays,
)
from .test_controller import controller_pod, log

MAIN = "registry.example.com/sets/main:1"
GPU, CPU, MORE = (f"registry.example.com/sets/{name}:1" for name in ("gpu", "cpu", "more"))


@pytest.fixture
def installed(cluster: Cluster, install: Install, kubectl: Kubectl) -> Kubectl:
    """An installation with one cached image."""
    for reference in (MAIN, GPU, CPU, MORE):
        cluster.push(reference)
    install({"main": MAIN})
    return kubectl


def write(cluster: Cluster, kubectl: Kubectl, group: str, images: str, node: str, **data: str) -> None:
    """The ConfigMap of a group, as the role writes it, for one node."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{CONFIG_MAP}-{group}",
            "namespace": kubectl.namespace,
            "labels": {IMAGE_SET: f"{CONFIG_MAP}-{group}", DEPLOYMENT_LABEL: DEPLOYMENT},
        },
        "data": {
            "IMAGES": images,
            "NAMESPACE": kubectl.namespace,
            "DAEMONSET_NAME": f"{DAEMONSET}-{group}",
            "NODE_SELECTOR": json.dumps({"kubernetes.io/hostname": node}),
            **data,
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(config_map))


def pods(kubectl: Kubectl, daemonset: str) -> set[tuple[str, int]]:
    """(uid, restarts) of a DaemonSet's pods that run."""
    return {
        (pod["metadata"]["uid"], sum(c["restartCount"] for c in pod["status"].get("containerStatuses", ())))
        for pod in kubectl.list("pod", "-l", f"kubecache.io/daemonset={daemonset}")
        if pod["status"]["phase"] == "Running"
    }


def one_pod(kubectl: Kubectl, group: str) -> set[tuple[str, int]]:
    """The pod of a group, once it runs."""

    def found() -> set[tuple[str, int]]:
        there = pods(kubectl, f"{DAEMONSET}-{group}")
        return there if len(there) == 1 else set()

    return eventually(found, seconds=60)


def test_groups_come_change_and_go_and_touch_no_other(cluster: Cluster, installed: Kubectl) -> None:
    gpu_node, cpu_node = cluster.nodes[:2]
    main = pods(installed, DAEMONSET)
    controller = controller_pod(installed)["metadata"]["uid"]

    write(cluster, installed, "gpu", f"gpu={GPU}", gpu_node)
    write(cluster, installed, "cpu", f"cpu={CPU}", cpu_node)
    gpu, cpu = one_pod(installed, "gpu"), one_pod(installed, "cpu")
    assert cluster.node(gpu_node).has_image(GPU)
    assert cluster.node(cpu_node).has_image(CPU)

    write(cluster, installed, "cpu", f"cpu={CPU};more={MORE}", cpu_node)
    eventually(lambda: cluster.node(cpu_node).has_image(MORE), seconds=60)
    eventually(lambda: one_pod(installed, "cpu") - cpu)
    assert pods(installed, f"{DAEMONSET}-gpu") == gpu

    cluster.kubectl("delete", "configmap", f"{CONFIG_MAP}-cpu", "-n", installed.namespace)
    eventually(lambda: installed.get("daemonset", f"{DAEMONSET}-cpu") is None, seconds=60)
    assert pods(installed, f"{DAEMONSET}-gpu") == gpu
    assert pods(installed, DAEMONSET) == main
    assert controller_pod(installed)["metadata"]["uid"] == controller
    for node, foreign in ((gpu_node, CPU), (gpu_node, MORE), (cpu_node, GPU)):
        assert not cluster.node(node).has_image(foreign), f"{foreign} came to {node}"


@pytest.mark.thorough
def test_of_two_sets_with_one_daemonset_name_the_first_has_it(cluster: Cluster, installed: Kubectl) -> None:
    before = installed.daemonset()["metadata"]
    write(cluster, installed, "gpu", f"gpu={GPU}", cluster.nodes[0], DAEMONSET_NAME=DAEMONSET)
    refused = f"refuse: DaemonSet {installed.namespace}/{DAEMONSET} is that of ConfigMap {CONFIG_MAP}."
    eventually(lambda: refused in log(cluster, installed))
    stays(lambda: installed.daemonset()["metadata"]["generation"], seconds=2)
    assert installed.daemonset()["metadata"]["uid"] == before["uid"]


@pytest.mark.thorough
def test_a_set_of_another_name_has_its_daemonset_anew_and_the_former_one_goes(
    cluster: Cluster, installed: Kubectl
) -> None:
    before = installed.daemonset()["metadata"]["uid"]
    write(cluster, installed, "gpu", f"gpu={GPU}", cluster.nodes[0])
    one_pod(installed, "gpu")
    change: dict[str, Any] = {"data": {"DAEMONSET_NAME": "theirs"}}
    foreign = json.loads(json.dumps(installed.get("daemonset", f"{DAEMONSET}-gpu")))
    foreign["metadata"] = {"name": "theirs", "namespace": installed.namespace}
    cluster.kubectl("create", "-f", "-", input=json.dumps(foreign))
    installed.patch("configmap", f"{CONFIG_MAP}-gpu", change)
    eventually(lambda: "theirs was not made by the Image Puller" in log(cluster, installed))
    stays(lambda: installed.get("daemonset", f"{DAEMONSET}-gpu") is not None, seconds=3)

    installed.patch("configmap", f"{CONFIG_MAP}-gpu", {"data": {"DAEMONSET_NAME": "renamed"}})
    eventually(lambda: installed.get("daemonset", f"{DAEMONSET}-gpu") is None)
    assert pods(installed, "renamed") or installed.get("daemonset", "renamed")
    assert installed.get("daemonset", "theirs")
    assert installed.daemonset()["metadata"]["uid"] == before


@pytest.mark.thorough
def test_a_set_that_cant_be_kept_leaves_the_controller_ready(cluster: Cluster, installed: Kubectl) -> None:
    """Its DaemonSet is to be in a namespace in which the controller has no right."""
    with new_namespace(cluster) as other:
        cluster.kubectl("create", "namespace", other)
        write(cluster, installed, "gpu", f"gpu={GPU}", cluster.nodes[0], NAMESPACE=other)
        cluster.kubectl("delete", "pod", controller_pod(installed)["metadata"]["name"], "-n", installed.namespace)
        eventually(lambda: is_ready(controller_pod(installed)))
        assert f"Grant with a Role in namespace {other}" in log(cluster, installed)
        cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", installed.namespace)
        eventually(lambda: installed.get("daemonset", DAEMONSET))


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether its probe says so."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


@pytest.mark.thorough
def test_a_set_with_its_daemonset_in_another_namespace_leaves_nothing_there(
    cluster: Cluster, installed: Kubectl, module: Module
) -> None:
    with new_namespace(cluster) as other:
        there, account = Kubectl(cluster, other), f"--serviceaccount={installed.namespace}:k8s-image-puller"
        cluster.kubectl("create", "namespace", other)
        cluster.kubectl("create", "rolebinding", "cache", "-n", other, "--clusterrole=admin", account)
        write(cluster, installed, "gpu", f"gpu={GPU}", cluster.nodes[0], NAMESPACE=other)
        one_pod(there, "gpu")
        cluster.kubectl("delete", "configmap", f"{CONFIG_MAP}-gpu", "-n", installed.namespace)
        eventually(lambda: there.get("daemonset", f"{DAEMONSET}-gpu") is None, seconds=60)

        write(cluster, installed, "cpu", f"cpu={CPU}", cluster.nodes[0], NAMESPACE=other)
        one_pod(there, "cpu")
        cluster.kubectl("delete", "configmap", f"{CONFIG_MAP}-cpu", "-n", installed.namespace)
        removed = module("daemonset", state="absent", sets="all", wait_timeout=60)
        assert f"DaemonSet {other}/{DAEMONSET}-cpu is asked to be absent" in removed["reasons"]
        assert not there.list("daemonset")
        assert not there.list("pod")


@pytest.mark.thorough
def test_a_set_of_another_installation_is_not_touched(cluster: Cluster, installed: Kubectl) -> None:
    write(cluster, installed, "gpu", f"gpu={GPU}", cluster.nodes[0])
    one_pod(installed, "gpu")
    label = f"{DEPLOYMENT_LABEL}=another"
    cluster.kubectl("label", "configmap", f"{CONFIG_MAP}-gpu", label, "--overwrite", "-n", installed.namespace)
    eventually(lambda: f"{CONFIG_MAP}-gpu: no set of this controller any more" in log(cluster, installed))
    before: dict[str, Any] | None = installed.get("daemonset", f"{DAEMONSET}-gpu")
    assert before
    installed.patch("configmap", f"{CONFIG_MAP}-gpu", {"data": {"IMAGES": f"more={MORE}"}})
    stays(lambda: (installed.get("daemonset", f"{DAEMONSET}-gpu") or before)["metadata"]["generation"], seconds=4)
