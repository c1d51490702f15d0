# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes come, go, stop and are kept from use; pods end; registries don't answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster

from ..conftest import CONFIG_MAP, DAEMONSET, Kubectl, Module, eventually, stays
from .conftest import IMAGES, JAVA, PATIENCE, THEIA, Cache, installed

STEPS = True
LATER, NEXT = "registry.example.com/faults/later:1", "registry.example.com/faults/next:1"


def node_of(cache: Cache, name: str) -> dict[str, Any]:
    """What image_puller_info tells of a node; {} for nothing."""
    return next((node for node in cache.info()["nodes"] if node["name"] == name), {})


def test_registry_down_while_pods_must_restart(cluster: Cluster, cache: Cache) -> None:
    before = cache.held()
    first, second = cluster.nodes
    cluster.registry_stop()
    try:
        cluster.kubectl("delete", "pod", cache.pods(first)[0]["metadata"]["name"], "-n", cache.namespace)
        for status in cache.pods(second)[0]["status"]["containerStatuses"]:
            cluster.node(second).kill(status["containerID"])

        def all_run() -> bool:
            statuses = [s for pod in cache.pods() for s in pod["status"].get("containerStatuses", ())]
            restarted = sum(status["restartCount"] for status in statuses)
            return restarted == len(IMAGES) and len(statuses) == 4 and all(status["ready"] for status in statuses)

        eventually(all_run, 60)
        assert cache.on_nodes() == before.images
        assert cache.healthy()["verdict"] == "Healthy"
    finally:
        cluster.registry_start()
    assert cache.held().daemonset == before.daemonset


@pytest.mark.thorough
def test_one_image_that_never_arrives_beside_others_that_do(cluster: Cluster) -> None:
    with installed(cluster, {"java11": JAVA}) as cache:
        before = cache.held()
        cluster.push(LATER)
        cluster.registry_fault("faults/never", "error", status=503)
        try:
            images = f"never=registry.example.com/faults/never:1;java11={JAVA};later={LATER}"
            cache.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": images}})
            eventually(lambda: len(cache.images()) == 3, 20)
            eventually(lambda: all(cluster.node(node).has_image(LATER) for node in cluster.nodes), 150, pause=1)

            def told() -> list[int]:  # A kubelet tells later than its runtime.
                cached = {image["name"]: image["cached"] for image in cache.info()["images"]}
                return [cached[name] for name in ("never", "java11", "later")]

            eventually(lambda: told() == [0, 2, 2], 60, pause=1)
            assert cache.daemonset()["metadata"]["uid"] == before.daemonset, "recreating brings no image"
            assert cache.on_nodes() >= before.images
        finally:
            cluster.registry_clear()


def test_pod_evicted(cluster: Cluster, cache: Cache) -> None:
    before = cache.held()
    pod = cache.pods()[0]["metadata"]
    name = {"name": pod["name"], "namespace": cache.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name}
    path = f"/api/v1/namespaces/{cache.namespace}/pods/{pod['name']}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))
    eventually(lambda: len(cache.pods()) == 2 and pod["uid"] not in cache.held().pods, 60)
    cache.healthy()
    after = cache.held()
    assert (after.daemonset, after.generation, after.images) == (before.daemonset, before.generation, before.images)
    assert len(after.pods & before.pods) == 1


@pytest.fixture(scope="module")
def added(cluster: Cluster, cache: Cache) -> Iterator[str]:
    """A node that came later, tainted."""
    name = cluster.add_node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    yield name
    cluster.remove_node(name)


def test_node_with_a_taint(cluster: Cluster, cache: Cache, added: str) -> None:
    assert '"key": "gpu"' in node_of(cache, added)["skipped"]
    assert cache.healthy()["summary"]["nodes"] == 2
    assert cache.pods(added) == []


def test_node_added(cluster: Cluster, cache: Cache, added: str) -> None:
    before = cache.held()
    cluster.kubectl("taint", "node", added, "gpu-")
    eventually(lambda: all(cluster.node(added).has_image(image) for image in IMAGES.values()), 60)
    assert eventually(lambda: cache.healthy()["summary"]["nodes"] == 3)
    after = cache.held()
    assert (after.daemonset, after.generation) == (before.daemonset, before.generation)
    assert before.pods < after.pods


