# SPDX-License-Identifier: GPL-3.0-or-later
"""Both strategies on a real node, in a namespace that enforces Pod Security "restricted": one installation for all.

The main set has image volumes and a bad image among the good ones, a group of it sleeps. The node has a small disk for
its images, so that its kubelet collects what is not in use once it is nearly full.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import held_images, strategy_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE
from tests.cluster import Cluster, images

from .conftest import CONFIG_MAP, DAEMONSET, Kubectl, Module, eventually, modules_of, new_namespace

REPOSITORY = "registry.example.com/strategies"
POOL = {"key": "pool", "value": "strategies", "effect": "NoSchedule"}
SELECTOR = {"pool": "strategies"}
# What is odd about each image, beside that it is made from scratch and has no shell.
ODD: dict[str, dict[str, Any]] = {
    "scratch": {"size_mb": 15},
    "root": {"user": "root"},
    "volume": {"volumes": ["/data"]},
    "nowhere": {"working_dir": "/no/such/directory"},
    "harmful": {"entrypoint": ["/no/such/program", "--delete-everything"], "user": "12345"},
}
GOOD = {name: f"{REPOSITORY}/{name}:1" for name in ODD}
ABSENT = {"absent": f"{REPOSITORY}/absent:1"}
# The same oddities again, for the strategy that runs a process in a container of the image.
ASLEEP = {"asleep": f"{REPOSITORY}/asleep:1", **{name: f"{REPOSITORY}/{name}:asleep" for name in ODD}}
STRAY = f"{REPOSITORY}/stray:1"
GROUP = f"{CONFIG_MAP}-asleep"
POLICY = "forbid-image-volumes"


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[str]:
    """A node whose images have a file system of their own."""
    for name, options in ODD.items():
        cluster.push(GOOD[name], **options)
        cluster.push(ASLEEP[name], **{**options, "size_mb": 1})
    cluster.push(ASLEEP["asleep"], size_mb=15)
    cluster.push(STRAY, size_mb=40)
    name = cluster.add_node({"pool": "strategies"}, [POOL], image_disk_mb=300)
    yield name
    cluster.remove_node(name)


@pytest.fixture(scope="module")
def cache(cluster: Cluster, node: str) -> Iterator[Kubectl]:
    """The installation, with all that can arrive arrived."""
    with new_namespace(cluster) as namespace:
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        group = {
            "name": "asleep",
            "strategy": "sleep",
            "images": ASLEEP,
            "node_selector": SELECTOR,
            "tolerations": [POOL],
        }
        installed = modules_of(cluster, namespace)("install", **options(groups=[group]))
        assert installed["cost"]["cpu_requests"] == "10m", "by what the strategy makes of it"
        found = Kubectl(cluster, namespace)
        eventually(lambda: held(cluster, found) == {*GOOD.values(), *ASLEEP.values()}, 90)
        yield found


def options(**more: Any) -> dict[str, Any]:
    """Of the installation."""
    where = {"node_selector": SELECTOR, "tolerations": [POOL]}
    return {"images": {**ABSENT, **GOOD}, "strategy": "image_volume", "preflight": "off", **where, **more}


def told(cluster: Cluster, cache: Kubectl, **more: Any) -> dict[str, Any]:
    """What is told of the main set."""
    return modules_of(cluster, cache.namespace)("info", **more)


def held(cluster: Cluster, cache: Kubectl) -> set[str]:
    """The images of which it is told that they are held."""
    sets = told(cluster, cache, sets="all")["sets"]
    return {row["image"] for each in sets for row in each["report"]["rows"] if row["held"]}


def pods(cache: Kubectl, config_map: str) -> list[dict[str, Any]]:
    """A set's pods that do not end."""
    found = cache.list("pod", "-l", f"kubecache.io/image-set={config_map}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def test_any_image_is_held_under_pod_security_restricted_and_nothing_of_it_is_run(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    (pod,) = pods(cache, CONFIG_MAP)
    assert held_images(pod["spec"]) == {**ABSENT, **GOOD}
    running = {c["name"]: c for c in pod["status"]["containerStatuses"] if "running" in c["state"]}
    assert running.keys() == GOOD.keys()
    assert {c["image"] for c in running.values()} == {HELPER_IMAGE}
    assert {c["restartCount"] for c in running.values()} == {0}
    assert all(cluster.node(node).has_image(image) for image in GOOD.values())


def test_a_container_of_any_image_sleeps_as_ours_whatever_the_image_asks_for(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    """USER root, a VOLUME, a directory that is not there, an entry point that would do harm, an image from scratch."""
    (pod,) = pods(cache, GROUP)
    assert held_images(pod["spec"]) == ASLEEP
    statuses = {status["name"]: status for status in pod["status"]["containerStatuses"]}
    for name, image in ASLEEP.items():
        assert statuses[name]["image"] == image
        assert "running" in statuses[name]["state"]
        assert statuses[name]["restartCount"] == 0
        told = asked_of(cluster, node, statuses[name]["containerID"])
        process = told["process"]
        assert process["args"] == ["/kip/sleep", "876000h"], name
        assert (process["user"]["uid"], process["cwd"]) == (65532, "/")
        assert "NVIDIA_VISIBLE_DEVICES=void" in process["env"]
        assert not process.get("capabilities", {}).get("effective")
        assert told["root"]["readonly"]


def asked_of(cluster: Cluster, node: str, container: str) -> dict[str, Any]:
    """What a node's runtime was asked to run in a container (OCI runtime specification)."""
    told = cluster.node(node).ctr("containers", "info", "--spec", container.rpartition("/")[2])
    found: dict[str, Any] = json.loads(told)
    return found


@pytest.mark.parametrize("config_map", [CONFIG_MAP, GROUP], ids=["image_volume", "sleep"])
def test_a_pod_of_the_cache_ends_in_about_a_second(cache: Kubectl, config_map: str) -> None:
    """A node that is drained, or a roll, waits for it."""
    (pod,) = pods(cache, config_map)
    name, began = pod["metadata"]["name"], time.monotonic()
    cache.cluster.kubectl("delete", "pod", name, "-n", cache.namespace, "--wait=true")
    assert time.monotonic() - began <= 3  # Of which kubectl and the kubelet's own pace take their part.
    eventually(lambda: held(cache.cluster, cache) == {*GOOD.values(), *ASLEEP.values()}, 90)


@contextlib.contextmanager
def artifact(
    cluster: Cluster, cache: Kubectl, node: str, strategy: str, *, layer: str, tarred: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Within the context a set has one image that is none; its reference, and what is told of it.

    containerd knows images by their configuration, and artifacts have the same one: so none stays on the node.
    """
    reference, name = f"{REPOSITORY}/artifact:1", f"artifact-{strategy.replace('_', '-')}"
    made = images.artifact({"model.bin": b"x" * 1000}, layer, tarred=tarred)
    images.push(cluster.connect_registry, made, reference)
    module, scheduled = modules_of(cluster, cache.namespace), {"node_selector": SELECTOR, "tolerations": [POOL]}
    settings: dict[str, Any] = {"images": {"artifact": reference}, "strategy": strategy, **scheduled}
    module("config", config_map_name=name, daemonset_name=name, **settings)

    def row() -> dict[str, Any]:
        (found,) = module("info", config_map_name=name)["rows"]
        return dict(found)

    try:
        module("daemonset", wait=True, wait_timeout=90, config_map_name=name)
        assert cluster.node(node).images()[reference] == made.digest
        yield reference, row
    finally:
        module("config", state="absent", config_map_name=name)
        eventually(lambda: not cache.list("pod", "-l", f"kubecache.io/image-set={name}"), 60)
        cluster.node(node).remove_image(reference)


@pytest.mark.parametrize("strategy", ["image_volume", pytest.param("sleep", marks=pytest.mark.thorough)])
def test_an_artifact_of_files_is_held_and_mounted_without_them(
    cluster: Cluster, cache: Kubectl, node: str, strategy: str
) -> None:
    """containerd pulls all of it and unpacks what a configuration lists, of which artifacts have none."""
    with artifact(cluster, cache, node, strategy, layer="application/octet-stream", tarred=False) as (reference, row):
        eventually(lambda: (row()["state"], row()["held"]) == ("cached", True))
        assert mounted_files(cluster, node, reference) == []


@pytest.mark.thorough
def test_an_artifact_of_an_images_layers_can_not_be_mounted_which_is_told(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    with artifact(cluster, cache, node, "image_volume", layer=images.LAYER, tarred=True) as (_reference, row):
        eventually(lambda: "mismatched image rootfs and manifest layers" in str(row()["message"]))
        assert (row()["state"], row()["held"], row()["reason"]) == ("cached", False, "CreateContainerError")


@pytest.mark.thorough
def test_an_artifact_of_an_images_layers_is_held_by_a_container_that_sleeps(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    with artifact(cluster, cache, node, "sleep", layer=images.LAYER, tarred=True) as (_reference, row):
        eventually(lambda: (row()["state"], row()["held"]) == ("cached", True))


def mounted_files(cluster: Cluster, node: str, reference: str) -> list[str]:
    """The files that a user's pod finds where it mounts an image."""
    mount = {"name": "mounted", "mountPath": "/mounted"}
    command = ["/bin/sh", "-c", "ls -A /mounted"]
    main = {"name": "main", "image": cluster.push_busybox(), "command": command, "volumeMounts": [mount]}
    volumes = [{"name": "mounted", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]
    spec = {"nodeName": node, "containers": [main], "volumes": volumes, "restartPolicy": "Never"}
    more = {"terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}]}
    metadata = {"name": "reader", "namespace": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, **more}}
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod))
    try:
        phase = ("get", "pod", "reader", "-n", "default", "-o", "jsonpath={.status.phase}")
        eventually(lambda: cluster.kubectl(*phase) == "Succeeded", 60)
        return cluster.kubectl("logs", "reader", "-n", "default").split()
    finally:
        cluster.kubectl("delete", "pod", "reader", "-n", "default")


def test_what_is_mounted_of_an_image_are_its_files(cluster: Cluster, cache: Kubectl, node: str) -> None:
    """Beside which an artifact's being empty says something."""
    assert "pause" in mounted_files(cluster, node, GOOD["scratch"])


def test_a_bad_image_beside_good_ones_is_told_right(cluster: Cluster, cache: Kubectl) -> None:
    info = told(cluster, cache)
    rows = {row["name"]: row for row in info["rows"]}
    assert (rows["absent"]["state"], rows["absent"]["class"]) == ("failed", "not_found")
    assert {(rows[name]["state"], rows[name]["held"]) for name in GOOD} == {("cached", True)}
    assert info["verdict"] == "Degraded"
    assert (info["daemonset"]["strategy"], info["daemonset"]["strategy_reason"]) == ("image_volume", "")


def test_the_cost_is_what_the_api_server_accounts(cache: Kubectl) -> None:
    hard = {"pods": "9", "requests.cpu": "9", "requests.memory": "9Gi", "limits.cpu": "9", "limits.memory": "9Gi"}
    ours = {"scopeName": "PriorityClass", "operator": "In", "values": ["image-puller-cache"]}
    spec = {"hard": hard, "scopeSelector": {"matchExpressions": [ours]}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "counted"}, "spec": spec}
    cache.cluster.kubectl("create", "-n", cache.namespace, "-f", "-", input=json.dumps(quota))

    def used() -> dict[str, str]:
        found = cache.get("resourcequota", "counted") or {}
        return dict((found.get("status") or {}).get("used") or {})

    try:
        eventually(lambda: used().get("pods") == "2")
        cost = cost_of(pod["spec"] for config_map in (CONFIG_MAP, GROUP) for pod in pods(cache, config_map))
        assert {key: parse_quantity(text) for key, text in used().items()} == {
            "pods": cost.pods,
            "requests.cpu": cost.cpu_requests,
            "requests.memory": cost.memory_requests,
            "limits.cpu": cost.cpu_limits,
            "limits.memory": cost.memory_limits,
        }
        # The fixed requests of the one, and those of each of the other's images.
        assert (used()["requests.cpu"], used()["requests.memory"]) == (f"{10 + 50 * len(ASLEEP)}m", "92Mi")
    finally:
        cache.cluster.kubectl("delete", "resourcequota", "counted", "-n", cache.namespace)


def test_what_is_held_survives_the_collection_of_images_and_what_is_not_goes(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    before = {pod["metadata"]["uid"] for config_map in (CONFIG_MAP, GROUP) for pod in pods(cache, config_map)}
    run_on(cluster, node, "stray", STRAY, [])
    eventually(lambda: cluster.node(node).has_image(STRAY))
    cluster.kubectl("delete", "pod", "stray", "-n", "default")
    # A kubelet collects at once what was there before it started; of others it first has to have known for a while.
    cluster.node(node).stop(runtime=False)
    cluster.node(node).start()
    fill = "dd if=/dev/zero of=/big bs=1M count=100 && sleep infinity"
    try:
        run_on(cluster, node, "filler", f"{cluster.registry}/test/busybox:1", ["/bin/sh", "-c", fill])
        eventually(lambda: not cluster.node(node).has_image(STRAY), 90)
        kept = {*GOOD.values(), *ASLEEP.values()}
        assert {image for image in kept if cluster.node(node).has_image(image)} == kept
        assert held(cluster, cache) == kept
        assert {p["metadata"]["uid"] for set_ in (CONFIG_MAP, GROUP) for p in pods(cache, set_)} == before
    finally:
        cluster.kubectl("delete", "pod", "filler", "-n", "default", "--ignore-not-found")


def run_on(cluster: Cluster, node: str, name: str, image: str, command: list[str]) -> None:
    """A user's pod on the node, which may use the disk."""
    main = {"name": "main", "image": image, "resources": {"requests": {"ephemeral-storage": "150M"}}}
    spec = {"nodeName": node, "containers": [main | ({"command": command} if command else {})]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}}
    more = {"terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}]}
    cluster.kubectl("create", "-f", "-", input=json.dumps({**pod, "spec": {**spec, **more}}))


def test_image_volumes_that_can_not_be_are_refused_with_the_nodes_before_anything_is_changed(
    cluster: Cluster, cache: Kubectl
) -> None:
    with old_node(cluster, "old", {"pool": "old"}):
        before = cache.get("configmap", CONFIG_MAP)
        install = modules_of(cluster, cache.namespace)
        group = {"name": "old", "images": GOOD, "strategy": "image_volume", "node_selector": {"pool": "old"}}
        refused = install("install", ok=False, **options(groups=[group]))
        assert "node old has kubelet v1.32.4 (1.33 or later is needed) and containerd 1.7.27 (" in refused["msg"]
        assert (cache.get("configmap", CONFIG_MAP), refused["changed"]) == (before, False)


def test_image_volumes_that_are_asked_for_where_they_can_not_be_are_told_by_who_only_looks(
    cluster: Cluster, cache: Kubectl
) -> None:
    """Somebody edits a ConfigMap: the controller refuses, and the DaemonSet stays as it is."""

    def seen() -> dict[str, Any]:
        return modules_of(cluster, cache.namespace)("info", config_map_name=GROUP)

    def follows() -> bool:
        info = seen()
        return (info["verdict"], info["daemonset"]["strategy"]) == ("Healthy", "sleep")

    def made_of() -> Any:
        return (cache.get("daemonset", f"{DAEMONSET}-asleep") or {})["spec"]

    eventually(follows)
    before = made_of()
    with old_node(cluster, "old", SELECTOR):
        eventually(lambda: {node["name"] for node in seen()["nodes"]} >= {"old"})
        cache.patch("configmap", GROUP, {"data": {"STRATEGY": "image_volume"}})
        eventually(lambda: any("can't be" in reason for reason in seen()["reasons"][:1]))
        told = seen()
        assert told["verdict"] == "Degraded"
        assert told["reasons"][0].startswith("strategy image_volume can't be: node old has kubelet v1.32.4 (1.33 or")
        assert made_of() == before
        cache.patch("configmap", GROUP, {"data": {"STRATEGY": "sleep"}})
        eventually(lambda: "can't be" not in "".join(seen()["reasons"]))
    eventually(follows)


@contextlib.contextmanager
def old_node(cluster: Cluster, name: str, labels: dict[str, str]) -> Iterator[None]:
    """Within the context there is a node that says it is an old one. No kubelet stands behind it."""
    versions = {"kubeletVersion": "v1.32.4", "containerRuntimeVersion": "containerd://1.7.27"}
    room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "as told"}
    status = {"nodeInfo": dict.fromkeys(NODE_INFO, "") | versions, "capacity": room, "allocatable": room}
    metadata = {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name, **labels}}
    made = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {**status, "conditions": [ready]}}
    cluster.kubectl("create", "-f", "-", input=json.dumps(made))
    try:
        yield
    finally:
        cluster.kubectl("delete", "node", name)


