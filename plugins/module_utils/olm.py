# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator for the Operator Lifecycle Manager: bundle, catalog, and what asks OLM for it. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import IMAGE, VERSION, Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import (
    CHANNEL,
    CSV_NAME,
    KNOWN_PACKAGE,
    NAME,
    PACKAGE,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    API_VERSION,
    CRD_NAME,
    KIND,
    about,
    resource_of,
    spec_fields,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULT_IMAGES,
    HELPER_IMAGE,
    Settings,
)

#: All releases of the operator, the first one first: each replaces the one before it.
RELEASES = (VERSION,)
BUNDLE_IMAGE = f"ghcr.io/kubecache/image-puller-operator-bundle:{VERSION}"
_REPOSITORY = "https://github.com/kubecache/image_puller"
# OLM's annotation with the namespaces of the OperatorGroup; empty for all.
_TARGETS = "olm.targetNamespaces"
_MODES = {"OwnNamespace": True, "SingleNamespace": True, "MultiNamespace": False, "AllNamespaces": True}
_DESCRIPTION = f"""\
Caches a list of container images on every node of the cluster, keeps them there, and tells in the status of a
`KubernetesImagePuller` which of them are there, and why others are not. `kubectl wait --for=condition=Ready
kubernetesimagepuller/NAME` ends when all images are on all nodes.

## Together with other operators

A cluster has one definition of `KubernetesImagePuller`. This package is another one than `{KNOWN_PACKAGE}`, whose
operator serves the same resources: install one of the two. Where the other one is there, or where Che or Dev Spaces
owns a resource, this operator changes nothing and says so in the resource's conditions.
"""
# Three layers on a node.
_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="12" fill="#1d4ed8"/>\
<g fill="none" stroke="#fff" stroke-width="4" stroke-linejoin="round"><path d="M32 12 52 22 32 32 12 22Z"/>\
<path d="m12 32 20 10 20-10"/><path d="m12 42 20 10 20-10"/></g></svg>"""


def deployment(namespace: str | None = None) -> dict[str, Any]:
    """The operator as OLM runs it. It names no user: the image has one."""
    return operator.deployment(namespace, watched=_TARGETS, openshift=True)


def csv() -> dict[str, Any]:
    """The ClusterServiceVersion. Its rights are those of ``operator.rules``: OLM grants them where the group says."""
    made = deployment()
    spec: dict[str, Any] = {
        "displayName": "Image Puller",
        "version": VERSION,
        "maturity": "alpha",
        "minKubeVersion": "1.25.0",
        "description": _DESCRIPTION,
        "keywords": ["images", "cache", "pull", "nodes", "workspaces"],
        "provider": {"name": "kubecache"},
        "links": [{"name": "Source and documentation", "url": _REPOSITORY}],
        "icon": [{"base64data": base64.b64encode(_ICON.encode()).decode(), "mediatype": "image/svg+xml"}],
        "installModes": [{"type": name, "supported": supported} for name, supported in _MODES.items()],
        "customresourcedefinitions": {"owned": [_owned()]},
        "install": {
            "strategy": "deployment",
            "spec": {
                "permissions": [{"serviceAccountName": NAME, "rules": operator.rules()}],
                "deployments": [
                    {"name": NAME, "label": made["metadata"]["labels"], "spec": made["spec"]},
                ],
            },
        },
        "relatedImages": [{"name": "operator", "image": IMAGE}, {"name": "helper", "image": HELPER_IMAGE}],
    }
    if len(RELEASES) > 1:
        spec["replaces"] = f"{PACKAGE}.v{RELEASES[-2]}"
    annotations = {
        "alm-examples": json.dumps([sample()], indent=2),
        "capabilities": "Seamless Upgrades",
        "categories": "Developer Tools",
        "containerImage": IMAGE,
        "description": "Keeps container images cached on the nodes of the cluster",
        "operatorframework.io/suggested-namespace": "k8s-image-puller",
        "repository": _REPOSITORY,
    }
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {"name": CSV_NAME, "annotations": annotations},
        "spec": spec,
    }


def sample() -> dict[str, Any]:
    """A resource to begin with; it says what it means, though that is the default."""
    made = resource_of(Settings(DEFAULT_IMAGES), Installation(), "image-puller")
    return {**made, "metadata": {"name": made["metadata"]["name"]}}


def bundle_annotations() -> dict[str, str]:
    """What the bundle's image and its metadata say of it."""
    prefix = "operators.operatorframework.io.bundle"
    return {
        f"{prefix}.mediatype.v1": "registry+v1",
        f"{prefix}.manifests.v1": "manifests/",
        f"{prefix}.metadata.v1": "metadata/",
        f"{prefix}.package.v1": PACKAGE,
        f"{prefix}.channels.v1": CHANNEL,
        f"{prefix}.channel.default.v1": CHANNEL,
    }


def catalog_template() -> dict[str, Any]:
    """The template of a file-based catalog, which ``opm alpha render-template basic`` makes a catalog of."""
    entries = [
        {"name": f"{PACKAGE}.v{version}"} | ({"replaces": f"{PACKAGE}.v{before}"} if before else {})
        for version, before in zip(RELEASES, ("", *RELEASES), strict=False)
    ]
    return {
        "schema": "olm.template.basic",
        "entries": [
            {"schema": "olm.package", "name": PACKAGE, "defaultChannel": CHANNEL},
            {"schema": "olm.channel", "package": PACKAGE, "name": CHANNEL, "entries": entries},
            {"schema": "olm.bundle", "image": BUNDLE_IMAGE},
        ],
    }


