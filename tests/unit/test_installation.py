# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of an installation: least privilege, a good citizen's pods, one version everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation, Resources
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_config_map, require
from tests.unit import objects

SETTINGS = objects.settings(namespace="puller")
CHECKOUT = Path(__file__).parents[2]


def _controller(made: Installation | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    settings = objects.settings(namespace="puller", **options)
    return {obj["kind"]: obj for obj in installation.controller(made or Installation(), settings)}


def test_the_version_is_the_collections_own() -> None:
    assert yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())["version"] == installation.VERSION


def test_every_object_is_labelled_as_ours_and_lies_in_the_namespace_of_the_set() -> None:
    cluster_scoped = [installation.namespace(SETTINGS), installation.priority_class()]
    cluster_scoped += installation.nodes_access(Installation(), SETTINGS)
    namespaced = [installation.config_map(Installation(), SETTINGS), installation.cache_service_account(SETTINGS)]
    namespaced += installation.controller(Installation(), SETTINGS)
    for obj in cluster_scoped + namespaced:
        assert obj["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kubecache.image_puller"
    assert {obj["metadata"].get("namespace") for obj in cluster_scoped} == {None}
    assert {obj["metadata"].get("namespace") for obj in namespaced} == {"puller"}


def test_the_right_to_read_nodes_is_that_and_nothing_else() -> None:
    role, binding = installation.nodes_access(Installation(), SETTINGS)
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] == "kubecache-image-puller-nodes"
    assert binding["metadata"]["name"] == "kubecache-image-puller-nodes-puller"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "k8s-image-puller", "namespace": "puller"}]


def test_the_controller_may_change_no_more_than_its_work_needs() -> None:
    rules = _controller()["Role"]["rules"]
    reading = {"get", "list", "watch"}
    writing = [(rule["resources"], set(rule["verbs"]) - reading) for rule in rules if set(rule["verbs"]) - reading]
    assert writing == [
        (["configmaps"], {"patch"}),
        (["pods"], {"create", "delete"}),
        (["events"], {"create", "patch"}),
        (["daemonsets"], {"create", "patch", "delete"}),
    ]
    assert not any("*" in value for rule in rules for part in rule.values() for value in part)
    assert not any("secrets" in rule["resources"] for rule in rules)


def test_the_caches_pods_have_an_account_without_rights_or_token() -> None:
    account = installation.cache_service_account(SETTINGS)
    assert account["automountServiceAccountToken"] is False
    subjects = [installation.nodes_access(Installation(), SETTINGS)[1], _controller()["RoleBinding"]]
    assert account["metadata"]["name"] not in str([binding["subjects"] for binding in subjects])


def test_the_cache_gives_way_to_users_and_stays_above_head_room() -> None:
    made = installation.priority_class()
    assert (made["value"], made["preemptionPolicy"]) == (-5, "Never")


@pytest.mark.parametrize("openshift", [False, True])
def test_the_controllers_pod_passes_pod_security_restricted(openshift: bool) -> None:
    spec = _controller(Installation(openshift=openshift))["Deployment"]["spec"]["template"]["spec"]
    user = {} if openshift else {"runAsUser": 65532}
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} | user
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_names_image_and_resources_reach_the_deployment() -> None:
    made = Installation(
        config_map_name="set",
        deployment_name="keeper",
        service_account_name="account",
        image="r.io/puller:1",
        deployment_priority_class_name="high",
        resources=Resources(memory_limit="1Gi"),
    )
    deployment = _controller(made, image_pull_secrets="pull")["Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert deployment["metadata"]["name"] == "keeper"
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("account", "high")
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert container["image"] == "r.io/puller:1"
    assert container["envFrom"] == [{"configMapRef": {"name": "set", "optional": True}}]
    assert {"name": "DEPLOYMENT_NAME", "value": "keeper"} in container["env"]
    assert container["resources"]["limits"]["memory"] == "1Gi"


def test_the_config_map_holds_the_settings_and_is_found_as_a_set() -> None:
    made = installation.config_map(Installation(config_map_name="set"), SETTINGS)
    assert made["metadata"]["labels"]["kubecache.io/image-set"] == "set"
    assert require(from_config_map(made["data"])) == SETTINGS


def test_on_openshift_the_clusters_default_node_selector_is_kept_away() -> None:
    assert installation.namespace(SETTINGS, openshift=True)["metadata"]["annotations"] == {
        "openshift.io/node-selector": ""
    }
    assert "annotations" not in installation.namespace(SETTINGS)["metadata"]


def test_the_selector_of_a_deployment_that_is_there_is_adopted() -> None:
    wanted = _controller()["Deployment"]
    live = {"spec": {"selector": {"matchLabels": {"app": "kubernetes-image-puller"}}}}
    adopted = installation.adopt_selector(wanted, live)
    assert adopted["spec"]["selector"] == live["spec"]["selector"]
    labels = adopted["spec"]["template"]["metadata"]["labels"]
    assert labels == {**wanted["spec"]["template"]["metadata"]["labels"], "app": "kubernetes-image-puller"}
    assert wanted == _controller()["Deployment"]