NODE_INFO = (
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
)


@contextlib.contextmanager
def forbidden(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Within the context a policy lets no pod with image volumes into the namespace."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    check = "!has(object.spec.volumes) || object.spec.volumes.all(volume, !has(volume.image))"
    spec: dict[str, Any] = {
        "matchConstraints": {
            "resourceRules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
        "validations": [{"expression": check, "message": "image volumes are not reviewed yet"}],
    }
    kinds = {
        "ValidatingAdmissionPolicy": spec,
        "ValidatingAdmissionPolicyBinding": {"policyName": POLICY, "validationActions": ["Deny"]},
    }
    group = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": POLICY}}
    items = [{**group, "kind": kind, "spec": part} for kind, part in kinds.items()]
    made = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    try:
        cluster.kubectl("create", "-f", "-", input=made)
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", input=made)


@pytest.mark.thorough
def test_a_policy_against_image_volumes_makes_auto_sleep_and_the_images_stay_all_the_time(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    module: Module = modules_of(cluster, cache.namespace)

    def follows(strategy: str) -> bool:
        made = pods(cache, CONFIG_MAP)
        there = all(cluster.node(node).has_image(image) for image in GOOD.values())
        assert there, "an image was not in use for too long"
        return [strategy_of(pod["spec"]) for pod in made] == [strategy] and held(cluster, cache) >= {*GOOD.values()}

    cache.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "sleep"}})
    eventually(lambda: follows("sleep"), 90)
    with forbidden(cluster, cache.namespace):
        eventually(lambda: "not reviewed" in module("install", check=True, ok=False, **options())["msg"])
        cache.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "auto"}})
        eventually(lambda: "not reviewed" in told(cluster, cache)["daemonset"]["strategy_reason"])
        assert told(cluster, cache)["daemonset"]["strategy"] == "sleep"
        (pod,) = cache.list("pod", "-l", "app.kubernetes.io/component=controller")
        log = cluster.kubectl("logs", "-n", cache.namespace, pod["metadata"]["name"])
        assert "strategy sleep: admission refuses it: " in log
        assert follows("sleep")
    allowed = "every matching node can, and admission lets it in"
    eventually(lambda: allowed in str(module("daemonset")["reasons"]), pause=2)
    eventually(lambda: follows("image_volume"), 90)
    assert told(cluster, cache)["daemonset"]["strategy_reason"] == allowed