def subscription(installation: Installation, namespace: str) -> list[dict[str, Any]]:
    """What asks OLM for the operator in one namespace: an OperatorGroup for that namespace, and the Subscription."""
    group = _object("operators.coreos.com/v1", "OperatorGroup", namespace)
    asked = _object("operators.coreos.com/v1alpha1", "Subscription", namespace)
    usual = "openshift-marketplace" if installation.openshift else "olm"
    wanted = {
        "name": PACKAGE,
        "channel": CHANNEL,
        "source": installation.catalog,
        "sourceNamespace": installation.catalog_namespace or usual,
        "installPlanApproval": "Automatic",
    }
    return [{**group, "spec": {"targetNamespaces": [namespace]}}, {**asked, "spec": wanted}]


def group_trouble(groups: Sequence[Mapping[str, Any]], namespace: str) -> str:
    """Why OLM would not run the operator for a namespace beside the OperatorGroups that are in it; empty if it would.

    OLM takes one OperatorGroup a namespace, and lets each ClusterServiceVersion there fail with two.
    """
    names = " and ".join(sorted(metadata(group)["name"] for group in groups))
    if len(groups) > 1:
        return (
            f"Namespace {namespace} has the OperatorGroups {names}. OLM allows one, and every ClusterServiceVersion "
            "there fails with more. Remedy: delete all but one"
        )
    for group in groups:
        targets = _targets(group)
        if targets in ([""], [namespace]):
            continue
        told = ", ".join(targets) if targets else "no namespace that OLM has told yet"
        return (
            f"OperatorGroup {names} of namespace {namespace} targets {told}. OLM allows one OperatorGroup in a "
            f"namespace, and with this one the operator would not run for {namespace} alone or for all namespaces. "
            "Remedy: let it do so, or name another namespace"
        )
    return ""


def _targets(group: Mapping[str, Any]) -> list[str]:
    """The namespaces that an OperatorGroup targets, [""] for all; none where only OLM can tell, and has not."""
    spec, status = group.get("spec") or {}, group.get("status") or {}
    if spec.get("targetNamespaces"):  # They go before a selector.
        return sorted(set(spec["targetNamespaces"]))
    if any((spec.get("selector") or {}).values()):
        return sorted(status.get("namespaces") or ())
    return [""]


def csv_trouble(csv_: Mapping[str, Any] | None, subscription_: Mapping[str, Any] | None) -> str:
    """Why the operator is not there yet, in OLM's words; empty where OLM has said nothing."""
    if csv_ is not None:
        status = csv_.get("status") or {}
        said = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        return f"ClusterServiceVersion {csv_['metadata']['name']} is {status.get('phase') or 'new'}" + (
            f" ({said})" if said else ""
        )
    conditions: Sequence[Mapping[str, Any]] = ((subscription_ or {}).get("status") or {}).get("conditions") or ()
    said = "; ".join(
        f"{c['type']}: {c.get('message') or c.get('reason')}"
        for c in conditions
        if c.get("status") == "True" and c["type"] != "CatalogSourcesUnhealthy"
    ) or "; ".join(f"{c['type']}: {c.get('message') or c.get('reason')}" for c in conditions if c["status"] == "True")
    return f"Subscription {PACKAGE} has no ClusterServiceVersion yet" + (f" ({said})" if said else "")


def _owned() -> dict[str, Any]:
    text = "urn:alm:descriptor:com.tectonic.ui:text"
    later = "urn:alm:descriptor:com.tectonic.ui:advanced"
    return {
        "name": CRD_NAME,
        "kind": KIND,
        "version": API_VERSION.partition("/")[2],
        "displayName": "Image Puller",
        "description": "A list of images that is kept on the nodes.",
        "specDescriptors": [
            {
                "path": field,
                "displayName": _title(field),
                "description": about(field),
                "x-descriptors": [text] if field == "images" else [text, later],
            }
            for field in spec_fields()
        ],
        "statusDescriptors": [
            {
                "path": "conditions",
                "displayName": "Conditions",
                "description": "Ready: all images are on all nodes.",
                "x-descriptors": ["urn:alm:descriptor:io.kubernetes.conditions"],
            },
            {
                "path": "progress",
                "displayName": "Cached",
                "description": "Images on nodes that are cached, of all.",
                "x-descriptors": [text],
            },
            {
                "path": "imagePullerImage",
                "displayName": "Controller image",
                "description": "Image of the controller that runs.",
                "x-descriptors": [text],
            },
        ],
    }


def _title(field: str) -> str:
    """``cachingCPULimit`` -> ``Caching CPU limit``."""
    words = ""
    for before, letter in zip(" " + field, field, strict=False):
        words += f" {letter}" if letter.isupper() and not before.isupper() else letter
    spaced = "".join(words).replace("CPUL", "CPU L").replace("CPUR", "CPU R").split()
    lower = [word if word == "CPU" else word.lower() for word in spaced]
    return " ".join([lower[0].capitalize(), *lower[1:]])


def _object(api_version: str, kind: str, namespace: str) -> dict[str, Any]:
    data = {"name": PACKAGE, "namespace": namespace, "labels": dict(LABELS)}
    return {"apiVersion": api_version, "kind": kind, "metadata": data}
