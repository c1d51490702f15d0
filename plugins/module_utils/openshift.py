# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documented OpenShift Templates, made from the objects of an installation, and an installation made with them.

serviceaccount, configmap and app have the documented parameters with their defaults, and some of ours besides. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation, Resources
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    DEFAULT_IMAGES,
    FIELDS,
    Settings,
    to_config_map,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.template import process

_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_DESCRIPTIONS = {
    "SERVICEACCOUNT_NAME": "ServiceAccount of the controller",
    "CONFIG_MAP_NAME": "ConfigMap with the settings",
    "DEPLOYMENT_NAME": "Deployment of the controller",
    "IMAGE": "Image of the controller, without its tag",
    "IMAGE_TAG": "Tag of the controller's image",
    "PRIORITY_CLASS_NAME": "PriorityClass of the controller's pod; empty: none",
    "DEPLOYMENT_CPU_REQUEST": "CPU request of the controller",
    "DEPLOYMENT_MEMORY_REQUEST": "Memory request of the controller",
    "DEPLOYMENT_CPU_LIMIT": "CPU limit of the controller",
    "DEPLOYMENT_MEMORY_LIMIT": "Memory limit of the controller",
    "DEPLOYMENT_IMAGE_PULL_SECRETS": 'Secrets for the controller\'s image, JSON: [{"name": "secret"}]',
    "IMAGES": "The images, name=image;name=image;",
    "NAMESPACE": "Namespace of the DaemonSet: the one to which the objects are applied",
    "DAEMONSET_NAME": "DaemonSet that holds the images",
    "DAEMONSET_ANNOTATIONS": "Annotations of the DaemonSet, a JSON object",
    "CACHING_INTERVAL_HOURS": "Hours between two health checks",
    "CACHING_MEMORY_REQUEST": "Memory request of each cached image",
    "CACHING_MEMORY_LIMIT": "Memory limit of each cached image",
    "CACHING_CPU_REQUEST": "CPU request of each cached image",
    "CACHING_CPU_LIMIT": "CPU limit of each cached image",
    "NODE_SELECTOR": "Labels of the nodes that cache the images, a JSON object",
    "AFFINITY": "Affinity of the cache's pods, a JSON object",
    "TOLERATIONS": "Tolerations of the cache's pods, a JSON list",
    "IMAGE_PULL_SECRETS": "Secrets for the cached images, separated by semicolons",
    "KIP_IMAGE": "Image from which the sleep of the cache's containers comes",
    "MAX_UNAVAILABLE": "Nodes that may exchange their pod at a time, a number or a percentage",
    "STRATEGY": "How images are held on a node: sleep, image_volume or auto; empty: sleep",
    "NEW_NODE_GRACE_SECONDS": "Seconds for which a node that has just joined is excused",
    "PROGRESS_GRACE_SECONDS": "Seconds for which images may be on their way without any progress",
    "PRIORITY_CLASS": "PriorityClass of the cache's pods, which must be there; empty: none",
    "CACHE_SERVICE_ACCOUNT": "ServiceAccount of the cache's pods, which must be there; empty: default",
    "POD_LABELS": "Further labels of the cache's pods, a JSON object; empty: none",
    "POD_ANNOTATIONS": "Further annotations of the cache's pods, a JSON object; empty: none",
    "RUNTIME_CLASS": "RuntimeClass of the cache's pods, which must be there; empty: none",
    "REFRESH": "What is done about tags that are moved in their registry: digest, restart or never; empty: digest",
}
# What nothing works without. An empty value is refused before anything is applied.
_REQUIRED = ("SERVICEACCOUNT_NAME", "CONFIG_MAP_NAME", "DEPLOYMENT_NAME", "IMAGE", "IMAGE_TAG", "IMAGES", "NAMESPACE")


def templates() -> dict[str, dict[str, Any]]:
    """The Templates, by the names of their files without ``.yaml``."""
    defaults = Settings(DEFAULT_IMAGES)
    keys = {field.key: field.show(getattr(defaults, field.option)) for field in FIELDS}
    account, role, binding, deployment = objects.controller(_PARAMETRIZED, defaults)
    config_map = {**objects.config_map(_PARAMETRIZED, defaults), "data": {key: f"${{{key}}}" for key in keys}}
    return {
        "serviceaccount": _template(
            "serviceaccount", [account, role, binding], {"SERVICEACCOUNT_NAME": objects.SERVICE_ACCOUNT_NAME}
        ),
        "configmap": _template(
            "configmap",
            [config_map],
            {"CONFIG_MAP_NAME": CONFIG_MAP_NAME, "DEPLOYMENT_NAME": objects.DEPLOYMENT_NAME, **keys},
        ),
        "app": _template("app", [_plain(deployment)], _app_parameters(Installation(), ())),
    }