@pytest.mark.thorough
def test_auto_goes_on_mounting_when_an_old_node_joins_and_begins_to_only_when_all_can(
    cluster: Cluster, cache: Kubectl, node: str
) -> None:
    needed = "kubelet v1.32.4 ({} or later is needed) and containerd 1.7.27 (containerd 2.1 or cri-o 1.31 or later"

    def strategy() -> tuple[str, str]:
        found = told(cluster, cache)["daemonset"]
        return found["strategy"], found["strategy_reason"]

    def here() -> list[str]:
        found = [strategy_of(pod["spec"]) for pod in pods(cache, CONFIG_MAP) if pod["spec"].get("nodeName") == node]
        assert all(cluster.node(node).has_image(image) for image in GOOD.values()), "it was not in use for too long"
        return found

    # Of other settings admission is asked anew: its answer to these, from before, would be believed for ten minutes.
    cache.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "auto", "NEW_NODE_GRACE_SECONDS": "61"}})
    eventually(lambda: here() == ["image_volume"] and held(cluster, cache) >= {*GOOD.values()}, 90)
    before = {pod["metadata"]["uid"] for pod in pods(cache, CONFIG_MAP)}
    with old_node(cluster, "late", SELECTOR):

        def named() -> bool:
            rows = [row for row in told(cluster, cache)["rows"] if row["node"] == "late"]
            blamed = all(needed.format("1.33") in str(row["message"]) for row in rows)
            return bool(rows) and blamed and {row["state"] for row in rows} == {"failed"}

        eventually(named, 30)
        assert strategy()[0] == "image_volume"
        assert before <= {pod["metadata"]["uid"] for pod in pods(cache, CONFIG_MAP)}
        cache.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "sleep"}})
        eventually(lambda: here() == ["sleep"] and held(cluster, cache) >= {*GOOD.values()}, 90)
        cache.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "auto"}})
        eventually(lambda: strategy()[1].startswith(f"node late has {needed.format('1.35')}"))
        assert (strategy()[0], here()) == ("sleep", ["sleep"])
    eventually(lambda: here() == ["image_volume"] and held(cluster, cache) >= {*GOOD.values()}, 120)
    assert strategy() == ("image_volume", "every matching node can, and admission lets it in")
