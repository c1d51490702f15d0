# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation on real nodes: what is there afterwards, and what stays when something changes."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster import Cluster
from tests.running import ROOT

from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Install,
    Kubectl,
    Module,
    eventually,
    our_writes,
    stays,
    until_all_is_told,
)

JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"
IMAGES = {"java11": JAVA, "theia": THEIA}


def push(cluster: Cluster, *references: str) -> None:
    for reference in references:
        cluster.push(reference)


def images_of(daemonset: dict[str, Any]) -> list[str]:
    return [container["image"] for container in daemonset["spec"]["template"]["spec"]["containers"]]


def pod_uids(kubectl: Kubectl) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")}


def test_the_documented_verification(cluster: Cluster, namespace: str, install: Install, kubectl: Kubectl) -> None:
    """Deployment 1/1, a pod of the DaemonSet on each node, the values in the ConfigMap, the images on the nodes."""
    push(cluster, JAVA, THEIA)
    install(IMAGES, caching_memory_limit="24Mi", caching_interval_hours=2)
    told = cluster.kubectl("get", "deployment,daemonset,pod", "-n", namespace)
    assert f"deployment.apps/{DEPLOYMENT}   1/1" in told
    daemonset = kubectl.daemonset()
    assert daemonset["status"]["numberReady"] == len(cluster.nodes) == 2
    pods = kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")
    assert {pod["spec"]["nodeName"] for pod in pods} == set(cluster.nodes)
    config_map = kubectl.get("configmap", CONFIG_MAP)
    assert config_map
    assert config_map["data"]["IMAGES"] == f"java11={JAVA};theia={THEIA}"
    assert config_map["data"]["CACHING_MEMORY_LIMIT"] == "24Mi"
    assert config_map["data"]["CACHING_CPU_REQUEST"] == ".05"
    assert config_map["data"]["CACHING_INTERVAL_HOURS"] == "2"
    for node in cluster.nodes:  # The node's own runtime is the witness.
        assert {JAVA, THEIA} <= set(cluster.node(node).images())


def test_the_pods_of_the_cache_have_no_rights_and_give_way(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA})
    (pod, *_) = kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")
    assert pod["spec"]["serviceAccountName"] == "image-puller-cache"
    assert not any("projected" in volume for volume in pod["spec"]["volumes"])
    assert pod["spec"]["priority"] == -5
    assert pod["spec"]["preemptionPolicy"] == "Never"
    account = f"system:serviceaccount:{kubectl.namespace}:image-puller-cache"
    told = cluster.kubectl("auth", "can-i", "--list", f"--as={account}", "-n", kubectl.namespace)
    assert "pods" not in told
    assert "configmaps" not in told


def test_the_cache_passes_pod_security_restricted(
    cluster: Cluster, namespace: str, install: Install, kubectl: Kubectl
) -> None:
    push(cluster, JAVA)
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    install({"java11": JAVA})
    assert kubectl.daemonset()["status"]["numberReady"] == 2


def test_the_controller_has_the_rights_that_its_role_names_and_no_others(
    cluster: Cluster, namespace: str, install: Install
) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA}, wait=False)
    account = f"--as=system:serviceaccount:{namespace}:k8s-image-puller"

    def may(*words: str) -> bool:
        return cluster.kubectl("auth", "can-i", *words, account, check=False).strip() == "yes"

    assert may("patch", "daemonsets.apps", "-n", namespace)
    assert may("list", "nodes")
    for forbidden in (
        ("get", "secrets", "-n", namespace),
        ("patch", "pods", "-n", namespace),
        ("patch", "deployments.apps", "-n", namespace),
        ("patch", "nodes"),
        ("get", "daemonsets.apps", "-n", "default"),
        ("list", "pods", "-n", "default"),
    ):
        assert not may(*forbidden), forbidden