def config_map(installation: Installation, settings: Settings) -> dict[str, Any]:
    """The ConfigMap of a set, as the Template makes it."""
    names = {"CONFIG_MAP_NAME": installation.config_map_name, "DEPLOYMENT_NAME": installation.deployment_name}
    (made,) = _processed("configmap", {**names, **to_config_map(settings)}, settings.namespace)
    return made


def controller(installation: Installation, settings: Settings) -> list[dict[str, Any]]:
    """ServiceAccount, Role, RoleBinding and Deployment of the controller, as the Templates make them."""
    account = {"SERVICEACCOUNT_NAME": installation.service_account_name}
    app = _app_parameters(installation, settings.image_pull_secrets)
    made = [
        *_processed("serviceaccount", account, settings.namespace),
        *_processed("app", app, settings.namespace),
    ]
    pod = made[-1]["spec"]["template"]["spec"]
    for name in ("imagePullSecrets", "priorityClassName"):
        if not pod[name]:
            del pod[name]  # As the API server does, for which it would differ from what is there.
    # What no parameter can say: in a rule an empty list of names would mean all of them.
    (role,) = [obj for obj in made if obj["kind"] == "Role"]
    role["rules"] += objects.secrets_access(installation, settings)
    objects.reach_registries(pod, installation)
    return made


_PARAMETRIZED = Installation(
    config_map_name="${CONFIG_MAP_NAME}",
    deployment_name="${DEPLOYMENT_NAME}",
    service_account_name="${SERVICEACCOUNT_NAME}",
    image="${IMAGE}:${IMAGE_TAG}",
    deployment_priority_class_name="${PRIORITY_CLASS_NAME}",
    resources=Resources(*(f"${{DEPLOYMENT_{name.upper()}}}" for name in Resources.__annotations__)),
    openshift=True,  # No user is named: OpenShift assigns one, and elsewhere the image has one.
)


def _app_parameters(installation: Installation, pull_secrets: Iterable[str]) -> dict[str, str]:
    image, tag = _split_tag(installation.image)
    resources = {
        f"DEPLOYMENT_{name.upper()}": getattr(installation.resources, name) for name in Resources.__annotations__
    }
    return {
        "DEPLOYMENT_NAME": installation.deployment_name,
        "SERVICEACCOUNT_NAME": installation.service_account_name,
        "CONFIG_MAP_NAME": installation.config_map_name,
        "IMAGE": image,
        "IMAGE_TAG": tag,
        "PRIORITY_CLASS_NAME": installation.deployment_priority_class_name,
        **resources,
        "DEPLOYMENT_IMAGE_PULL_SECRETS": json.dumps([{"name": name} for name in pull_secrets]),
    }


def _split_tag(reference: str) -> tuple[str, str]:
    """What is before and behind the colon of a tag or digest; without both it is ``latest``."""
    image, colon, tag = reference.rpartition(":")
    return (image, tag) if colon and "/" not in tag else (reference, "latest")


def _plain(deployment: dict[str, Any]) -> dict[str, Any]:
    """The Deployment without what only our controller answers, so that IMAGE may also name the known one."""
    pod = deployment["spec"]["template"]["spec"]
    for container in pod["containers"]:
        for probe in _PROBES:
            del container[probe]
    pod["imagePullSecrets"] = "${{DEPLOYMENT_IMAGE_PULL_SECRETS}}"
    return deployment


def _template(name: str, made: Sequence[dict[str, Any]], parameters: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "template.openshift.io/v1",
        "kind": "Template",
        "metadata": {"name": f"kubernetes-image-puller-{name}"},
        "objects": [_without_namespace(obj) for obj in made],
        "parameters": [_parameter(key, value) for key, value in parameters.items()],
    }


def _without_namespace(obj: dict[str, Any]) -> dict[str, Any]:
    """The object for whichever namespace it is applied to."""
    del obj["metadata"]["namespace"]
    for subject in obj.get("subjects") or ():  # A RoleBinding means its own namespace then.
        del subject["namespace"]
    return obj


def _parameter(name: str, value: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "description": _DESCRIPTIONS[name], "value": value}
    return {**made, "required": True} if name in _REQUIRED else made


def _processed(name: str, parameters: dict[str, str], namespace: str) -> list[dict[str, Any]]:
    """The objects of a Template as ``oc process`` and ``oc apply -n`` bring them to a namespace."""
    made = process(templates()[name], parameters)
    for obj in made:
        obj["metadata"]["namespace"] = namespace
    return made
