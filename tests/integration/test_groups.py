# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups: sets of images of their own on nodes of their own, added, changed and removed without touching the others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster

from .conftest import CONFIG_MAP, DAEMONSET, DEPLOYMENT, Kubectl, Module, Playbook, eventually, our_writes

TEAM = "registry.example.com/groups"
CPU, GPU, MORE, BOTH = (f"{TEAM}/{name}:1" for name in ("theia", "cuda", "more", "tools"))
POOL = "example.com/pool"


def group(name: str, *images: str, pool: str = "", **options: Any) -> dict[str, Any]:
    """A group of images that are called as their repositories; on the nodes of its pool."""
    listed = {image.split("/")[-1].split(":")[0]: image for image in images}
    return {"name": name, "images": listed, "node_selector": {POOL: pool or name}, **options}


GROUPS = [group("cpu", CPU), group("gpu", GPU)]


@pytest.fixture
def pools(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """The node with CPUs alone, and the node with a GPU, of whose runtimes neither has an image of a group."""
    cpu, gpu = cluster.nodes
    for image in (CPU, GPU, MORE, BOTH):
        cluster.push(image)
        for name in cluster.nodes:
            if cluster.node(name).has_image(image):
                cluster.node(name).remove_image(image)
    cluster.kubectl("label", "node", cpu, f"{POOL}=cpu", "--overwrite")
    cluster.kubectl("label", "node", gpu, f"{POOL}=gpu", "--overwrite")
    yield cpu, gpu
    cluster.kubectl("label", "node", cpu, gpu, f"{POOL}-")


def names(kubectl: Kubectl, kind: str, *arguments: str) -> set[str]:
    return {obj["metadata"]["name"] for obj in kubectl.list(kind, *arguments)}


def pods_of(kubectl: Kubectl, name: str) -> set[str]:
    """The uids of the pods of a group that do not end."""
    pods = kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}-{name}")
    return {pod["metadata"]["uid"] for pod in pods if not pod["metadata"].get("deletionTimestamp")}


@pytest.mark.thorough
@pytest.mark.parametrize("controller", [False, True], ids=["ansible", "controller"])
def test_the_life_of_two_groups(
    cluster: Cluster,
    namespace: str,
    pools: tuple[str, str],
    playbook: Playbook,
    kubectl: Kubectl,
    controller: bool,
) -> None:
    first = playbook("install", groups=GROUPS, controller=controller)
    told = first.stdout
    assert "2 of 2 sets of images are healthy" in told
    for heading in ("Group cpu\n---------\nHealthy: ", "Group gpu\n---------\nHealthy: "):
        assert heading in told
    assert (kubectl.get("deployment", DEPLOYMENT) is not None) == controller
    assert names(kubectl, "daemonset") == {f"{DAEMONSET}-cpu", f"{DAEMONSET}-gpu"}
    assert kubectl.get("configmap", CONFIG_MAP) is None  # There is no main set.
    cpu, gpu = (set(cluster.node(name).images()) for name in pools)
    assert CPU in cpu
    assert GPU not in cpu
    assert GPU in gpu
    assert CPU not in gpu

    mark = cluster.audit_mark()
    assert playbook("install", groups=GROUPS, controller=controller).changed == 0
    assert our_writes(cluster, mark, "admin") == []

    on_gpu = pods_of(kubectl, "gpu")
    changed = playbook(
        "install", groups=json.dumps([group("cpu", CPU, MORE), group("gpu", GPU)]), controller=controller
    )
    assert changed.changed >= 1
    eventually(lambda: cluster.node(pools[0]).has_image(MORE))
    assert pods_of(kubectl, "gpu") == on_gpu

    on_cpu = eventually(lambda: pods_of(kubectl, "cpu"))
    three = [group("cpu", CPU, MORE), group("gpu", GPU), {"name": "all", "images": {"tools": BOTH}}]
    playbook("install", groups=three, controller=controller)
    assert len(pods_of(kubectl, "all")) == 2
    assert (pods_of(kubectl, "cpu"), pods_of(kubectl, "gpu")) == (on_cpu, on_gpu)

    removed = playbook("install", groups=three[1:], controller=controller)
    assert "Group cpu" not in removed.stdout
    eventually(lambda: names(kubectl, "daemonset") == {f"{DAEMONSET}-gpu", f"{DAEMONSET}-all"})
    assert f"{CONFIG_MAP}-cpu" not in names(kubectl, "configmap")
    assert pods_of(kubectl, "gpu") == on_gpu

    kept = playbook("install", controller=controller)  # Groups that are not given stay.
    assert kept.changed == 0
    assert "groups were not given: all, gpu stay as they are" in " ".join(kept.stdout.split())

    assert playbook("health_check").changed == 0
    if not controller:
        cluster.kubectl("delete", "daemonset", f"{DAEMONSET}-gpu", "-n", namespace)
        assert playbook("health_check", health_check_fail=True).changed == 1
        assert playbook("health_check").changed == 0
    assert "Group gpu" in playbook("status").stdout
    assert "Nothing of the installation stays" in playbook("uninstall", "--check").stdout
    assert "Nothing of the installation stays" in playbook("uninstall").stdout
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""


def test_a_main_set_and_a_group_stand_side_by_side_and_the_main_set_may_go(
    pools: tuple[str, str], module: Module, kubectl: Kubectl
) -> None:
    options: dict[str, Any] = {"controller": False, "daemonset": True, "groups": GROUPS[1:]}
    module("install", images={"theia": CPU}, **options)
    assert names(kubectl, "daemonset") == {DAEMONSET, f"{DAEMONSET}-gpu"}
    labels = {
        c["metadata"]["name"]: c["metadata"]["labels"] for c in kubectl.list("configmap", "-l", "kubecache.io/group")
    }
    assert labels[f"{CONFIG_MAP}-gpu"]["kubecache.io/group"] == "gpu"
    assert labels[f"{CONFIG_MAP}-gpu"]["kubecache.io/deployment"] == DEPLOYMENT
    kept = module("daemonset", sets="all", wait=True, wait_timeout=60)
    assert [set_["group"] for set_ in kept["sets"]] == ["", "gpu"]
    assert kept["summary"]["cached"] == 3  # One image on two nodes, one on one.
    told = module("install", images=[], **options, check=True)
    assert [o["name"].split("/")[1] for o in told["objects"] if o["action"] == "deleted"] == [CONFIG_MAP, DAEMONSET]
    assert names(kubectl, "daemonset") == {DAEMONSET, f"{DAEMONSET}-gpu"}
    told = module("install", images=[], **options)
    assert [set_["settings"] is None for set_ in told["sets"]] == [False, True]
    eventually(lambda: names(kubectl, "daemonset") == {f"{DAEMONSET}-gpu"})


def test_check_mode_names_what_a_group_would_bring_and_makes_none_of_it(
    cluster: Cluster, namespace: str, playbook: Playbook
) -> None:
    told = playbook("install", "--check", "--diff", groups=GROUPS).stdout
    for name in (f"ConfigMap {namespace}/{CONFIG_MAP}-gpu", f"DaemonSet {namespace}/{DAEMONSET}-gpu"):
        assert f"+++ after: {name} (created)" in told
    assert f"ConfigMap {namespace}/{CONFIG_MAP} (created)" not in told
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""


def test_what_is_wrong_with_one_group_keeps_no_other_from_being_mended(
    namespace: str, pools: tuple[str, str], module: Module, kubectl: Kubectl, cluster: Cluster
) -> None:
    module("install", groups=[*GROUPS, group("more", MORE, pool="cpu")], controller=False)
    labels = {"app": "other"}
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": f"{DAEMONSET}-cpu", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": CPU}]}},
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(foreign))
    kubectl.patch("configmap", f"{CONFIG_MAP}-gpu", {"data": {"CACHING_CPU_LIMIT": "much"}})
    told = module("daemonset", sets="all", ok=False)
    assert f"group cpu: DaemonSet {namespace}/{DAEMONSET}-cpu was not made by the Image Puller" in told["msg"]
    assert "group gpu: The settings have 1 problem; nothing was changed.\n- CACHING_CPU_LIMIT 'much'" in told["msg"]
    assert [(set_["group"], set_["action"], set_["verdict"]) for set_ in told["sets"]][:2] == [
        ("cpu", "none", "Degraded"),
        ("gpu", "none", "InvalidSettings"),
    ]
    assert told["sets"][2]["action"] == "created"
    assert names(kubectl, "daemonset") == {f"{DAEMONSET}-cpu", f"{DAEMONSET}-more"}
    info = module("info", sets="all")
    assert info["verdict"] == "InvalidSettings"
    assert info["sets"][1]["report"]["problems"][0].startswith("CACHING_CPU_LIMIT 'much'")


