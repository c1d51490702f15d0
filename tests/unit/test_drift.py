# SPDX-License-Identifier: GPL-3.0-or-later
"""What is ours is compared, in the form the API server keeps it; what is somebody else's is none of our business."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.drift import (
    differences,
    owned_fields,
    owned_template,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import REVISION
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_options, require
from tests.unit import objects

OPTIONS = {
    "daemonset_annotations": {"example.com/team": "platform", "x.requests.cpu": "1"},
    "node_selector": {"disktype": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}, {"key": "x", "effect": "NoExecute", "tolerationSeconds": 3}],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
            ]
        }
    },
    "image_pull_secrets": "a;b",
    "priority_class_name": "low",
    "cache_service_account_name": "cache",
    "pod_labels": {"team": "platform"},
    "pod_annotations": {"example.com/mesh": "off"},
    "runtime_class_name": "sandboxed",
}


def _installation(settings: Any) -> list[dict[str, Any]]:
    made = Installation()
    return [
        installation.namespace(settings, openshift=True),
        installation.priority_class(),
        *installation.nodes_access(made, settings),
        installation.config_map(made, settings),
        installation.cache_service_account(settings),
        *installation.controller(made, settings),
    ]


def test_adopting_makes_the_template_ours_and_leaves_the_rest_to_its_owners() -> None:
    """As kubectl and a controller of somebody else's left it."""
    template = {"f:metadata": {"f:name": {}}, "f:spec": {"f:containers": {'k:{"name":"a"}': {"f:args": {}}}}}
    edited: dict[str, Any] = {"f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}}}}}
    status = {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "subresource": "status",
        "fieldsV1": {"f:status": {}},
    }
    entries = [
        {
            "manager": "kubectl",
            "operation": "Update",
            "fieldsV1": {"f:spec": {"f:template": template, "f:selector": {}}},
        },
        {"manager": "edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": edited}}},
        {"manager": "labels", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": {"f:team": {}}}}},
        status,
    ]
    live = {"apiVersion": "apps/v1", "metadata": {"managedFields": entries}}
    kubectl, labels, told, ours = owned_template(live)
    assert kubectl["fieldsV1"] == {"f:spec": {"f:selector": {}}}
    assert (labels, told) == (entries[2], status)
    assert owned_fields({"metadata": {"managedFields": [ours]}}) == {
        "f:spec": {
            "f:template": {
                "f:metadata": {"f:name": {}},
                "f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:args": {}, "f:image": {}}}},
            }
        }
    }


@given(objects.good_options)
def test_nothing_differs_from_what_the_server_made_of_it(options: dict[str, Any]) -> None:
    settings = require(from_options(options))
    for wanted in [*build_daemonsets(settings), *_installation(settings)]:
        assert differences(wanted, objects.served(wanted)) == []


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all leaves below what identifies an object."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if path or key not in ("apiVersion", "kind"):
            yield from _leaves(item, (*path, key))
    if not isinstance(value, (dict, list)):
        yield path


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


WANTED = objects.desired(**OPTIONS)
# Names are how the API finds a list's items and the object itself: another name is another item.
LEAVES = [path for path in _leaves(WANTED) if path[:2] not in (("metadata", "name"), ("metadata", "namespace"))]


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("change", ["changed", "dropped"])
def test_any_field_of_ours_that_somebody_changed_is_found(path: tuple[Any, ...], change: str) -> None:
    live = objects.served(WANTED)
    holder = _holder(live, path)
    if change == "dropped":
        del holder[path[-1]]
    elif isinstance(holder[path[-1]], bool):
        holder[path[-1]] = not holder[path[-1]]
    elif isinstance(holder[path[-1]], int):
        holder[path[-1]] += 1
    else:
        holder[path[-1]] = "777m" if "resources" in path else f"{holder[path[-1]]}x"
    assert differences(WANTED, live)


