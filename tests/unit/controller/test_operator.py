# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator keeps of objects, and what wakes it; what it does is tested on real clusters."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Client, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STATUS
from controller import operator as module
from controller.operator import Operator, watched


@pytest.mark.parametrize(
    ("text", "namespaces"),
    [("", (None,)), (" ", (None,)), (",", (None,)), ("a", ("a",)), ("a,b", ("a", "b")), (" a , b,a", ("a", "b"))],
)
def test_the_namespaces_are_one_or_several_or_all(text: str, namespaces: Any) -> None:
    assert watched(text) == namespaces


def deployment(**more: Any) -> dict[str, Any]:
    owner = {"kind": "KubernetesImagePuller", "uid": "uid-puller"}
    data = {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "1", "ownerReferences": [owner]}
    return {"kind": "Deployment", "metadata": data, "spec": {"replicas": 1}, **more}


def test_little_is_kept_of_an_object_and_each_change_is_seen() -> None:
    kept = module._slim(deployment())
    assert kept["owners"] == ["uid-puller"]
    assert len(str(kept)) < 200
    later = deployment()
    later["metadata"] |= {"resourceVersion": "2", "managedFields": [{"manager": "m"}]}
    assert module._slim(later) == kept
    for change in ({"spec": {"replicas": 2}}, {"status": {"availableReplicas": 1}}, {"data": {"a": "b"}}):
        assert module._slim(deployment(**change)) != kept


def test_of_a_daemonset_the_verdict_is_kept() -> None:
    annotations = {STATUS: "{}", "other": "x" * 1000}
    data = {"name": "d", "namespace": "n", "uid": "u", "generation": 2, "annotations": annotations}
    kept = module._slim_daemonset({"metadata": data, "spec": {"template": "x" * 1000}})
    assert kept["metadata"]["annotations"] == {STATUS: "{}"}
    assert len(str(kept)) < 200


@pytest.mark.parametrize(
    ("kind", "change", "keep", "tell"),
    [
        ("DaemonSet", {}, False, True),
        ("Deployment", {}, True, False),
        ("ConfigMap", {}, True, False),
        ("KubernetesImagePuller", {"metadata": {"uid": "u", "generation": 2}}, True, False),
        ("KubernetesImagePuller", {"status": {"images": 1}}, False, True),
    ],
)
def test_a_verdict_wakes_only_the_telling(kind: str, change: Any, keep: bool, tell: bool) -> None:
    before = {"metadata": {"uid": "u", "generation": 1}}
    state = module._Served(keep_at=100.0, tell_at=100.0)
    module._due(state, 10.0, kind, before, {**before, **change})
    assert (state.keep_at == 10.0, state.tell_at == 10.0) == (keep, tell)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("ConfigMap", "spec.configMapName"),
        ("Deployment", "spec.deploymentName"),
        ("ServiceAccount", "spec.serviceAccountName"),
        ("Role", "delete it"),
    ],
)
def test_what_is_somebody_elses_is_named_with_what_helps(kind: str, remedy: str) -> None:
    refusal = module._foreign({"kind": kind, "metadata": {"name": "x", "namespace": "n"}})
    assert f"{kind} n/x was made by somebody else" in refusal.message
    assert remedy in refusal.message
    assert f"kubectl label -n n {kind.lower()} x app.kubernetes.io/managed-by=kubecache.image_puller" in refusal.message


class ConfigMaps(Cluster):
    """A cluster with these ConfigMaps: name -> the Deployment that keeps it, and its pull secrets."""

    def __init__(self, found: dict[str, tuple[str, str]]) -> None:
        super().__init__(cast(Client, None))
        self.found = found
        self.asked: list[tuple[str, str | None, str]] = []

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "", **_: Any) -> Any:
        self.asked.append((kind, namespace, labels))
        made = []
        for name, (keeper, secrets) in self.found.items():
            told = {"kubecache.io/image-set": name, "kubecache.io/deployment": keeper}
            data = {"IMAGES": "a=r.io/a:1", "IMAGE_PULL_SECRETS": secrets}
            made.append({"metadata": {"name": name, "labels": told}, "data": data})
        return made, "1"


def test_the_controller_may_read_the_pull_secrets_of_groups_too() -> None:
    """Those of the resource are in its spec, which may be newer than its ConfigMap."""
    puller = Installation()
    ours = puller.deployment_name
    cluster = ConfigMaps(
        {
            puller.config_map_name: (ours, "former"),
            f"{puller.config_map_name}-gpu": (ours, "gpu;team"),
            "of-another-installation": ("other", "foreign"),
        }
    )
    operator = Operator(cluster, (None,), own_namespace="operators", identity="one")
    resource = {"metadata": {"name": "puller", "namespace": "cache"}}
    assert operator._secrets(resource, puller) == ("gpu", "team")
    assert cluster.asked == [("ConfigMap", "cache", "kubecache.io/image-set")]
