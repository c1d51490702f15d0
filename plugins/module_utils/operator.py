# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's own objects, as plain dicts, and how it is known that another one serves the resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.podsecurity import (
    container_security,
    pod_security,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import GROUP, PLURAL, Refusal
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings

NAME = "kubecache-image-puller-operator"
#: What OLM calls ours.
PACKAGE, CHANNEL = NAME, "stable"
CSV_NAME = f"{PACKAGE}.v{objects.VERSION}"
# The known operator's Deployment, by hand and by its own manifests, and its package.
KNOWN_DEPLOYMENTS = ("kubernetes-image-puller-operator", "kubernetes-image-puller-operator-manager")
KNOWN_PACKAGE = "kubernetes-imagepuller-operator"
_RBAC = "rbac.authorization.k8s.io"
_SELECTOR = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/instance": NAME}
_KEEP = ["get", "list", "watch", "create", "patch", "delete"]


def rules() -> list[dict[str, Any]]:
    """What the operator needs in each namespace that it serves, and no more.

    It gives the controller its rights, which nobody may who does not have them: those on pods, events and secrets are
    the controller's, as is the right to delete DaemonSets.
    """
    return [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["configmaps", "serviceaccounts"], "verbs": list(_KEEP)},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
        # The controller's, by name: those of the pull secrets that resources name, which nobody knows before.
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch", "create", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "daemonsets"], "verbs": list(_KEEP)},
        {"apiGroups": [_RBAC], "resources": ["roles", "rolebindings"], "verbs": list(_KEEP)},
        # Before the known controller is stopped it must have lost the right to delete its DaemonSet.
        {"apiGroups": ["authorization.k8s.io"], "resources": ["localsubjectaccessreviews"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]},
        # Whether OLM has another operator for the same resources here.
        {"apiGroups": ["operators.coreos.com"], "resources": ["clusterserviceversions"], "verbs": ["list"]},
    ]


def service_account(namespace: str | None = None) -> dict[str, Any]:
    """The operator's account; without a namespace ``kubectl apply -n`` says where."""
    return _object("v1", "ServiceAccount", namespace)


def role(namespace: str | None = None) -> dict[str, Any]:
    """Its rights in the namespace that it serves."""
    return {**_object(f"{_RBAC}/v1", "Role", namespace), "rules": rules()}


def role_binding(namespace: str | None = None) -> dict[str, Any]:
    """They are given to it. Without a namespace the account is that of the binding's own."""
    subject = {"kind": "ServiceAccount", "name": NAME, **({"namespace": namespace} if namespace else {})}
    return {
        **_object(f"{_RBAC}/v1", "RoleBinding", namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": NAME},
        "subjects": [subject],
    }


def deployment(
    namespace: str | None = None, *, image: str = objects.IMAGE, openshift: bool = False, watched: str = ""
) -> dict[str, Any]:
    """The operator: the controller's image with another argument.

    :param watched: the annotation of the pod that names the namespaces to serve; empty: its own.
    """
    field = f"metadata.annotations['{watched}']" if watched else "metadata.namespace"
    made = _object("apps/v1", "Deployment", namespace)
    made["metadata"]["labels"] |= _SELECTOR
    container = {
        "name": "operator",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["operator"],
        "env": [{"name": "WATCH_NAMESPACE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}}],
        "ports": [{"name": "http", "containerPort": objects.PORT, "protocol": "TCP"}],
        "startupProbe": objects.probe("/readyz", period=1, failures=120),
        "livenessProbe": objects.probe("/healthz", period=20, failures=6),
        "readinessProbe": objects.probe("/readyz", period=10, failures=3),
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "256Mi"},
        },
        "securityContext": container_security(),
    }
    pod = {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": pod_security(openshift),
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "containers": [container],
    }
    template = {"metadata": {"labels": {**LABELS, **_SELECTOR}}, "spec": pod}
    return {**made, "spec": {"replicas": 1, "selector": {"matchLabels": _SELECTOR}, "template": template}}


def operator(installation: objects.Installation, settings: Settings) -> list[dict[str, Any]]:
    """All of it, for one namespace, in the order in which it is applied."""
    namespace = settings.namespace
    made = deployment(namespace, image=installation.image, openshift=installation.openshift)
    if settings.image_pull_secrets:
        secrets = [{"name": name} for name in settings.image_pull_secrets]
        made["spec"]["template"]["spec"]["imagePullSecrets"] = secrets
    return [service_account(namespace), role(namespace), role_binding(namespace), made]


def served_by_che(resource: Mapping[str, Any]) -> Refusal | None:
    """Whether Che or Dev Spaces wrote the resource: then it is theirs, and meant for the known operator."""
    data = metadata(resource)
    owned = any(owner["kind"] == "CheCluster" for owner in data.get("ownerReferences") or ())
    if not owned and (data.get("labels") or {}).get("app.kubernetes.io/part-of") != "che.eclipse.org":
        return None
    return Refusal(
        "OtherOperator",
        f"KubernetesImagePuller {data['name']} belongs to Che or Dev Spaces, whose operator writes it for the known "
        "image puller operator. Remedy: disable spec.components.imagePuller of the CheCluster, and write a resource "
        "of your own",
    )


def served_by_deployment(found: Mapping[str, Any]) -> Refusal:
    """Another operator's Deployment is in the namespace of the resource."""
    data = metadata(found)
    return Refusal(
        "OtherOperator",
        f"Deployment {data.get('namespace')}/{data['name']} serves the resources of this namespace, and two operators "
        "would undo each other's work. Remedy: delete it, and this operator goes on",
    )


def served_by_olm(csv_names: list[str]) -> Refusal | None:
    """OLM has installed the known operator for this namespace."""
    name = next((name for name in csv_names if name.startswith(f"{KNOWN_PACKAGE}.")), None)
    if name is None:
        return None
    return Refusal(
        "OtherOperator",
        f"ClusterServiceVersion {name} serves the resources of this namespace, and two operators would undo each "
        "other's work. Remedy: remove its Subscription and the ClusterServiceVersion, and this operator goes on",
    )


def _object(api_version: str, kind: str, namespace: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"name": NAME, "labels": dict(LABELS)}
    if namespace:
        data["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": data}
