# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody deletes, edits or replaces what the Image Puller keeps, or a quota is in its way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster import Cluster

from ..conftest import CONFIG_MAP, DAEMONSET, eventually, stays
from .conftest import IMAGES, JAVA, PATIENCE, THEIA, Cache, installed


def create(cluster: Cluster, obj: dict[str, Any]) -> None:
    cluster.kubectl("create", "-f", "-", input=json.dumps(obj))


def copy_of(obj: dict[str, Any]) -> dict[str, Any]:
    """An object as somebody would write it anew."""
    kept = {key: value for key, value in obj["metadata"].items() if key in ("name", "namespace", "labels")}
    return {key: value for key, value in obj.items() if key != "status"} | {"metadata": kept}


def test_daemonset_edited_by_hand(cache: Cache) -> None:
    """An image removed, resources changed: mended. Foreign labels and annotations: they stay."""
    before = cache.held()
    foreign = {"labels": {"team": "platform"}, "annotations": {"example.com/note": "keep me"}}
    cache.patch("daemonset", DAEMONSET, {"metadata": foreign})
    limits = {"op": "replace", "path": "/spec/template/spec/containers/0/resources/limits/memory", "value": "64Mi"}
    cache.patch("daemonset", DAEMONSET, [{"op": "remove", "path": "/spec/template/spec/containers/1"}, limits], "json")
    eventually(lambda: cache.images() == list(IMAGES.values()), 30)
    (first, _) = cache.daemonset()["spec"]["template"]["spec"]["containers"]
    assert first["resources"]["limits"]["memory"] == "20Mi"
    metadata = cache.daemonset()["metadata"]
    assert metadata["labels"]["team"] == "platform"
    assert metadata["annotations"]["example.com/note"] == "keep me"
    assert metadata["uid"] == before.daemonset
    cache.healthy(PATIENCE)
    assert cache.on_nodes() == before.images


def test_daemonset_deleted(cluster: Cluster, cache: Cache) -> None:
    before = cache.held()
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", cache.namespace)
    eventually(lambda: cache.get("daemonset", DAEMONSET), 20)
    cache.healthy()
    assert cache.on_nodes() == before.images


def test_somebody_elses_daemonset_of_the_same_name(cluster: Cluster) -> None:
    with installed(cluster, {"java11": JAVA}) as cache:
        cache.scale(0)
        cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", cache.namespace)
        labels = {"app": "somebody-else"}
        container = {"name": "main", "image": f"{cluster.registry}/test/busybox:1"}
        create(
            cluster,
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": DAEMONSET, "namespace": cache.namespace},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            },
        )
        theirs = cache.daemonset()
        cache.scale(1)
        eventually(lambda: "was not made by the Image Puller and is left alone" in cache.log(), 30)
        told = cache.module("daemonset", ok=False)["msg"]
        assert "was not made by the Image Puller and is left alone" in told
        stays(lambda: cache.daemonset()["metadata"]["generation"], seconds=3)
        after = cache.daemonset()
        assert after["spec"] == theirs["spec"]
        assert after["metadata"] == theirs["metadata"] | {"resourceVersion": after["metadata"]["resourceVersion"]}
        cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", cache.namespace)
        eventually(lambda: (cache.get("daemonset", DAEMONSET) or {}).get("spec", {}) and cache.images() == [JAVA], 30)


@pytest.mark.thorough
def test_config_map_deleted_and_made_again(cluster: Cluster) -> None:
    """Deleting a set's ConfigMap is how a set is taken away; the images stay until the node needs their room."""
    with installed(cluster) as cache:
        before, config_map = cache.held(), cache.get("configmap", CONFIG_MAP)
        assert config_map
        cluster.kubectl("delete", "configmap", CONFIG_MAP, "-n", cache.namespace)
        eventually(lambda: cache.get("daemonset", DAEMONSET) is None, 30)
        assert cache.restarts() == 0
        assert cache.on_nodes() == before.images
        create(cluster, copy_of(config_map))
        eventually(lambda: cache.get("daemonset", DAEMONSET), 30)
        cache.healthy()
        assert cache.on_nodes() == before.images


def test_config_map_made_invalid_and_valid(cache: Cache) -> None:
    before, restarts = cache.held(), cache.restarts()
    cache.patch("configmap", CONFIG_MAP, {"data": {"CACHING_CPU_LIMIT": "plenty", "IMAGES": f"java11={JAVA}"}})
    eventually(lambda: "CACHING_CPU_LIMIT 'plenty'" in cache.log(), 30)
    stays(cache.held, seconds=3)
    assert cache.held() == before
    images = ";".join(f"{name}={image}" for name, image in IMAGES.items())
    cache.patch("configmap", CONFIG_MAP, {"data": {"CACHING_CPU_LIMIT": ".2", "IMAGES": images}})
    cache.obeys()
    assert cache.held() == before
    assert cache.restarts() == restarts


@pytest.mark.thorough
def test_namespace_deleted_during_reconcile(cluster: Cluster, cache: Cache) -> None:
    """The controller does not keep its namespace from going, and other installations see nothing of it."""
    before = cache.held()
    with installed(cluster, {"java11": JAVA}) as going:
        going.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={THEIA}"}})
        cluster.kubectl("delete", "namespace", going.namespace, "--wait=false")
        going.cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", going.namespace, "--ignore-not-found")
        eventually(lambda: not cluster.kubectl("get", "namespace", going.namespace, "--ignore-not-found"), 90)
    assert cache.held() == before


def test_quota_that_refuses_pods(cluster: Cluster) -> None:
    with installed(cluster) as cache:
        before = cache.held()
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": cache.namespace}}
        create(cluster, {**quota, "spec": {"hard": {"pods": "2"}}})
        eventually(lambda: (cache.get("resourcequota", "few") or {}).get("status", {}).get("used"), 20)
        node = cache.pods()[0]["spec"]["nodeName"]
        cluster.kubectl("delete", "pod", cache.pods(node)[0]["metadata"]["name"], "-n", cache.namespace)

        def told() -> str:
            return " ".join(cache.info()["reasons"])

        eventually(lambda: "pods can't be created" in told() and "exceeded quota" in told(), 60, pause=1)
        assert cache.info()["verdict"] == "Degraded"
        assert cache.held().daemonset == before.daemonset, "recreating mends no quota"
        assert cache.on_nodes() == before.images
        cluster.kubectl("delete", "resourcequota", "few", "-n", cache.namespace)
        cache.healthy(PATIENCE)
        assert cache.held().daemonset == before.daemonset
