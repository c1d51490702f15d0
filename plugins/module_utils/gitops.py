# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Argo CD or Flux keeps an object: what they track they put back, whoever changes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import describe, metadata

_ARGO = "argocd.argoproj.io"
# Label of the name and of the namespace -> what it is called.
_FLUX = {"kustomize.toolkit.fluxcd.io": "Kustomization", "helm.toolkit.fluxcd.io": "HelmRelease"}


def tracker(obj: Mapping[str, Any]) -> str:
    """Who keeps the object, as ``the Argo CD application cache``; empty where nobody does.

    Argo CD writes an annotation that names application and object, or a label; Flux writes two labels. A copy of the
    annotation on another object means nothing, as for Argo CD itself.
    """
    data = metadata(obj)
    labels, annotations = data.get("labels") or {}, data.get("annotations") or {}
    application, _colon, place = annotations.get(f"{_ARGO}/tracking-id", "").partition(":")
    if application and _is_place_of(place, obj):
        return f"the Argo CD application {application}"
    if f"{_ARGO}/instance" in labels:
        return f"the Argo CD application {labels[f'{_ARGO}/instance']}"
    managers = {str(entry.get("manager")) for entry in data.get("managedFields") or ()}
    instance = labels.get("app.kubernetes.io/instance")
    if instance and any(manager.startswith("argocd") for manager in managers):
        return f"the Argo CD application {instance}"
    for domain, kind in _FLUX.items():
        off = "disabled" in (labels.get(f"{domain}/reconcile"), annotations.get(f"{domain}/reconcile"))
        if f"{domain}/name" in labels and not off:
            name, namespace = labels[f"{domain}/name"], labels.get(f"{domain}/namespace")
            return f"the Flux {kind} {namespace + '/' if namespace else ''}{name}"
    return ""


def _is_place_of(place: str, obj: Mapping[str, Any]) -> bool:
    """Whether Argo CD's ``apps/Deployment:namespace/name`` is this object; what has no namespace bears another's."""
    data, group = metadata(obj), str(obj.get("apiVersion", "")).rpartition("/")[0]
    kind, _colon, path = place.partition(":")
    namespace, _slash, name = path.partition("/")
    same = (kind, name) == (f"{group}/{obj.get('kind')}", data.get("name"))
    return same and data.get("namespace", namespace) == namespace


def require_untracked(found: Iterable[Mapping[str, Any] | None]) -> None:
    """RuntimeError, before anything is written, where Argo CD or Flux keeps one of the objects."""
    for live in found:
        if live is not None and (who := tracker(live)):
            raise RuntimeError(refusal(live, who))


def refusal(obj: Mapping[str, Any], who: str) -> str:
    """The sentence with which an installation is not begun."""
    return (
        f"{describe(obj)} is kept by {who}, which would put back what is changed here; nothing was changed. "
        "Change it in its Git repository, for which the playbook kubecache.image_puller.render writes the files, "
        f"or take the object out of {who}"
    )