def test_node_cordoned(cluster: Cluster, cache: Cache, added: str) -> None:
    before = cache.held()
    cluster.kubectl("cordon", added)
    stays(cache.held, seconds=3)
    assert cache.held() == before
    assert cache.healthy()["summary"]["nodes"] == 3
    cluster.kubectl("uncordon", added)


@pytest.fixture(scope="module")
def dead(cluster: Cluster, cache: Cache, added: str) -> str:
    """That node again, with its kubelet gone for so long that the control plane has noticed; its pods go on."""
    before = cache.on_nodes()
    cluster.node(added).stop(runtime=False)

    def is_noticed() -> bool:
        assert node_of(cache, added).get("excused") == "the node is not ready", cluster.kubectl(
            "describe", "node", added
        )
        return True

    eventually(is_noticed, 120, pause=2)
    assert cache.on_nodes() == before
    return added


@pytest.mark.thorough
def test_node_killed(cluster: Cluster, cache: Cache, dead: str) -> None:
    before = cache.held()
    told = cache.healthy()
    assert told["summary"]["excused_nodes"] == 1
    assert cache.pods(dead)
    stays(cache.held, seconds=5)
    assert cache.held() == before


@pytest.mark.thorough
def test_daemonset_stuck_in_deletion_because_of_a_dead_node(cluster: Cluster, cache: Cache, dead: str) -> None:
    """In the foreground a deletion waits for the pods, and the one on the dead node never goes."""
    before = cache.held()
    (left,) = cache.pods(dead)
    remove = ["delete", "daemonset", DAEMONSET, "-n", cache.namespace, "--wait=false", "--cascade=foreground"]
    cluster.kubectl(*remove)
    alive = [node for node in cluster.nodes if node != dead]
    eventually(lambda: not any(cache.pods(node) for node in alive), 30)
    metadata = cache.daemonset()["metadata"]
    assert (metadata["uid"], metadata["finalizers"]) == (before.daemonset, ["foregroundDeletion"])

    def made_anew() -> bool:
        found = cache.get("daemonset", DAEMONSET)
        return found is not None and found["metadata"]["uid"] != before.daemonset

    eventually(made_anew, PATIENCE)
    assert "its deletion is finished without waiting for its pods" in cache.log()
    assert (cache.get("pod", left["metadata"]["name"]) or {})["metadata"]["deletionTimestamp"], "it never went"
    told = cache.healthy(PATIENCE)
    assert told["summary"]["excused_nodes"] == 1
    assert all(cache.pods(node) for node in alive)
    assert cache.on_nodes() == before.images


@pytest.mark.thorough
def test_what_is_removed_waits_for_no_dead_node(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl, dead: str
) -> None:
    everywhere = [{"operator": "Exists"}]
    module("install", images={"next": NEXT}, tolerations=everywhere, controller=False, daemonset=True)
    (stuck,) = eventually(lambda: [pod for pod in kubectl.list("pod") if pod["spec"].get("nodeName") == dead])
    told = module("daemonset", state="absent", wait_timeout=120)
    name = stuck["metadata"]["name"]
    said = f"Pod {namespace}/{name} on {dead} can't end, since the node is not ready: "
    assert said in json.dumps(told["warnings"])
    assert [pod["metadata"]["name"] for pod in kubectl.list("pod")] == [name]
    cluster.kubectl("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0")


@pytest.mark.thorough
def test_rolling_update_while_a_node_is_dead(cluster: Cluster, cache: Cache, dead: str) -> None:
    """The others get the new image; the dead one when it is back."""
    before = cache.held()
    cluster.push(NEXT)
    cache.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={THEIA};next={NEXT}"}})
    alive = [node for node in cluster.nodes if node != dead]
    eventually(lambda: all(cluster.node(node).has_image(NEXT) for node in alive), PATIENCE)
    eventually(lambda: cache.healthy()["summary"]["excused_nodes"] == 1)
    assert cache.held().daemonset == before.daemonset
    assert not cluster.node(dead).has_image(NEXT)
    cluster.node(dead).start()
    eventually(lambda: cluster.node(dead).has_image(NEXT), PATIENCE)
    cache.healthy()
    assert cache.on_nodes() >= before.images
