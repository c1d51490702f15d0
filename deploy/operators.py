# SPDX-License-Identifier: GPL-3.0-or-later
"""deploy/operator: the operator for ``kubectl apply``. deploy/olm: the same for the Operator Lifecycle Manager."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import olm, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.render import to_yaml
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    CRD_NAME,
    GROUP,
    PLURAL,
    VERSION,
    crd,
)
from deploy.templates import HEADER

_LONG = "# yamllint disable rule:line-length\n"
_NAMESPACE_FREE = "# For the namespace that `kubectl apply -n` names.\n"
_CRD = f"crds/{GROUP}_{PLURAL}_crd.yaml"


def files() -> dict[str, str]:
    """The files by their paths below deploy/."""
    return {**_operator_files(), **_olm_files()}


def _operator_files() -> dict[str, str]:
    made = {
        _CRD: _yaml(crd()),
        f"crds/{GROUP}_{VERSION}_kubernetesimagepuller_cr.yaml": _yaml(olm.sample(), _NAMESPACE_FREE),
        "service_account.yaml": _yaml(operator.service_account(), _NAMESPACE_FREE),
        "role.yaml": _yaml(operator.role(), _NAMESPACE_FREE),
        "role_binding.yaml": _yaml(operator.role_binding(), _NAMESPACE_FREE),
        # It names no user: the image has one, and OpenShift assigns one.
        "operator.yaml": _yaml(operator.deployment(openshift=True), _NAMESPACE_FREE),
    }
    resources = [_CRD, "service_account.yaml", "role.yaml", "role_binding.yaml", "operator.yaml"]
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return {f"operator/{path}": text for path, text in {**made, "kustomization.yaml": _yaml(kustomization)}.items()}


def _olm_files() -> dict[str, str]:
    annotations = olm.bundle_annotations()
    made = {
        f"bundle/manifests/{operator.PACKAGE}.clusterserviceversion.yaml": _yaml(olm.csv(), _LONG),
        f"bundle/manifests/{CRD_NAME}.crd.yaml": _yaml(crd()),
        "bundle/metadata/annotations.yaml": _yaml({"annotations": annotations}),
        "bundle/Containerfile": _containerfile(annotations),
        "catalog-template.yaml": _yaml(olm.catalog_template()),
    }
    return {f"olm/{path}": text for path, text in made.items()}


def _containerfile(labels: dict[str, str]) -> str:
    lines = [
        "# SPDX-License-Identifier: GPL-3.0-or-later",
        "# Made by `make manifests`. The bundle is data for OLM: nothing of it is ever run.",
        "FROM scratch",
        *(f"LABEL {name}={text}" for name, text in labels.items()),
        "COPY manifests /manifests/",
        "COPY metadata /metadata/",
    ]
    return "\n".join(lines) + "\n"


def _yaml(obj: dict[str, Any], comment: str = "") -> str:
    return HEADER + comment + to_yaml(obj)