def test_what_is_wrong_with_groups_is_told_before_anything_is_asked(cluster: Cluster, module: Module) -> None:
    mark = cluster.audit_mark()
    wrong = [{**GROUPS[0], "name": "CPU"}, {"name": "gpu", "images": "cuda"}]
    told = module("install", groups=wrong, ok=False)["msg"]
    assert told.startswith("The settings have 2 problems; nothing was changed.\n- groups, entry 1 (CPU): name 'CPU': ")
    assert "- groups, entry 2 (gpu): images, entry 1 'cuda': there is no '='" in told
    assert [event for event in cluster.audit(mark) if "admin" in event["user"]] == []


def test_two_installations_in_one_namespace_leave_each_others_sets_alone(
    pools: tuple[str, str], module: Module, kubectl: Kubectl
) -> None:
    """The names of the second begin as those of the first's groups do."""
    second: dict[str, Any] = {"config_map_name": f"{CONFIG_MAP}-b", "daemonset_name": "b", "deployment_name": "b"}
    module("install", groups=GROUPS[:1], controller=False, daemonset=True)
    module("install", images={"more": MORE}, groups=GROUPS[1:], controller=False, daemonset=True, **second)
    assert names(kubectl, "daemonset") == {f"{DAEMONSET}-cpu", "b", "b-gpu"}
    assert [set_["config_map_name"] for set_ in module("info", sets="all")["sets"]] == [f"{CONFIG_MAP}-cpu"]
    module("install", groups=[group("gpu", GPU)], controller=False, daemonset=True)
    eventually(lambda: names(kubectl, "daemonset") == {f"{DAEMONSET}-gpu", "b", "b-gpu"})
    module("config", state="absent", sets="all")
    module("daemonset", state="absent", sets="all")
    eventually(lambda: names(kubectl, "daemonset") == {"b", "b-gpu"})
    assert f"{CONFIG_MAP}-b-gpu" in names(kubectl, "configmap")


@pytest.mark.thorough
def test_two_controllers_in_one_namespace_share_their_rights_until_the_last_has_gone(
    pools: tuple[str, str], module: Module, kubectl: Kubectl
) -> None:
    """Both name a pull secret, and the second has an account of its own; whoever is installed last leaves the same."""

    def rights() -> tuple[Any, ...]:
        role, binding = (kubectl.get(kind, "k8s-image-puller") or {} for kind in ("role", "rolebinding"))
        (secrets,) = [rule["resourceNames"] for rule in role["rules"] if rule["resources"] == ["secrets"]]
        return secrets, [subject["name"] for subject in binding["subjects"]]

    first: dict[str, Any] = {"images": {"cpu": CPU}, "image_pull_secrets": ["one"]}
    second: dict[str, Any] = {"config_map_name": "b", "daemonset_name": "b", "deployment_name": "b"}
    second |= {"service_account_name": "b"}
    module("install", **first)
    module("install", images={"more": MORE}, image_pull_secrets=["two"], **second)
    assert rights() == (["one", "two"], ["b", "k8s-image-puller"])
    assert not module("install", **first)["changed"]
    assert not module("install", images={"more": MORE}, image_pull_secrets=["two"], **second)["changed"]
    gone = module("install", state="absent", **second)
    said = r"Role \S+/k8s-image-puller stays: Deployment \S+ still uses it"
    assert any(re.fullmatch(said, left) for left in gone["left"])
    assert "b" not in names(kubectl, "deployment") | names(kubectl, "serviceaccount") | names(kubectl, "configmap")
    assert {"k8s-image-puller"} <= names(kubectl, "serviceaccount") & names(kubectl, "role")
    assert names(kubectl, "deployment") == {"kubernetes-image-puller"}
    assert module("install", **first)["changed"], "what only the second needed is taken back"
    assert rights() == (["one"], ["k8s-image-puller"])
    assert module("install", state="absent")["left"] == []


def test_settings_of_all_sets_at_once_are_refused(module: Module) -> None:
    told = module("daemonset", sets="all", images={"java11": CPU}, ok=False)["msg"]
    assert told == "sets=all takes the settings of the ConfigMaps. Leave images and settings out"
    told = module("config", sets="all", images={"java11": CPU}, ok=False)["msg"]
    assert told == "sets=all needs state=absent: settings are those of one set. Leave sets out"
