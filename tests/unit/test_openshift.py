# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenShift Templates: what is documented of them, and that an installation with them is that of any method."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, openshift
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation, Resources
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULT_IMAGES,
    FIELDS,
    Settings,
    from_config_map,
    require,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.template import process
from tests.unit import objects

# As documented, but for IMAGE, IMAGE_TAG, IMAGES and KIP_IMAGE: these name our own images.
DOCUMENTED = {
    "serviceaccount": {"SERVICEACCOUNT_NAME": "k8s-image-puller"},
    "configmap": {
        "DAEMONSET_NAME": "kubernetes-image-puller",
        "CACHING_INTERVAL_HOURS": "1",
        "CACHING_MEMORY_REQUEST": "10Mi",
        "CACHING_MEMORY_LIMIT": "20Mi",
        "CACHING_CPU_REQUEST": ".05",
        "CACHING_CPU_LIMIT": ".2",
        "NAMESPACE": "k8s-image-puller",
        "NODE_SELECTOR": "{}",
        "IMAGE_PULL_SECRETS": "",
        "AFFINITY": "{}",
        "TOLERATIONS": "[]",
    },
    "app": {
        "DEPLOYMENT_NAME": "kubernetes-image-puller",
        "SERVICEACCOUNT_NAME": "k8s-image-puller",
        "PRIORITY_CLASS_NAME": "",
        "DEPLOYMENT_CPU_REQUEST": "50m",
        "DEPLOYMENT_MEMORY_REQUEST": "64Mi",
        "DEPLOYMENT_CPU_LIMIT": "200m",
        "DEPLOYMENT_MEMORY_LIMIT": "256Mi",
    },
}
OURS = Installation(openshift=True)


def made_by_hand(name: str, **parameters: str) -> dict[str, dict[str, Any]]:
    """What ``oc process -f name.yaml -p ...`` makes, by kind."""
    return {obj["kind"]: obj for obj in process(openshift.templates()[name], parameters)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_parameters_have_the_documented_defaults(name: str) -> None:
    parameters = {parameter["name"]: parameter for parameter in openshift.templates()[name]["parameters"]}
    assert {key: parameters[key]["value"] for key in DOCUMENTED[name]} == DOCUMENTED[name]
    assert all(parameter["description"] for parameter in parameters.values())


def test_the_images_are_our_own_unless_others_are_named() -> None:
    container = made_by_hand("app")["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == installation.IMAGE
    data = made_by_hand("configmap")["ConfigMap"]["data"]
    assert set(data) == {field.key for field in FIELDS}
    assert require(from_config_map(data)) == Settings(DEFAULT_IMAGES)


def test_the_documented_image_runs_without_arguments_and_without_probes() -> None:
    made = made_by_hand("app", IMAGE="registry.redhat.io/codeready-workspaces/imagepuller-rhel8", IMAGE_TAG="2.1")
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.redhat.io/codeready-workspaces/imagepuller-rhel8:2.1"
    assert not {"command", "args", "startupProbe", "livenessProbe", "readinessProbe"} & set(container)
    assert container["envFrom"] == [{"configMapRef": {"name": "k8s-image-puller", "optional": True}}]
    assert {"name": "DEPLOYMENT_NAME", "value": "kubernetes-image-puller"} in container["env"]


def test_nothing_of_the_templates_names_a_namespace_or_a_user() -> None:
    for template in openshift.templates().values():
        for obj in template["objects"]:
            assert "namespace" not in obj["metadata"]
            assert all("namespace" not in subject for subject in obj.get("subjects", ()))
        assert "runAsUser" not in json.dumps(template)


def test_secrets_of_the_controllers_image_are_json() -> None:
    pod = made_by_hand("app", DEPLOYMENT_IMAGE_PULL_SECRETS='[{"name": "pull"}]')["Deployment"]["spec"]["template"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]


@given(objects.good_options)
def test_a_set_says_the_same_in_every_method(options: dict[str, Any]) -> None:
    """Whatever the settings hold: the DaemonSet is made of them, and must not change with the method."""
    settings = objects.settings(**options)
    plain, processed = installation.config_map(OURS, settings), openshift.config_map(OURS, settings)
    assert {**processed, "data": {k: v for k, v in processed["data"].items() if v or k in plain["data"]}} == plain


def test_the_controller_is_that_of_the_manifests_but_for_its_probes() -> None:
    made = Installation(
        config_map_name="set",
        deployment_name="keeper",
        service_account_name="account",
        image="registry.example.com:5000/team/puller",
        deployment_priority_class_name="high",
        resources=Resources(memory_limit="1Gi"),
        openshift=True,
    )
    settings = objects.settings(namespace="puller", image_pull_secrets="a;b")
    plain, processed = installation.controller(made, settings), openshift.controller(made, settings)
    container = plain[-1]["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        del container[probe]
    container["image"] += ":latest"
    del plain[2]["subjects"][0]["namespace"]
    assert processed == plain


@pytest.mark.parametrize("image", ["r.io/puller:1", "r.io/puller@sha256:" + "0" * 64, "r.io/p:1@sha256:" + "0" * 64])
def test_tag_and_digest_of_the_controllers_image_stay(image: str) -> None:
    deployment = openshift.controller(Installation(image=image), objects.settings())[-1]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
    assert "priorityClassName" not in deployment["spec"]["template"]["spec"]
