# SPDX-License-Identifier: GPL-3.0-or-later
"""Every class of failure on a real kubelet: what is wrong with each image is told, and the good one is cached."""

from __future__ import annotations

import pytest

from tests.cluster import Cluster

from .conftest import DAEMONSET, Install, Kubectl, Module, eventually

TEAM = "registry.example.com/failures"
FINE = f"{TEAM}/fine:1"


@pytest.fixture
def images(cluster: Cluster) -> dict[str, str]:
    """An image for each class, named for it, and a good one."""
    cluster.push(FINE)
    cluster.push(f"{TEAM}/private:1")
    cluster.push(f"{TEAM}/riscv:1", architecture="riscv64")
    cluster.push(f"{TEAM}/spoilt:1", broken="layer")
    cluster.registry_fault("failures/private", "auth", user="u", password="p")
    cluster.registry_fault("failures/busy", "rate_limit", retry_after=1)
    cluster.registry_fault("failures/strange", "error", status=418)
    nobody = f"{cluster.registry.rpartition(':')[0]}:9"
    return {
        "fine": FINE,
        "not-found": f"{TEAM}/gone:1",
        "unauthorized": f"{TEAM}/private:1",
        "unknown-host": "egistry.example.com/failures/misspelt:1",
        "network": f"{nobody}/failures/away:1",
        "rate-limit": f"{TEAM}/busy:1",
        "no-platform": f"{TEAM}/riscv:1",
        "runtime": f"{TEAM}/spoilt:1",
        "other": f"{TEAM}/strange:1",
        "invalid-name": f"{TEAM}/renamed:1",
    }


def classes(module: Module) -> dict[tuple[str, str], str | None]:
    """Image and state -> class, of all nodes."""
    return {(row["name"], row["state"]): row["class"] for row in module("info")["rows"]}


def test_each_class_of_failure_is_told_and_no_image_keeps_another(
    cluster: Cluster, install: Install, module: Module, kubectl: Kubectl, images: dict[str, str]
) -> None:
    try:
        install(images, wait=False, controller=False, max_unavailable="100%")
        # Settings are not accepted with such a name; somebody who edits the DaemonSet is not asked.
        path = f"/spec/template/spec/containers/{list(images).index('invalid-name')}/image"
        kubectl.patch("daemonset", DAEMONSET, [{"op": "replace", "path": path, "value": f"{TEAM}/Renamed:1"}], "json")
        expected: dict[tuple[str, str], str | None] = {
            (name, "failed"): name.replace("-", "_") for name in images if name != "fine"
        }
        expected["fine", "cached"] = None
        eventually(lambda: classes(module) == expected, 120, pause=1)
        assert all(cluster.node(node).has_image(FINE) for node in cluster.nodes)
        told = " ".join(module("info")["reasons"])
        assert all(reference in told for name, reference in images.items() if name != "fine")
    finally:
        cluster.registry_clear()


def test_an_image_that_does_not_fit_on_the_disk(cluster: Cluster, install: Install, module: Module) -> None:
    large = f"{TEAM}/large:1"
    cluster.push(large, size_mb=160)
    node = cluster.add_node({"pool": "tiny"}, image_disk_mb=300)
    try:
        install({"large": large}, wait=False, controller=False, node_selector={"pool": "tiny"})
        eventually(lambda: classes(module).get(("large", "failed")) == "no_space", 60)
        assert "no space left on device" in " ".join(module("info")["reasons"])
    finally:
        cluster.remove_node(node)