def test_a_second_run_changes_nothing_while_pods_still_start(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    slow = "registry.example.com/slow/image:1"
    cluster.push(slow, size_mb=8)
    cluster.registry_fault("slow/", "slow", bytes_per_second=200_000)
    try:
        install({"slow": slow}, wait=False)
        assert eventually(lambda: kubectl.daemonset().get("status", {}).get("desiredNumberScheduled")) == 2
        mark = cluster.audit_mark()
        for result in install({"slow": slow}, wait=False):
            assert not result["changed"]
        assert kubectl.daemonset()["status"].get("numberReady", 0) < 2, "the image was not slow enough for this test"
        assert our_writes(cluster, mark, "admin") == []
    finally:
        cluster.registry_clear()


def test_a_rerun_on_an_unchanged_cluster_writes_nothing(cluster: Cluster, namespace: str, install: Install) -> None:
    push(cluster, JAVA)
    start = cluster.audit_mark()
    install({"java11": JAVA}, refresh="never")  # Else the controller may tell just then what it knows of tags.
    assert len(our_writes(cluster, start, "admin")) >= 8, "the audit does not see our writes"
    until_all_is_told(cluster, namespace)
    mark = cluster.audit_mark()
    for result in install({"java11": JAVA}, refresh="never"):
        assert not result["changed"]
    assert our_writes(cluster, mark, "admin", namespace) == []


def test_an_image_that_is_taken_off_the_list_leaves_the_daemonset_and_the_others_stay(
    cluster: Cluster, install: Install, kubectl: Kubectl, module: Module
) -> None:
    push(cluster, JAVA, THEIA)
    install(IMAGES)
    install({"theia": THEIA})
    assert images_of(kubectl.daemonset()) == [THEIA]
    eventually(lambda: module("info")["verdict"] == "Healthy")  # Pods of the former list are exchanged meanwhile.
    assert [image["name"] for image in module("info")["images"]] == ["theia"]
    for node in cluster.nodes:
        assert cluster.node(node).has_image(THEIA)


def test_the_order_of_the_list_is_the_order_of_the_containers(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    push(cluster, JAVA, THEIA)
    install(f"java11={JAVA};theia={THEIA};", wait=False)
    assert images_of(kubectl.daemonset()) == [JAVA, THEIA]
    install(f"theia={THEIA};java11={JAVA};", wait=False)
    assert images_of(kubectl.daemonset()) == [THEIA, JAVA]
    assert install(f"theia={THEIA};java11={JAVA};", wait=False)[1]["changed"] is False


def test_images_left_out_keep_the_list_that_is_there(cluster: Cluster, module: Module, install: Install) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA}, wait=False)
    installed, kept = install("", wait=False)
    assert not installed["changed"]
    assert not kept["changed"]
    assert "is kept" in installed["notes"][0]
    assert module("info")["settings"]["images"] == [{"name": "java11", "image": JAVA}]


def test_a_fresh_installation_without_images_takes_the_default_list_and_says_so(module: Module) -> None:
    result = module("install", check=True)
    assert [image["name"] for image in result["settings"]["images"]] == ["che-code", "base-developer-image"]
    assert "the default list is used" in result["notes"][0]


def test_a_new_controller_image_changes_nothing_in_the_daemonset(
    cluster: Cluster, install: Install, kubectl: Kubectl, module: Module
) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA})
    before, pods = kubectl.daemonset(), pod_uids(kubectl)
    newer = "ghcr.io/kubecache/image-puller:next"
    cluster.push_archive(ROOT / "build" / "image-puller.oci.tar", newer)
    result = module("install", images={"java11": JAVA}, image=newer, wait=True)
    assert [o["name"] for o in result["objects"] if o["action"] != "none"] == [
        f"Deployment {kubectl.namespace}/{DEPLOYMENT}"
    ]
    after = kubectl.daemonset()
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert pod_uids(kubectl) == pods


def test_the_cache_outlives_its_deployment_and_its_config_map_one_at_a_time(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA})
    before, pods = kubectl.daemonset(), pod_uids(kubectl)

    def owners() -> set[str]:
        return {owner["kind"] for owner in kubectl.daemonset()["metadata"].get("ownerReferences", [])}

    assert owners() == {"ConfigMap", "Deployment"}
    cluster.kubectl("delete", "deployment", DEPLOYMENT, "-n", kubectl.namespace)
    stays(lambda: kubectl.daemonset()["metadata"]["uid"])
    install({"java11": JAVA})
    eventually(lambda: owners() == {"ConfigMap", "Deployment"})
    cluster.kubectl("delete", "configmap", CONFIG_MAP, "-n", kubectl.namespace)
    stays(lambda: kubectl.daemonset()["metadata"]["uid"])
    install({"java11": JAVA})
    eventually(lambda: owners() == {"ConfigMap", "Deployment"})
    after = kubectl.daemonset()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert pod_uids(kubectl) == pods


def test_the_cache_goes_when_both_of_its_owners_are_gone(cluster: Cluster, install: Install, kubectl: Kubectl) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA})
    cluster.kubectl("delete", "deployment", DEPLOYMENT, "-n", kubectl.namespace)
    cluster.kubectl("delete", "configmap", CONFIG_MAP, "-n", kubectl.namespace)
    eventually(lambda: kubectl.get("daemonset", DAEMONSET) is None)


def test_no_pod_is_made_for_a_virtual_node(
    cluster: Cluster, install: Install, kubectl: Kubectl, module: Module
) -> None:
    push(cluster, JAVA)
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "virtual-1", "labels": {"type": "virtual-kubelet", "kubernetes.io/os": "linux"}},
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(node))
    try:
        install({"java11": JAVA})
        assert kubectl.daemonset()["status"]["desiredNumberScheduled"] == 2
        assert {row["node"] for row in module("info")["rows"]} == set(cluster.nodes)
    finally:
        cluster.kubectl("delete", "node", "virtual-1")


