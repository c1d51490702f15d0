# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All objects of an installation but the DaemonSet, as plain dicts in the order in which they are applied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import DEPLOYMENT, IMAGE_SET, LABELS
from ansible_collections.kubecache.image_puller.plugins.module_utils.podsecurity import (
    container_security,
    pod_security,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    REFRESH_DIGEST,
    Settings,
    to_config_map,
)

VERSION = "0.1.0"
IMAGE = f"ghcr.io/kubecache/image-puller:{VERSION}"
DEPLOYMENT_NAME = "kubernetes-image-puller"
SERVICE_ACCOUNT_NAME = "k8s-image-puller"
CACHE_SERVICE_ACCOUNT_NAME = "image-puller-cache"
ROLE_NAME = "k8s-image-puller"
NODES_ROLE_NAME = "kubecache-image-puller-nodes"
PRIORITY_CLASS_NAME = "image-puller-cache"
# Below every user's pod (0) and above head-room placeholders (-10, where autoscalers stop caring).
PRIORITY = -5
PORT = 8080
CATALOG = "kubecache"  # OLM's source of our operator.
# Where the controller finds the ConfigMap with authorities; every key of it has certificates.
AUTHORITIES_DIRECTORY = "/etc/image-puller/authorities"
NODE_SELECTOR = "openshift.io/node-selector"  # On a namespace: instead of the cluster's default node selector.

_RBAC = "rbac.authorization.k8s.io"
_DESCRIPTION = "Made by the Image Puller (kubecache.image_puller)"


@dataclass(frozen=True)
class Resources:
    """Requests and limits of the controller's container, Kubernetes quantities."""

    cpu_request: str = "50m"
    memory_request: str = "64Mi"
    cpu_limit: str = "200m"
    memory_limit: str = "256Mi"


@dataclass(frozen=True)
class RegistryAccess:
    """How the controller reaches registries, besides the logins of pull secrets.

    ``mirrors`` and ``insecure`` as the options ``registry_*`` have them; ``authorities``: a ConfigMap of the namespace
    with certificates to trust besides the system's; ``proxy``: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.
    """

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    insecure: tuple[str, ...] = ()
    authorities: str = ""
    proxy: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Installation:
    """What an installation is made of, besides its settings."""

    config_map_name: str = CONFIG_MAP_NAME
    deployment_name: str = DEPLOYMENT_NAME
    service_account_name: str = SERVICE_ACCOUNT_NAME
    image: str = IMAGE
    deployment_priority_class_name: str = ""
    resources: Resources = field(default_factory=Resources)
    openshift: bool = False
    catalog: str = CATALOG
    catalog_namespace: str = ""  # Empty: where OLM has its own.
    pull_secrets: tuple[str, ...] = ()  # Of all sets: those that the controller may read, to ask registries with them.
    registries: RegistryAccess = field(default_factory=RegistryAccess)


def namespace(settings: Settings, openshift: bool = False) -> dict[str, Any]:
    """The namespace, for when it has to be made.

    On OpenShift its empty node selector keeps the cluster's default one away from the cache's pods.
    """
    made = _object("v1", "Namespace", settings.namespace, None)
    if openshift:
        made["metadata"]["annotations"] = {NODE_SELECTOR: ""}
    return made


def project_request(settings: Settings) -> dict[str, Any]:
    """The request for the namespace, for users of OpenShift who may create none.

    Labels of a request are lost; the description becomes an annotation of the namespace, and says that it is ours.
    """
    return {
        "apiVersion": "project.openshift.io/v1",
        "kind": "ProjectRequest",
        "metadata": {"name": settings.namespace},
        "displayName": "Image Puller",
        "description": _DESCRIPTION,
    }


def is_requested_project(live: Mapping[str, Any]) -> bool:
    """Whether the namespace was made for our :func:`project_request`."""
    annotations = live["metadata"].get("annotations") or {}
    return bool(annotations.get("openshift.io/description") == _DESCRIPTION)


def priority_class() -> dict[str, Any]:
    """The class of the cache's pods: they give way before any user's pod and never take a user's place."""
    return {
        **_object("scheduling.k8s.io/v1", "PriorityClass", PRIORITY_CLASS_NAME, None),
        "value": PRIORITY,
        "preemptionPolicy": "Never",
        "description": "Cached images give way before any pod of a user.",
    }


def nodes_access(installation: Installation, settings: Settings) -> list[dict[str, Any]]:
    """The right to read nodes and nothing else; cluster-scoped, and the ClusterRole is shared by installations."""
    return [
        {
            **_object(f"{_RBAC}/v1", "ClusterRole", NODES_ROLE_NAME, None),
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}],
        },
        {
            **_object(f"{_RBAC}/v1", "ClusterRoleBinding", nodes_binding_name(settings.namespace), None),
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": NODES_ROLE_NAME},
            "subjects": [_subject(installation, settings)],
        },
    ]


def nodes_binding_name(namespace_name: str) -> str:
    """One binding for each namespace, since ClusterRoleBindings share one space of names."""
    return f"{NODES_ROLE_NAME}-{namespace_name}"


def config_map(installation: Installation, settings: Settings) -> dict[str, Any]:
    """The truth of a set: the settings in the form that the known implementation reads, too."""
    made = _object("v1", "ConfigMap", installation.config_map_name, settings.namespace)
    made["metadata"]["labels"] |= {IMAGE_SET: installation.config_map_name, DEPLOYMENT: installation.deployment_name}
    return {**made, "data": to_config_map(settings)}


def cache_service_account(settings: Settings) -> dict[str, Any]:
    """The account of the cache's pods: no rights, no token."""
    made = _object("v1", "ServiceAccount", CACHE_SERVICE_ACCOUNT_NAME, settings.namespace)
    return {**made, "automountServiceAccountToken": False}


