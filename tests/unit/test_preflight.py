# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan says what is sure, what is doubtful and what nobody knows, in the same shape whatever it is."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.access import read_access
from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import Cost
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import from_secret, from_text
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import Lock, Locked
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import Policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.preflight import (
    Admission,
    PullSecret,
    Survey,
    on_disk,
    plan,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Facts, Layer, RegistryError
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE, InvalidSettings
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Shared, node_slimmer
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import refusal, warnings_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.table import plan_table

from . import objects
from .objects import JAVA, THEIA

GIGABYTE = 10**9
BASE = Layer("sha256:" + "0" * 64, GIGABYTE)
HELPER = Facts("sha256:" + "9" * 64, ("linux/amd64", "linux/arm64"), {"linux/amd64": (), "linux/arm64": ()}, "ghcr.io")


def node(name: str = "node-1", *, machine: str = "amd64", disk: str = "100Gi", **more: Any) -> dict[str, Any]:
    """A node of four cores, 8 GiB and 110 pods."""
    made = objects.node(name, **more)
    made["status"] |= {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": disk},
        "nodeInfo": {"operatingSystem": "linux", "architecture": machine, "kubeletVersion": "v1.36.3"},
    }
    return made


def facts(letter: str, *sizes: int, platforms: tuple[str, ...] = ("linux/amd64",), **more: Any) -> Facts:
    """An image of the common base and layers of these sizes, for each platform."""
    own = tuple(Layer(f"sha256:{letter * 60}{number:04}", size) for number, size in enumerate(sizes))
    digest = "sha256:" + letter * 64
    return Facts(digest, platforms, dict.fromkeys(platforms, (BASE, *own)), "registry.example.com", **more)


GOOD = {JAVA.image: facts("a", GIGABYTE), THEIA.image: facts("b", 2 * GIGABYTE), HELPER_IMAGE: HELPER}


def survey(*nodes: dict[str, Any], **more: Any) -> Survey:
    """What is read where all is well, unless said otherwise."""
    known: dict[str, Any] = {"namespace": {"metadata": {}}, "taken": {}, "answers": GOOD, **more}
    return Survey(nodes=list(nodes) or [node()], **known)


def made(found: Survey | None = None, **options: Any) -> dict[str, Any]:
    """The plan of these options, which is the same whether nodes are whole or as they are kept."""
    settings, found = [objects.settings(**options)], found or survey()
    planned = plan(settings, found)
    slim = node_slimmer(Shared(), room=True)
    kept = replace(found, nodes=None if found.nodes is None else [slim(node) for node in found.nodes])
    assert plan(settings, kept) == planned
    assert json.loads(json.dumps(planned)) == planned, "the plan is not plain data"
    for width in (60, 80, 120):
        assert max(map(len, plan_table(planned, width))) <= width
    return planned


def told(planned: dict[str, Any], about: str) -> list[tuple[str, str]]:
    """(level, message) of what a plan finds about something."""
    return [(f["level"], f["message"]) for f in planned["findings"] if f["about"] == about]


def test_the_documented_example() -> None:
    images = {f"image-{number}": f"registry.example.com/i{number}:1" for number in range(5)}
    planned = made(survey(*(node(f"node-{number}") for number in range(20))), images=images)
    assert planned["sets"][0]["documented"] == "20Mi x 5 images x 20 nodes = 2000Mi"
    assert planned["cost"]["total"]["memory_limits"] == "2000Mi"
    assert planned["cost"]["total"]["pods"] == 20


def test_where_all_is_well_the_plan_fits() -> None:
    planned = made(survey(node("node-1"), node("node-2")))
    assert (planned["verdict"], planned["findings"]) == ("Fits", [])
    assert planned["cost"]["node"] == {
        "pods": 1,
        "cpu_requests": "100m",
        "cpu_limits": "400m",
        "memory_requests": "20Mi",
        "memory_limits": "40Mi",
        "compressed": 4 * GIGABYTE,
        "unpacked": 11_200_000_000,
        "disk": 15_200_000_000,
    }
    assert planned["cost"]["total"]["unpacked"] == 22_400_000_000
    assert planned["cost"]["unpack_factor"] == 2.8
    line = "Disk of one node: 4.0 GB compressed and 11.2 GB unpacked (estimate: 2.8 times)"
    assert line in plan_table(planned, 80)
    assert warnings_of(planned) == []


def test_the_shape_is_the_same_whatever_is_known() -> None:
    def shape(value: Any) -> Any:
        return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else None

    known = made(survey(namespace={"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}))
    unknown = made(Survey())
    assert known["pod_security"] == "restricted"
    assert unknown["nodes"]["matching"] is unknown["cost"]["total"]["pods"] is unknown["cost"]["node"]["disk"] is None
    for part in (known, unknown):
        part["nodes"]["platforms"] = part["cost"]["least_free"] = {}
    assert shape(known) == shape(unknown)
    assert shape(known["images"][0]) == shape(unknown["images"][0])


def test_layers_that_images_share_are_counted_once_and_those_that_are_there_not_at_all() -> None:
    assert made()["cost"]["node"]["disk"] == on_disk(4 * GIGABYTE)
    assert on_disk(GIGABYTE) == int(3.8 * GIGABYTE)
    planned = made(survey(node("node-1", images=[JAVA.image]), node("node-2", images=[JAVA.image, THEIA.image])))
    needs = {row["name"]: row["needs"]["disk"] for row in planned["nodes"]["rows"]}
    assert needs == {"node-1": on_disk(2 * GIGABYTE), "node-2": 0}


def test_one_image_that_nobody_knows_leaves_the_disk_unknown() -> None:
    planned = made(survey(answers={**GOOD, THEIA.image: RegistryError("network", "quay.io does not answer in time")}))
    assert planned["cost"]["node"]["disk"] is None
    assert planned["verdict"] == "Fits"
    assert told(planned, "images") == [
        ("note", f"theia ({THEIA.image}): quay.io does not answer in time. This may be otherwise on the nodes")
    ]


def test_a_class_that_is_not_there_is_an_error_and_one_that_may_not_be_read_is_not() -> None:
    classes = {("PriorityClass", "low"): None, ("RuntimeClass", "kata"): {"handler": "kata"}}
    options = {"priority_class_name": "low", "runtime_class_name": "kata"}
    planned = made(survey(classes=classes), **options)
    assert planned["verdict"] == "Blocked"
    assert told(planned, "classes") == [
        (
            "error",
            "the PriorityClass low does not exist, and pods with it are refused. Remedy: create it, or correct "
            "priority_class_name or deployment_priority_class_name",
        )
    ]
    assert made(survey(), **options)["verdict"] == "Fits"


def test_a_lock_for_other_platforms_is_an_error_and_a_tag_that_moved_a_warning() -> None:
    digest = f"sha256:{'e' * 64}"
    entry = Locked("cache", "java11", JAVA.image, digest, {"linux/s390x": digest}, 1, objects.NOW)
    planned = plan([objects.settings()], survey(), lock=Lock("lock.yml", (entry,)))
    (wrong, error), (moved, warning) = told(planned, "lock")
    assert (wrong, moved) == ("error", "warning")
    assert error.startswith(
        f"lock 'lock.yml': the image java11 ({JAVA.image}) is locked for linux/s390x, and its nodes need linux/amd64. "
        "Remedy: write the lock anew"
    )
    assert warning.startswith(f"java11 ({JAVA.image}) is ")
    assert f"in its registry now, and the lock has {digest} since" in warning
    unknown = plan([objects.settings()], survey(answers={}), lock=Lock("lock.yml", (entry,)))
    assert [level for level, _message in told(unknown, "lock")] == ["error"]


def test_what_a_runtime_takes_for_itself_counts_and_its_nodes_are_named() -> None:
    class_ = {
        "overhead": {"podFixed": {"memory": "100Mi", "cpu": "250m"}},
        "scheduling": {"nodeSelector": {"sandbox": "yes"}},
    }
    found = survey(node("node-1"), classes={("RuntimeClass", "kata"): class_})
    planned = made(found, runtime_class_name="kata")
    assert planned["cost"]["node"]["memory_requests"] == "120Mi"
    assert planned["cost"]["node"]["cpu_requests"] == "350m"
    assert told(planned, "classes") == [
        (
            "warning",
            'the RuntimeClass kata is for nodes with {"sandbox": "yes"} only, and 1 node (node-1) lacks it: pods there '
            "would wait for ever. Remedy: set node_selector to it, too",
        )
    ]


def test_the_kubelets_measure_goes_before_what_the_node_has_for_pods() -> None:
    planned = made(survey(disk={"node-1": (20 * GIGABYTE, 100 * GIGABYTE)}))
    assert planned["nodes"]["rows"][0]["free"]["disk"] == 5 * GIGABYTE  # The kubelet keeps 15 % free.
    assert told(planned, "disk") == [
        (
            "warning",
            "the node has too little space for images (node-1): node-1 lacks 10.2 GB. "
            "Remedy: cache fewer images there, or enlarge the nodes' image file system",
        )
    ]


def test_nodes_without_room_are_named_with_what_they_lack() -> None:
    full = {"node-2": Cost(1, cpu_requests=Decimal("3.95")), "node-3": Cost(1, cpu_requests=Decimal("4"))}
    planned = made(survey(*(node(f"node-{n}") for n in range(1, 6)), taken=full))
    assert planned["verdict"] == "Doubtful"
    assert told(planned, "cpu") == [
        (
            "warning",
            "2 of 5 nodes have too little cpu (node-2, node-3): node-3 lacks 100m. Remedy: lower caching_cpu_request, "
            "free room there, or leave these nodes out",
        )
    ]
    assert [row["name"] for row in planned["nodes"]["rows"]][:2] == ["node-2", "node-3"]
    assert planned["nodes"]["rows"][0]["lacks"] == {"cpu": "50m"}


def test_room_nowhere_is_an_error() -> None:
    planned = made(survey(node("node-1"), node("node-2")), caching_memory_request="5Gi", caching_memory_limit="5Gi")
    assert planned["verdict"] == "Blocked"
    ((level, message),) = told(planned, "memory")
    assert level == "error"
    assert message.startswith("both nodes have too little memory (node-1, node-2): node-1 lacks 2Gi. ")
    assert refusal(planned).startswith("The installation would not work; nothing was changed.\n- both nodes have ")


def test_a_node_that_is_skipped_for_a_taint_gets_its_toleration_named() -> None:
    taint = {"key": "gpu", "effect": "NoSchedule"}
    planned = made(survey(node(), node("node-2", taints=[taint])))
    ((level, message),) = told(planned, "nodes")
    assert level == "note"
    assert "1 node skipped for a taint (node-2); the toleration would be" in message
    assert (planned["nodes"]["matching"], planned["nodes"]["skipped"]) == (1, 1)


def test_of_many_taints_the_first_get_their_tolerations_named_and_the_others_are_counted() -> None:
    teams = [{"key": "dedicated", "value": f"team-{n}", "effect": "NoSchedule"} for n in range(40)]
    tenants = [node(f"node-{n:02}", taints=[team]) for n, team in enumerate([*teams, teams[7]])]
    planned = made(survey(node(), *tenants))
    notes = [message for _level, message in told(planned, "nodes")]
    assert len(notes) == 4
    assert notes[0].startswith("2 nodes skipped for a taint (node-07, node-40); the toleration would be")
    assert "team-7" in notes[0]
    assert notes[3] == "37 nodes skipped for 37 other taints (node-02, node-03, node-04 and 34 more)"
    assert planned["nodes"]["skipped"] == 41


@pytest.mark.parametrize("key", ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"])
def test_a_node_that_an_autoscaler_takes_away_needs_nothing_and_gets_no_toleration(key: str) -> None:
    going = node("node-2", taints=[{"key": key, "value": "1764511200", "effect": "NoSchedule"}])
    planned = made(survey(node(), going))
    assert (planned["nodes"]["matching"], planned["nodes"]["skipped"], planned["findings"]) == (1, 0, [])
    candidate = {"key": "DeletionCandidateOfClusterAutoscaler", "effect": "PreferNoSchedule"}
    for kept in (made(survey(node(taints=[candidate]))), made(survey(going), tolerations=[{"operator": "Exists"}])):
        assert (kept["nodes"]["matching"], kept["nodes"]["skipped"]) == (1, 0)


def test_no_node_at_all_is_doubtful() -> None:
    planned = made(node_selector={"disk": "none"})
    assert planned["verdict"] == "Doubtful"
    assert "no node would hold the images" in told(planned, "nodes")[0][1]


def test_a_quota_is_told_with_what_to_change() -> None:
    quota = {"metadata": {"name": "small"}, "status": {"hard": {"requests.cpu": "1"}, "used": {"requests.cpu": "700m"}}}
    planned = made(survey(*(node(f"node-{n}") for n in range(5)), quotas=[quota]))
    assert told(planned, "quota") == [
        (
            "error",
            "ResourceQuota small is too small in requests.cpu: 500m needed, 300m of 1 left, 200m missing. "
            "Remedy: raise its hard requests.cpu to 1200m, or lower caching_cpu_request to 30m, or cache fewer images",
        )
    ]


def test_a_quota_without_room_for_moved_tags_is_noted() -> None:
    quota = {"metadata": {"name": "tight"}, "status": {"hard": {"requests.cpu": "300m", "pods": "9"}, "used": {}}}
    nodes = survey(node("node-1"), node("node-2"), quotas=[quota])
    other = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "50m"}}}]}

    def noted(*others: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
        return told(plan([objects.settings(**options)], nodes, others=others), "quota")

    assert noted(other) == [
        (
            "note",
            "ResourceQuota tight has no room in requests.cpu for the short-lived pods that bring moved tags to the "
            "nodes: 50m missing. Without them the nodes keep what the tags stand for now. Remedy: raise its hard "
            "requests.cpu to 350m, or set refresh to never",
        )
    ]
    assert noted() == noted(other, refresh="never") == noted(other, images=f"java11={JAVA.image}") == []


def test_what_a_limit_range_gives_counts_and_can_be_lowered() -> None:
    quota = {"metadata": {"name": "small"}, "status": {"hard": {"requests.ephemeral-storage": "1Gi"}, "used": {}}}
    item = {
        "type": "Container",
        "defaultRequest": {"ephemeral-storage": "1Gi"},
        "default": {"ephemeral-storage": "1Gi"},
    }
    limit_range = {"metadata": {"name": "given"}, "spec": {"limits": [item]}}
    assert told(made(survey(quotas=[quota])), "quota") == []
    assert told(made(survey(quotas=[quota], limit_ranges=[limit_range])), "quota") == [
        (
            "error",
            "ResourceQuota small is too small in requests.ephemeral-storage: 2Gi needed, 1Gi of 1Gi left, 1Gi missing. "
            "Remedy: raise its hard requests.ephemeral-storage to 2Gi, or lower the default for ephemeral-storage that "
            "a LimitRange gives to containers, or cache fewer images",
        )
    ]


def test_a_quota_on_objects_is_told_with_what_to_change() -> None:
    hard = {"count/configmaps": "3"}
    quota = {"metadata": {"name": "small"}, "status": {"hard": hard, "used": {"count/configmaps": "3"}}}
    assert told(made(survey(quotas=[quota], objects={"count/configmaps": (1, 0)})), "quota") == [
        (
            "error",
            "ResourceQuota small is too small in count/configmaps: 1 needed, 0 of 3 left, 1 missing. "
            "Remedy: raise its hard count/configmaps to 4",
        )
    ]
    assert told(made(survey(quotas=[quota], objects={"count/configmaps": (1, 1)})), "quota") == []


def test_what_a_limit_range_refuses_is_told_of_each_pod_with_its_own_remedy() -> None:
    bounds = [
        {"type": "Pod", "max": {"ephemeral-storage": "1Gi"}},
        {"type": "Container", "max": {"cpu": "100m"}},
    ]
    limit_range = {"metadata": {"name": "bounds"}, "spec": {"limits": bounds}}
    resources = {"resources": {"limits": {"cpu": "500m"}}}
    others = [{"containers": [{"name": name, **resources}]} for name in ("image-puller", "operator")]
    planned = plan([objects.settings()], survey(limit_ranges=[limit_range]), others=others)
    sentences = [message.removeprefix("LimitRange bounds refuses ") for _level, message in told(planned, "limit_range")]
    storage = (
        "the pod may have 1Gi ephemeral-storage at most, and says nothing of it. Remedy: give containers a default for "
        "ephemeral-storage in a LimitRange of type Container, or lift this bound"
    )
    cpu = "each container may have 100m cpu at most, and its limit is"
    assert sentences == [
        f"the pods: {storage}",
        f"the pods: {cpu} 200m. Remedy: lower caching_cpu_limit",
        f"the controller's pod: {storage}",
        f"the controller's pod: {cpu} 500m. Remedy: lower deployment_cpu_limit",
        f"the operator's pod: {storage}",
        f"the operator's pod: {cpu} 500m. Remedy: lift this bound, since nothing changes what the operator asks for",
    ]


def test_more_nodes_than_match_are_a_warning_since_they_may_still_join() -> None:
    planned = plan([objects.settings()], survey(node("node-1"), node("node-2")), policy=Policy("10"))
    assert told(planned, "nodes") == [
        (
            "warning",
            "kubernetes-image-puller: wait_for asks for 10 nodes, and there are 2. Remedy: ask for fewer, or for a "
            "share such as 95%, unless more nodes join in time",
        )
    ]


def test_so_many_nodes_as_min_nodes_asks_for_are_none_to_warn_of_and_fewer_are() -> None:
    found, elsewhere = survey(node("node-1"), node("node-2")), [objects.settings(node_selector={"pool": "gpu"})]
    ((level, said),) = told(plan([objects.settings()], found, policy=Policy(min_nodes=5)), "nodes")
    assert (level, "min_nodes asks for 5 nodes, and there are 2. Remedy: " in said) == ("warning", True)
    ((level, said),) = told(plan(elsewhere, found, policy=Policy(min_nodes=1)), "nodes")
    assert (level, said.endswith("set min_nodes to 0 if the pool may be empty")) == ("warning", True)
    ((level, said),) = told(plan(elsewhere, found, policy=Policy(min_nodes=0)), "nodes")
    assert (level, "Remedy" in said) == ("note", False)


def test_image_volumes_are_recommended_where_every_node_can_and_they_cost_less() -> None:
    def able(runtime: str = "containerd://2.3.7") -> dict[str, Any]:
        found = node()
        found["status"]["nodeInfo"]["containerRuntimeVersion"] = runtime
        return found

    many = {f"image-{n}": JAVA.image.replace("2.1", str(n)) for n in range(20)}
    assert told(made(survey(able()), images=many), "strategy") == [
        (
            "note",
            "with image volumes a node would reserve 10m CPU and 32Mi for 20 images, instead of 1 and 200Mi, and every "
            "node here can mount them. Remedy: let strategy be auto",
        )
    ]
    assert told(made(survey(able("containerd://1.7.27")), images=many), "strategy") == []
    assert told(made(survey(able()), images=many, strategy="auto"), "strategy") == []
    assert told(made(survey(able())), "strategy") == []


def test_the_plan_of_image_volumes_has_no_formula_and_no_remedy_that_changes_nothing() -> None:
    quota = {"metadata": {"name": "small"}, "status": {"hard": {"requests.memory": "40Mi"}, "used": {}}}
    settings = objects.settings(strategy="image_volume")
    planned = plan([settings], survey(node("node-1"), node("node-2"), quotas=[quota]))
    assert planned["sets"][0]["documented"] is None
    assert planned["cost"]["total"]["memory_requests"] == "64Mi"
    assert told(planned, "quota")[0][1].endswith("raise its hard requests.memory to 64Mi, or cache on fewer nodes")


def test_what_other_pods_of_the_installation_need_is_not_there_for_images() -> None:
    quota = {"metadata": {"name": "small"}, "status": {"hard": {"requests.memory": "75Mi"}, "used": {}}}
    other = {"containers": [{"resources": {"requests": {"memory": "64Mi"}}}]}
    planned = plan([objects.settings(images=f"java11={JAVA.image}")], survey(node(), quotas=[quota]), others=[other])
    assert planned["verdict"] == "Fits"
    two = survey(node("node-1"), node("node-2"), quotas=[quota])
    planned = plan([objects.settings(images=f"java11={JAVA.image}")], two, others=[other])
    assert "84Mi needed, 75Mi of 75Mi left, 9Mi missing" in told(planned, "quota")[0][1]
    assert "or lower caching_memory_request to 5Mi, or cache fewer images" in told(planned, "quota")[0][1]


@pytest.mark.parametrize(
    ("class_", "message", "level", "remedy"),
    [
        ("not_found", "r has no image x:1", "error", "Remedy: correct the tag or the repository, or push the image"),
        ("unauthorized", "r wants a login for x", "warning", "Remedy: name a pull secret with image_pull_secrets"),
        ("unauthorized", "r does not accept the login of s for x", "error", "Remedy: correct the login in it"),
        ("rate_limit", "r wants fewer requests (429)", "note", "This may be otherwise on the nodes"),
        ("untrusted", "the certificate of r is not trusted (x)", "note", "This may be otherwise on the nodes"),
    ],
)
def test_an_image_is_wrong_only_where_its_registry_says_so(class_: str, message: str, level: str, remedy: str) -> None:
    planned = made(survey(answers={**GOOD, JAVA.image: RegistryError(class_, message)}))
    ((found, sentence),) = told(planned, "images")
    assert found == level
    assert sentence.startswith(f"java11 ({JAVA.image}): {message}. {remedy}")


def test_nodes_of_another_platform_are_counted_and_named() -> None:
    mixed = [node("node-1"), node("node-2", machine="arm64"), node("node-3", machine="arm64")]
    planned = made(survey(*mixed))
    assert planned["nodes"]["platforms"] == {"linux/amd64": 1, "linux/arm64": 2}
    assert told(planned, "platforms")[0] == (
        "warning",
        f"java11 ({JAVA.image}) does not exist for linux/arm64, which 2 of 3 nodes have (node-2, node-3). "
        "Remedy: name an image that does, or leave these nodes out with node_selector",
    )
    assert told(made(survey(*mixed[1:])), "platforms")[0][0] == "error"


def test_moving_tags_and_images_that_are_the_same_are_named() -> None:
    images = {"a": "registry.example.com/x:1", "b": "registry.example.com/x:stable", "c": "registry.example.com/y"}
    answers = {**GOOD, images["a"]: facts("a"), images["b"]: facts("a"), images["c"]: facts("c")}
    messages = [message for _level, message in told(made(survey(answers=answers), images=images), "images")]
    assert messages[0].startswith("c: what the tag latest (or none) stands for changes")
    assert messages[1].startswith("a, b are one and the same image (sha256:aaaaaaaaaaaa...)")
    assert {level for level, _message in told(made(survey(answers=answers), images=images), "images")} == {"note"}


SECRET = {
    "type": "kubernetes.io/dockercfg",
    "metadata": {"name": "old"},
    "data": {".dockercfg": "eyJyZWdpc3RyeS5leGFtcGxlLmNvbSI6IHsiYXV0aCI6ICJZVHBpIn19"},
}


def test_private_images_need_a_fitting_secret_here_and_at_their_consumers() -> None:
    answers = {**GOOD, JAVA.image: facts("a", private=True, login="the auth file")}
    planned = made(survey(answers=answers))
    assert told(planned, "pull_secrets")[0][1].startswith("java11: private, and no pull secret of the set fits. ")
    assert "java11 is private: since Kubernetes 1.35" in told(planned, "consumers")[0][1]
    fitting = PullSecret("old", "found", from_secret(SECRET))
    planned = made(survey(answers=answers, pull_secrets=[fitting]), image_pull_secrets="old")
    assert told(planned, "pull_secrets") == []
    assert planned["pull_secrets"] == [{"name": "old", "state": "found", "registries": ["registry.example.com"]}]


def test_consumers_of_older_kubelets_need_no_login() -> None:
    old = node()
    old["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.9+k3s1"
    answers = {**GOOD, JAVA.image: facts("a", private=True)}
    assert told(made(survey(old, answers=answers)), "consumers") == []


def test_what_spoils_a_pull_secret_is_said_without_its_content() -> None:
    opaque = from_secret({**SECRET, "type": "Opaque"})
    broken = from_secret({**SECRET, "data": {".dockercfg": "c2VjcmV0"}})
    entry = from_text('{"auths": {"r.example.com": {"auth": "c2VjcmV0"}}}', "the auth file")
    helper = from_text('{"credHelpers": {"r.example.com": "store"}}', "the auth file")
    for keyring, sentence in (
        (opaque, "pull secret old has the type Opaque, with which no node can pull. Remedy: make one of type "),
        (broken, "pull secret old is no Docker configuration in JSON. Remedy: write it anew"),
        (entry, "the auth file has no usable login for 'r.example.com'. Remedy: write its entry anew"),
        (helper, "the auth file names programs that keep logins (credHelpers); they are not asked"),
    ):
        assert keyring.problems[0].startswith(sentence)
        assert "secret" not in keyring.problems[0].replace("pull secret", "")


@given(st.text(max_size=40) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(json.dumps))
def test_no_auth_file_breaks_us(text: str) -> None:
    assert from_text(text, "the auth file").entries == ()


def test_on_openshift_the_scc_is_named_or_refused() -> None:
    fine = Admission("a", scc="restricted-v2")
    assert made(survey(admissions=[fine, Admission("b", scc="restricted-v2")]))["scc"] == "restricted-v2"
    assert made(survey(admissions=[fine, Admission("b", scc="gpu")]))["scc"] == "restricted-v2, gpu"
    refused = made(survey(admissions=[fine, Admission("b", refused=True, reason="none fits them")]))
    assert refused["verdict"] == "Blocked"
    assert told(refused, "scc")[0] == (
        "error",
        "no SecurityContextConstraints admit the pods of b (none fits them). Remedy: grant their ServiceAccount the "
        "use of restricted-v2",
    )
    silent = [Admission(name, reason="it may not be asked") for name in ("a", "b")]
    unknown = made(survey(admissions=silent))
    assert told(unknown, "scc")[0] == (
        "note",
        "which SecurityContextConstraints admit the pods of a, b is unknown: it may not be asked",
    )
    assert len(told(unknown, "scc")) == 2  # And the annotation of the namespace.


def test_many_nodes_are_bounded_and_those_that_lack_something_come_first() -> None:
    nodes = [node(f"node-{number:04}") for number in range(1000)]
    planned = made(survey(*nodes, taken={"node-0777": Cost(110)}))
    assert len(planned["nodes"]["rows"]) == 50
    assert planned["nodes"]["omitted"] == 950
    assert planned["nodes"]["rows"][0]["name"] == "node-0777"
    assert len(json.dumps(planned)) < 30_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"registry_mirrors": {"https://quay.io": "r"}}, "registry_mirrors 'https://quay.io': "),
        ({"registry_mirrors": {"quay.io": ["mirror.example.com", "a b"]}}, "registry_mirrors 'a b': "),
        ({"registry_mirrors": {"team": "r.example.com"}}, "registry_mirrors 'team': it names no registry. "),
        ({"registry_insecure": ["https://r.example.com"]}, "registry_insecure 'https://r.example.com': "),
        ({"registry_auth_file": "/nowhere/auth.json"}, "registry_auth_file '/nowhere/auth.json': it can't be read. "),
        ({"registry_ca_file": "/nowhere/ca.pem"}, "registry_ca_file '/nowhere/ca.pem': no certificate can be read "),
        ({"registry_ca_file": __file__}, "no certificate can be read from it. Remedy: name a file"),
    ],
)
def test_options_for_registries_are_refused_with_key_and_remedy(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_access(options)
    assert said in str(caught.value)
    assert "Remedy: " in str(caught.value)


def test_options_for_registries_are_read() -> None:
    access = read_access(
        {
            "registry_mirrors": {
                "quay.io": "m.example.com/quay",
                "docker.io/library": ["a.example.com", "b.example.com"],
            },
            "registry_insecure": ["m.example.com", "http://10.0.0.1:5000", " "],
        }
    )
    assert access.mirrors == {
        "quay.io": ("m.example.com/quay",),
        "docker.io/library": ("a.example.com", "b.example.com"),
    }
    assert access.insecure == {"m.example.com"}
    assert access.plain == {"10.0.0.1:5000"}


def test_the_plan_is_read_in_ten_seconds() -> None:
    quota = {"metadata": {"name": "small"}, "status": {"hard": {"pods": "1"}, "used": {}}}
    answers = {**GOOD, THEIA.image: RegistryError("not_found", "registry.example.com has no image team/theia:2.1")}
    planned = made(survey(node("node-1"), node("node-2"), quotas=[quota], answers=answers))
    assert plan_table(planned, 80) == [
        "Blocked: it would not work as it stands; 2 errors below",
        "",
        "IMAGE   REGISTRY    SIZE  PLATFORMS",
        "java11  found     2.0 GB  amd64",
        "theia   missing        -",
        "helper  found       0 kB  amd64 arm64",
        "",
        "COST             ONE NODE  2 NODES  LEAST FREE",
        "CPU requests         100m     200m  4 on node-1",
        "CPU limits           400m     800m",
        "memory requests      20Mi     40Mi  8Gi on node-1",
        "memory limits        40Mi     80Mi",
        "pods                    1        2  110 on node-1",
        "disk (estimate)         ?        ?  107 GB on node-1",
        "Memory as documented: 20Mi x 2 images x 2 nodes = 80Mi",
        "",
        "QUOTA  RESOURCE  NEEDED  USED  HARD",
        "small  pods           2     0     1",
        "",
        "- error: ResourceQuota small is too small in pods: 2 needed, 1 of 1 left, 1",
        "  missing.",
        "  Remedy: raise its hard pods to 2, or cache on fewer nodes",
        "- error: theia (registry.example.com/team/theia:2.1): registry.example.com has",
        "  no image team/theia:2.1.",
        "  Remedy: correct the tag or the repository, or push the image",
    ]