def test_what_others_put_on_our_objects_stays(cluster: Cluster, install: Install, kubectl: Kubectl) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA}, controller=False)
    foreign = {"metadata": {"labels": {"team": "platform"}, "annotations": {"example.com/note": "kept"}}}
    kubectl.patch("daemonset", DAEMONSET, foreign)
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"SOMETHING_ELSE": "kept"}})
    assert install({"java11": JAVA}, controller=False)[0]["changed"] is False
    install({"java11": JAVA}, controller=False, caching_cpu_limit="300m")
    daemonset, config_map = kubectl.daemonset(), kubectl.get("configmap", CONFIG_MAP)
    assert daemonset["metadata"]["labels"]["team"] == "platform"
    assert daemonset["metadata"]["annotations"]["example.com/note"] == "kept"
    assert config_map
    assert config_map["data"]["SOMETHING_ELSE"] == "kept"


def test_a_daemonset_of_somebody_else_is_refused(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl
) -> None:
    push(cluster, JAVA)
    cluster.kubectl("create", "namespace", namespace)
    labels = {"app": "other"}
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": DAEMONSET, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": JAVA}]}},
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(foreign))
    told = module("daemonset", images={"java11": JAVA}, ok=False)["msg"]
    assert told.startswith(f"DaemonSet {namespace}/{DAEMONSET} was not made by the Image Puller and is left alone")
    result = module("install", images={"java11": JAVA}, daemonset=True, controller=False, ok=False)
    assert result["msg"] == told
    assert f"ConfigMap {namespace}/{CONFIG_MAP}" in [made["name"] for made in result["objects"]]
    assert kubectl.daemonset()["metadata"]["generation"] == 1


def test_an_installation_may_keep_the_daemonset_in_the_same_call(
    cluster: Cluster, module: Module, kubectl: Kubectl
) -> None:
    push(cluster, JAVA, THEIA)
    foreseen = module("install", images={"java11": JAVA}, controller=False, daemonset=True, check=True)
    assert foreseen["daemonset"]["action"] == "created"
    assert kubectl.get("daemonset", DAEMONSET) is None
    first = module("install", images={"java11": JAVA}, controller=False, daemonset=True)
    assert first["daemonset"]["action"] == "created"
    assert first["objects"][-1]["name"] == f"DaemonSet {kubectl.namespace}/{DAEMONSET}"
    made = kubectl.daemonset()
    assert images_of(made) == [JAVA]
    kept = module("daemonset", sets="all")
    assert kept["action"] == "none", kept["reasons"]
    assert set(first["daemonset"]) | {"notes", "diff"} == set(kept) - {"invocation", "warnings"}
    again = module("install", images={"java11": JAVA}, controller=False, daemonset=True)
    assert again["changed"] is False
    assert kubectl.daemonset()["metadata"]["generation"] == made["metadata"]["generation"]
    more = module("install", images={"java11": JAVA, "theia": THEIA}, controller=False, daemonset=True)
    assert more["daemonset"]["action"] == "patched"
    assert images_of(kubectl.daemonset()) == [JAVA, THEIA]
    assert more["daemonset"]["summary"]["images"] == 2


def test_an_installation_without_the_daemonset_makes_none(module: Module, kubectl: Kubectl) -> None:
    told = module("install", images={"java11": JAVA}, controller=False)
    assert "daemonset" not in told
    assert kubectl.list("daemonset") == []


def test_a_renamed_daemonset_leaves_none_behind(cluster: Cluster, install: Install, kubectl: Kubectl) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA}, controller=False)
    install({"java11": JAVA}, controller=False, daemonset_name="other-name")
    eventually(lambda: [d["metadata"]["name"] for d in kubectl.list("daemonset")] == ["other-name"])


def test_without_a_controller_its_objects_are_removed_and_the_cache_stays(
    cluster: Cluster, install: Install, kubectl: Kubectl
) -> None:
    push(cluster, JAVA)
    install({"java11": JAVA})
    uid, pods = kubectl.daemonset()["metadata"]["uid"], pod_uids(kubectl)
    install({"java11": JAVA}, controller=False)
    assert kubectl.get("deployment", DEPLOYMENT) is None
    assert kubectl.list("role") == []
    stays(lambda: kubectl.daemonset()["metadata"]["uid"])
    assert kubectl.daemonset()["metadata"]["uid"] == uid
    assert pod_uids(kubectl) == pods


def test_a_node_selector_that_matches_no_node_fails_the_wait_with_that_sentence(
    cluster: Cluster, install: Install, module: Module
) -> None:
    selector = {"example.com/pool": "none"}
    settings = install({"java11": JAVA}, node_selector=selector, controller=False, min_nodes=0)[0]["settings"]
    told = module("daemonset", settings=settings, wait=True, ok=False)["msg"]
    assert told.startswith("no node matches the node selector, affinity and tolerations. Remedy: change node_selector")
