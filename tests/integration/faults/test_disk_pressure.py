# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's disk fills up: the cache gives way before the user's pod does, is not mended meanwhile, and comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.node import RealNode

from ..conftest import eventually, stays
from .conftest import installed

DISK_MB = 300
BIG = {f"big{number}": f"registry.example.com/faults/big{number}:1" for number in (1, 2)}
USER = "user"
TAINT = {"key": "pool", "value": "small", "effect": "NoSchedule"}


def fill(cluster: Cluster, node: str, namespace: str, megabytes: int) -> None:
    """A user's pod that writes so much to its own file system, and goes on running."""
    container = {
        "name": "main",
        "image": f"{cluster.registry}/test/busybox:1",
        "command": ["/bin/sh", "-c", f"dd if=/dev/zero of=/big bs=1M count={megabytes} && sleep infinity"],
        # Above its request a pod is evicted before those below theirs, whatever the priority.
        "resources": {"requests": {"ephemeral-storage": f"{megabytes + 20}M"}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": USER, "namespace": namespace},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0},
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod))


def states(info: dict[str, Any], node: str) -> set[str]:
    return {row["state"] for row in info["rows"] if row["node"] == node}


def conditions(cluster: Cluster, node: str) -> dict[str, str]:
    status: dict[str, Any] = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))["status"]
    return {condition["type"]: condition["status"] for condition in status["conditions"]}


def holds(cluster: Cluster, node: str) -> list[bool]:
    return [cluster.node(node).has_image(image) for image in BIG.values()]


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ["sleep", "image_volume"])
def test_disk_pressure(cluster: Cluster, strategy: str) -> None:
    # The controller's image is as large as the cache: without the taint the disk might be full.
    node = cluster.add_node({"pool": "small"}, [TAINT], image_disk_mb=DISK_MB)
    real = cluster.node(node)
    assert isinstance(real, RealNode)
    try:
        where = {"node_selector": {"pool": "small"}, "tolerations": [TAINT]}
        with installed(cluster, BIG, size_mb=30, strategy=strategy, **where) as cache:
            before = cache.held()
            assert holds(cluster, node) == [True, True]
            fill(cluster, node, cache.namespace, 120)
            eventually(lambda: conditions(cluster, node)["DiskPressure"] == "True", 120, pause=1)

            def is_released() -> bool:
                told = cache.info()
                seen = {"rows": told["rows"], "pods": cache.pods(node), "conditions": conditions(cluster, node)}
                told_by = real.log("kubelet").read_text().splitlines()
                seen["kubelet"] = [line for line in told_by if "evict" in line.lower() or "image_gc" in line][-40:]
                assert states(told, node) == {"released"}, json.dumps(seen, indent=1)
                return True

            eventually(is_released, 180, pause=1)
            eventually(lambda: holds(cluster, node) == [False, False], 120, pause=1)
            told = cache.info()
            assert told["verdict"] == "Healthy", told["reasons"]
            assert "given back on 1 node under pressure" in " ".join(told["reasons"])
            stays(lambda: cache.daemonset()["metadata"]["uid"], seconds=3)
            after = cache.held()
            assert (after.daemonset, after.generation) == (before.daemonset, before.generation), "nothing is mended"
            user = cache.get("pod", USER)
            assert user
            assert user["status"]["phase"] == "Running"
            assert user["status"]["containerStatuses"][0]["restartCount"] == 0
            cluster.kubectl("delete", "pod", USER, "-n", cache.namespace)
            eventually(lambda: holds(cluster, node) == [True, True], 180, pause=1)
            assert states(cache.healthy(), node) == {"cached"}
            assert cache.held().daemonset == before.daemonset
    finally:
        cluster.remove_node(node)