def _add(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that adds an item to the list, or fields to the mapping, at the path."""

    def change(live: dict[str, Any]) -> None:
        place: Any = live
        for name in path.split("/"):
            place = place[int(name)] if isinstance(place, list) else place[name]
        if isinstance(place, list):
            place.append(value)
        else:
            place.update(value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _add("metadata/labels", {"argocd.argoproj.io/instance": "x"}),
        _add("metadata/annotations", {"argocd.argoproj.io/tracking-id": "x"}),
        _add("metadata", {"finalizers": ["x"]}),
        _add("metadata/ownerReferences", {"uid": "other", "kind": "X"}),
        _add("spec", {"minReadySeconds": 5}),
        _add("spec/template/metadata/annotations", {"sidecar.istio.io/inject": "false"}),
        _add("spec/template/spec", {"dnsPolicy": "Default", "hostNetwork": False}),
        _add("spec/template/spec/containers", {"name": "sidecar", "image": "x"}),
        _add("spec/template/spec/volumes", {"name": "more", "emptyDir": {}}),
        _add("spec/template/spec/containers/0", {"terminationMessagePolicy": "FallbackToLogsOnError"}),
        _add("spec/template/spec/containers/0/env", {"name": "PROXY", "value": "x"}),
        _add("spec/template/spec/containers/0/resources/limits", {"ephemeral-storage": "1Gi"}),
        _add("status", {"numberReady": 7}),
    ],
)
def test_what_others_added_is_left_alone(change: Callable[[dict[str, Any]], None]) -> None:
    wanted = {**WANTED, "metadata": {**WANTED["metadata"], "ownerReferences": [{"uid": "1", "kind": "ConfigMap"}]}}
    live = objects.served(wanted)
    change(live)
    assert differences(wanted, live) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (_add("spec/template/spec/nodeSelector", {"extra": "1"}), "spec.template.spec.nodeSelector.extra"),
        (_add("spec/template/spec/tolerations", {"operator": "Exists"}), "spec.template.spec.tolerations"),
        (
            _add("spec/template/spec/tolerations/0", {"effect": "NoSchedule"}),
            "spec.template.spec.tolerations[0].effect",
        ),
        (_add("spec/template/spec/containers/0/command", "1"), "spec.template.spec.containers[java11].command"),
        (
            _add(
                "spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"
                "/nodeSelectorTerms/0",
                {"matchFields": []},
            ),
            "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
            ".nodeSelectorTerms[0].matchFields",
        ),
    ],
)
def test_what_the_api_replaces_as_a_whole_is_ours_as_a_whole(
    change: Callable[[dict[str, Any]], None], path: str
) -> None:
    live = objects.served(WANTED)
    # Whoever changes such a value owns it from then on: nothing in managedFields says that it was ours.
    live["metadata"]["managedFields"] = []
    change(live)
    assert differences(WANTED, live) == [path]


@pytest.mark.parametrize(
    ("dropped", "path"),
    [
        ("image_pull_secrets", "spec.template.spec.imagePullSecrets"),
        ("tolerations", "spec.template.spec.tolerations"),
        ("priority_class_name", "spec.template.spec.priorityClassName"),
        ("runtime_class_name", "spec.template.spec.runtimeClassName"),
        ("pod_labels", "spec.template.metadata.labels.team"),
        ("pod_annotations", "spec.template.metadata.annotations.example.com/mesh"),
        ("daemonset_annotations", "metadata.annotations"),
        ("node_selector", "spec.template.spec.nodeSelector.disktype"),
    ],
)
def test_what_we_applied_and_want_no_more_is_found(dropped: str, path: str) -> None:
    wanted = objects.desired(**{option: value for option, value in OPTIONS.items() if option != dropped})
    assert _but_the_revision(differences(wanted, objects.served(WANTED))) == [path]


def _but_the_revision(found: list[str]) -> list[str]:
    """Every change of the template changes its fingerprint, too."""
    return [field for field in found if not field.endswith(REVISION)]


def test_an_image_taken_off_the_list_is_found_and_so_is_a_new_order() -> None:
    live = objects.served(objects.desired(images="a=r.io/a:1;b=r.io/b:1;c=r.io/c:1"))
    containers = "spec.template.spec.containers"
    assert _but_the_revision(differences(objects.desired(images="a=r.io/a:1;c=r.io/c:1"), live)) == [f"{containers}[b]"]
    reordered = objects.desired(images="c=r.io/c:1;b=r.io/b:1;a=r.io/a:1")
    assert _but_the_revision(differences(reordered, live)) == [f"{containers} (order)"]
    more = objects.desired(images="a=r.io/a:1;b=r.io/b:1;c=r.io/c:1;d=r.io/d:1")
    assert _but_the_revision(differences(more, live)) == [f"{containers}[d]"]


@pytest.mark.parametrize("same", ["0.05", "50m", ".05", "0.0500"])
def test_the_same_amount_written_otherwise_is_no_difference(same: str) -> None:
    assert differences(objects.desired(caching_cpu_request=same), objects.served(objects.desired())) == []


def test_amounts_are_compared_as_amounts_only_where_they_are_amounts() -> None:
    wanted = objects.desired(daemonset_annotations={"x.requests.cpu": "1"})
    live = objects.served(wanted)
    live["metadata"]["annotations"]["x.requests.cpu"] = "1000m"
    assert differences(wanted, live) == ["metadata.annotations.x.requests.cpu"]


def test_owned_fields_are_those_of_our_apply() -> None:
    live = objects.served(WANTED)
    assert set(owned_fields(live) or ()) == {"f:metadata", "f:spec"}
    (ours, *_others) = live["metadata"]["managedFields"]
    for change in ({"manager": "kubectl"}, {"operation": "Update"}, {"subresource": "status"}):
        assert owned_fields({"metadata": {"managedFields": [ours | change]}}) is None
    assert owned_fields({"metadata": {}}) is None


@given(st.sampled_from(LEAVES))
def test_comparing_changes_neither_side(path: tuple[Any, ...]) -> None:
    live = objects.served(WANTED)
    del _holder(live, path)[path[-1]]
    before = copy.deepcopy((WANTED, live))
    differences(WANTED, live)
    assert (WANTED, live) == before