def controller(installation: Installation, settings: Settings) -> list[dict[str, Any]]:
    """ServiceAccount, Role, RoleBinding and Deployment of the controller."""
    account = _object("v1", "ServiceAccount", installation.service_account_name, settings.namespace)
    role = {
        **_object(f"{_RBAC}/v1", "Role", ROLE_NAME, settings.namespace),
        "rules": [
            # Patch: the loop guard's annotation.
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "patch"]},
            # Delete: exchanging the cache's pods after a change, a few nodes at a time. Create: asking admission, by a
            # dry run, for a pod with image volumes; who may create DaemonSets may have pods made already.
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch", "create", "patch"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
            {
                "apiGroups": ["apps"],
                "resources": ["daemonsets"],
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
            },
            *secrets_access(installation, settings),
        ],
    }
    binding = {
        **_object(f"{_RBAC}/v1", "RoleBinding", ROLE_NAME, settings.namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": ROLE_NAME},
        "subjects": [_subject(installation, settings)],
    }
    return [account, role, binding, _deployment(installation, settings)]


def secrets_access(installation: Installation, settings: Settings) -> list[dict[str, Any]]:
    """The right to read the pull secrets that the sets name and no other, to ask registries what tags stand for."""
    secrets = {*installation.pull_secrets, *(settings.image_pull_secrets if settings.refresh == REFRESH_DIGEST else ())}
    if not secrets:
        return []
    return [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": sorted(secrets), "verbs": ["get"]}]


def reach_registries(pod: dict[str, Any], installation: Installation) -> None:
    """Tell the controller in its pod how it reaches registries. Nothing changes where there is nothing to tell."""
    registries, (container,) = installation.registries, pod["containers"]
    told = {
        "REGISTRY_MIRRORS": json.dumps(registries.mirrors, sort_keys=True) if registries.mirrors else "",
        "REGISTRY_INSECURE": ",".join(registries.insecure),
        "REGISTRY_AUTHORITIES": AUTHORITIES_DIRECTORY if registries.authorities else "",
        **registries.proxy,
    }
    container["env"] += [{"name": name, "value": value} for name, value in sorted(told.items()) if value]
    if registries.authorities:
        # Optional: without it registries can't be asked, but the cache is kept all the same.
        source = {"name": registries.authorities, "optional": True}
        pod["volumes"] = [{"name": "authorities", "configMap": source}]
        mount = {"name": "authorities", "mountPath": AUTHORITIES_DIRECTORY, "readOnly": True}
        container["volumeMounts"] = [mount]


def _object(api_version: str, kind: str, name: str, namespace_name: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"name": name, "labels": dict(LABELS)}
    if namespace_name:
        data["namespace"] = namespace_name
    return {"apiVersion": api_version, "kind": kind, "metadata": data}


def _subject(installation: Installation, settings: Settings) -> dict[str, Any]:
    return {"kind": "ServiceAccount", "name": installation.service_account_name, "namespace": settings.namespace}


def _deployment(installation: Installation, settings: Settings) -> dict[str, Any]:
    selector = {"app.kubernetes.io/component": "controller", "app.kubernetes.io/instance": installation.deployment_name}
    labels = {**LABELS, **selector}
    resources = installation.resources
    pod: dict[str, Any] = {
        "serviceAccountName": installation.service_account_name,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": pod_security(installation.openshift),
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "containers": [
            {
                "name": "image-puller",
                "image": installation.image,
                "imagePullPolicy": "IfNotPresent",
                # The ConfigMap is read from the API; envFrom names it, and lets the known implementation run here. It
                # need not be there: an installation may be made of groups alone.
                "envFrom": [{"configMapRef": {"name": installation.config_map_name, "optional": True}}],
                "env": [
                    {"name": "DEPLOYMENT_NAME", "value": installation.deployment_name},
                    {"name": "CONFIG_MAP_NAME", "value": installation.config_map_name},
                ],
                "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
                # Asked every second until each set was looked at once, so that an installation need not wait for it.
                "startupProbe": probe("/readyz", period=1, failures=120),
                "livenessProbe": probe("/healthz", period=20, failures=6),
                "readinessProbe": probe("/readyz", period=10, failures=3),
                "resources": {
                    "requests": {"cpu": resources.cpu_request, "memory": resources.memory_request},
                    "limits": {"cpu": resources.cpu_limit, "memory": resources.memory_limit},
                },
                "securityContext": container_security(),
            }
        ],
    }
    reach_registries(pod, installation)
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if installation.deployment_priority_class_name:
        pod["priorityClassName"] = installation.deployment_priority_class_name
    made = _object("apps/v1", "Deployment", installation.deployment_name, settings.namespace)
    made["metadata"]["labels"] = labels
    return {
        **made,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def probe(path: str, period: int, failures: int) -> dict[str, Any]:
    """A probe of our processes, controller and operator."""
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def config_map_of(deployment: Mapping[str, Any]) -> str:
    """The ConfigMap from which a Deployment's containers take their environment; empty where there is none."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for source in container.get("envFrom") or ():
            if name := (source.get("configMapRef") or {}).get("name"):
                return str(name)
    return ""


def adopt_selector(deployment: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The Deployment with the immutable selector of the one that is there; its labels go into the template."""
    match_labels = live["spec"]["selector"].get("matchLabels") or {}
    spec = deployment["spec"]
    template = spec["template"]
    labels = {**template["metadata"]["labels"], **match_labels}
    return {
        **deployment,
        "spec": {
            **spec,
            "selector": live["spec"]["selector"],
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }
