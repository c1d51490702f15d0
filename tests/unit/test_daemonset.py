# SPDX-License-Identifier: GPL-3.0-or-later
"""The DaemonSet of a set: one container an image, a guest on the node, and the same bytes every time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_per_node
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    BUILDER_NUMBER,
    build_daemonsets,
    builder_number,
    held_images,
    helper_images,
    node_affinity,
    overruled_labels,
    revision,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import selects
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    HELPER_IMAGE,
    from_config_map,
    from_options,
    require,
    to_config_map,
)
from tests.unit import objects

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
VIRTUAL = [{"type": "virtual-kubelet"}, {"eks.amazonaws.com/compute-type": "fargate"}]


def _pod_spec(**options: Any) -> dict[str, Any]:
    spec: dict[str, Any] = objects.desired(**options)["spec"]["template"]["spec"]
    return spec


@given(objects.good_options)
def test_the_same_settings_give_the_same_bytes_by_every_way(options: dict[str, Any]) -> None:
    read = require(from_options(options))
    again = require(from_config_map(to_config_map(read)))
    assert json.dumps(build_daemonsets(read)) == json.dumps(build_daemonsets(read))
    assert json.dumps(build_daemonsets(read), sort_keys=True) == json.dumps(build_daemonsets(again), sort_keys=True)


@given(objects.good_options)
def test_each_image_has_one_container_in_the_order_of_the_list_exactly_as_written(options: dict[str, Any]) -> None:
    read = require(from_options(options))
    (daemonset,) = build_daemonsets(read)
    spec = daemonset["spec"]["template"]["spec"]
    assert list(held_images(spec).items()) == [(i.name, i.image) for i in read.images]
    assert [c["name"] for c in spec["containers"]] == [i.name for i in read.images]
    names = [container["name"] for container in spec["containers"] + spec.get("initContainers", [])]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for name in names)


@given(objects.good_options)
def test_building_leaves_the_settings_as_they_are(options: dict[str, Any]) -> None:
    read = require(from_options(options))
    before = to_config_map(read)
    build_daemonsets(read)
    assert to_config_map(read) == before


@pytest.mark.parametrize("openshift", [False, True])
@pytest.mark.parametrize(("strategy", "volume"), [("sleep", "emptyDir"), ("image_volume", "image")])
def test_the_pod_passes_pod_security_restricted(strategy: str, volume: str, openshift: bool) -> None:
    (daemonset,) = build_daemonsets(objects.settings(strategy=strategy), openshift=openshift)
    spec = daemonset["spec"]["template"]["spec"]
    user = {} if openshift else {"runAsUser": 65532}  # On OpenShift the SCC assigns it.
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} | user
    for container in spec["containers"] + spec.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    assert {tuple(each) for each in spec["volumes"]} == {("name", volume)}
    assert spec["automountServiceAccountToken"] is False


def test_a_registry_that_is_down_takes_nothing_away() -> None:
    spec = _pod_spec()
    assert {c["imagePullPolicy"] for c in spec["containers"] + spec["initContainers"]} == {"IfNotPresent"}


def test_image_volumes_run_nothing_of_an_image_and_ask_no_registry_for_what_is_there() -> None:
    spec = _pod_spec(strategy="image_volume", helper_image="r.io/helper:1")
    assert "initContainers" not in spec
    for container, volume, image in zip(
        spec["containers"], spec["volumes"], (objects.JAVA, objects.THEIA), strict=True
    ):
        assert (container["name"], container["image"]) == (image.name, "r.io/helper:1")
        assert container["imagePullPolicy"] == volume["image"]["pullPolicy"] == "IfNotPresent"
        assert volume == {"name": image.name, "image": {**volume["image"], "reference": image.image}}
        assert container["volumeMounts"] == [{"name": image.name, "mountPath": "/image", "readOnly": True}]
    assert helper_images(spec) == ["r.io/helper:1"]


@pytest.mark.parametrize("strategy", ["sleep", "image_volume"])
def test_another_pull_policy_is_of_the_images_and_never_of_the_helper(strategy: str) -> None:
    (daemonset,) = build_daemonsets(objects.settings(strategy=strategy), pull_policy="Always")
    spec = daemonset["spec"]["template"]["spec"]
    of_containers = {container["imagePullPolicy"] for container in spec["containers"]}
    of_volumes = {volume["image"]["pullPolicy"] for volume in spec["volumes"] if "image" in volume}
    of_init_containers = {container["imagePullPolicy"] for container in spec.get("initContainers", [])}
    images, helper = (of_volumes, of_containers) if strategy == "image_volume" else (of_containers, of_init_containers)
    assert (images, helper) == ({"Always"}, {"IfNotPresent"})


def test_what_a_pod_of_image_volumes_asks_for_does_not_grow_with_its_images() -> None:
    images = {f"i{n}": f"r.io/i:{n}" for n in range(20)}
    assert cost_per_node(objects.settings(images=images, strategy="image_volume")) == {
        "pods": 1,
        "images": 20,
        "cpu_requests": "10m",
        "cpu_limits": "200m",
        "memory_requests": "32Mi",
        "memory_limits": "128Mi",
    }
    each = replace(objects.settings(images=images, strategy="image_volume"), pod_resources=False)
    assert cost_per_node(each) == cost_per_node(objects.settings(images=images)), "by container where it has to be"


def test_the_template_of_a_set_that_uses_nothing_new_stays_the_same_to_the_byte() -> None:
    """Another fingerprint is one roll of the cache for every user; BUILDER_NUMBER would be raised with it."""
    assert revision(objects.desired()["spec"]["template"]) == "b75a1ce420b8"


def test_what_is_not_given_is_not_written() -> None:
    assert not {"tolerations", "imagePullSecrets", "priorityClassName", "serviceAccountName"} & set(_pod_spec())
    assert "annotations" not in objects.desired()["metadata"]


def test_what_is_given_reaches_the_pod() -> None:
    spec = _pod_spec(
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        image_pull_secrets="a;b",
        priority_class_name="low",
        cache_service_account_name="cache",
        node_selector={"disktype": "ssd"},
        helper_image="r.io/helper:1",
        caching_cpu_limit="1",
    )
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert (spec["priorityClassName"], spec["serviceAccountName"]) == ("low", "cache")
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "disktype": "ssd"}
    assert spec["initContainers"][0]["image"] == "r.io/helper:1"
    assert spec["containers"][1]["resources"]["limits"]["cpu"] == "1"


def test_annotations_are_of_the_daemonset_alone() -> None:
    daemonset = objects.desired(daemonset_annotations={"example.com/team": "platform"})
    assert daemonset["metadata"]["annotations"] == {"example.com/team": "platform"}
    assert "example.com/team" not in daemonset["spec"]["template"]["metadata"]["annotations"]


def test_a_set_that_uses_no_pod_option_has_the_template_that_it_always_had() -> None:
    """Another fingerprint would exchange every pod of every user."""
    (plain,) = build_daemonsets(objects.settings())
    assert plain["spec"]["template"]["metadata"]["annotations"]["kubecache.io/revision"] == "b75a1ce420b8"
    given = objects.settings(pod_labels="{}", pod_annotations="", runtime_class_name=" ")
    assert build_daemonsets(given) == [plain]


def test_labels_annotations_and_the_runtime_class_reach_the_pods_and_nothing_else() -> None:
    options = {
        "pod_labels": {"team": "platform"},
        "pod_annotations": {"example.com/mesh": "off"},
        "runtime_class_name": "kata",
    }
    plain, daemonset = objects.desired(), objects.desired(**options)
    assert daemonset["metadata"] == plain["metadata"]
    assert daemonset["spec"]["selector"] == plain["spec"]["selector"]
    data, template = plain["spec"]["template"]["metadata"], daemonset["spec"]["template"]
    assert template["metadata"]["labels"] == data["labels"] | {"team": "platform"}
    assert template["metadata"]["annotations"].keys() == {*data["annotations"], "example.com/mesh"}
    assert template["spec"] == plain["spec"]["template"]["spec"] | {"runtimeClassName": "kata"}


def test_a_label_of_an_adopted_selector_stays_and_that_is_said() -> None:
    settings = objects.settings(pod_labels={"app": "mine", "team": "platform"})
    (daemonset,) = build_daemonsets(settings, selector={"app": "theirs"})
    assert (
        daemonset["spec"]["template"]["metadata"]["labels"] | {"app": "theirs", "team": "platform"}
        == (daemonset["spec"]["template"]["metadata"]["labels"])
    )
    assert overruled_labels(settings, daemonset) == (
        "pod_labels app=mine: the selector of the DaemonSet kubernetes-image-puller, which can't be changed, has "
        "another value, which stays. Remedy: leave the label out, or choose another daemonset_name"
    )
    assert overruled_labels(settings, build_daemonsets(settings)[0]) == ""


def test_an_image_may_have_the_name_of_the_init_container() -> None:
    spec = _pod_spec(images={"copy-sleep": "r.io/a:1", "copy-sleep-0": "r.io/b:1"})
    assert spec["initContainers"][0]["name"] == "copy-sleep-0-0"


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("25%", "25%")])
def test_max_unavailable_is_a_number_or_a_percentage(text: str, value: object) -> None:
    strategy = objects.desired(max_unavailable=text)["spec"]["updateStrategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == value


def test_a_selector_that_is_there_is_adopted_and_selects_our_pods() -> None:
    (daemonset,) = build_daemonsets(objects.settings(), selector={"test": "daemonset-test"})
    assert daemonset["spec"]["selector"] == {"matchLabels": {"test": "daemonset-test"}}
    assert daemonset["spec"]["template"]["metadata"]["labels"]["test"] == "daemonset-test"


def test_two_sets_of_a_namespace_select_different_pods() -> None:
    one, other = objects.desired(daemonset_name="one"), objects.desired(daemonset_name="other")
    selector = one["spec"]["selector"]["matchLabels"]
    assert selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    assert not selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()


def test_owners_are_named_without_blocking_their_deletion() -> None:
    owner = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "k8s-image-puller", "uid": "1", "labels": {}},
    }
    (daemonset,) = build_daemonsets(objects.settings(), owners=[owner])
    assert daemonset["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "k8s-image-puller", "uid": "1"}
    ]


# --- virtual nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", VIRTUAL)
@given(affinity=objects.affinities)
def test_no_affinity_brings_pods_to_virtual_nodes(labels: dict[str, str], affinity: dict[str, Any]) -> None:
    more = {"disktype": "ssd", "example.com/zone": "1", "a_b.c": "7"}
    node = objects.node(labels=labels | more)
    assert not selects({"affinity": node_affinity(objects.settings(affinity=affinity))}, node)


@given(
    affinity=objects.affinities, labels=st.dictionaries(st.sampled_from(["disktype", "a_b.c"]), st.sampled_from("17"))
)
def test_other_nodes_are_chosen_as_the_user_says(affinity: dict[str, Any], labels: dict[str, str]) -> None:
    node = objects.node(labels=labels)
    ours = {"affinity": node_affinity(objects.settings(affinity=affinity))}
    assert selects(ours, node) == selects({"affinity": affinity}, node)


def test_an_empty_term_selects_no_node_with_virtual_nodes_excluded_either() -> None:
    affinity: dict[str, Any] = {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": [{}]}}}
    assert not selects({"affinity": node_affinity(objects.settings(affinity=affinity))}, objects.node())


def test_no_container_of_an_image_asks_for_gpus_whatever_the_image_says() -> None:
    """NVIDIA's runtime gives them to each container whose environment names them, and images name all."""
    asleep = objects.desired()["spec"]["template"]["spec"]["containers"]
    assert [each["env"] for each in asleep] == [[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]] * len(asleep)
    mounted = objects.desired(strategy="image_volume")["spec"]["template"]["spec"]["containers"]
    assert {each["image"] for each in mounted} == {HELPER_IMAGE}  # Whose environment names none.


# --- builder, cost ---------------------------------------------------------------------------------------------------


def test_a_template_tells_which_builder_made_it() -> None:
    assert builder_number(objects.served(objects.desired())) == BUILDER_NUMBER


@pytest.mark.parametrize("annotations", [None, {}, {"kubecache.io/builder": "x"}, {"kubecache.io/builder": ""}])
def test_a_template_of_another_maker_has_builder_0(annotations: Any) -> None:
    assert builder_number({"spec": {"template": {"metadata": {"annotations": annotations}}}}) == 0
    assert builder_number({"spec": {"template": {}}}) == 0


def test_the_cost_of_a_node_is_what_its_containers_ask_for_together() -> None:
    assert cost_per_node(objects.settings(images={f"i{n}": f"r.io/i:{n}" for n in range(20)})) == {
        "pods": 1,
        "images": 20,
        "cpu_requests": "1",
        "cpu_limits": "4",
        "memory_requests": "200Mi",
        "memory_limits": "400Mi",
    }


@given(objects.good_options.filter(lambda options: options.get("strategy") != "image_volume"))
def test_the_cost_grows_with_the_number_of_images(options: dict[str, Any]) -> None:
    read = require(from_options(options))
    cost = cost_per_node(read)
    assert parse_quantity(cost["memory_limits"]) == len(read.images) * parse_quantity(read.caching_memory_limit)
    assert parse_quantity(cost["cpu_requests"]) == len(read.images) * parse_quantity(read.caching_cpu_request)
