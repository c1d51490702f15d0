# SPDX-License-Identifier: GPL-3.0-or-later
"""Who tracks an object is told by the marks that Argo CD and Flux leave, and by nothing that only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.gitops import refusal, tracker

ID = "argocd.argoproj.io/tracking-id"


def obj(
    labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, *managers: str
) -> dict[str, Any]:
    fields = [{"manager": manager} for manager in managers]
    data = {"name": "puller", "namespace": "cache", "labels": labels, "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**data, "managedFields": fields}}


@pytest.mark.parametrize(
    ("tracked", "who"),
    [
        (obj(None, {ID: "web:apps/Deployment:cache/puller"}), "the Argo CD application web"),
        (obj({"argocd.argoproj.io/instance": "web"}), "the Argo CD application web"),
        (obj({"app.kubernetes.io/instance": "web"}, None, "argocd-controller"), "the Argo CD application web"),
        (
            obj({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}),
            "the Flux Kustomization flux-system/apps",
        ),
        (obj({"helm.toolkit.fluxcd.io/name": "puller"}), "the Flux HelmRelease puller"),
    ],
)
def test_who_tracks_an_object_is_named(tracked: dict[str, Any], who: str) -> None:
    assert tracker(tracked) == who
    assert refusal(tracked, who).startswith(f"Deployment cache/puller is kept by {who}, which would put back")


@pytest.mark.parametrize(
    "free",
    [
        obj(),
        obj({"app.kubernetes.io/instance": "kubernetes-image-puller"}, None, "kubecache.image_puller", "kubectl"),
        obj(None, {ID: "web:apps/Deployment:cache/another"}),
        obj(None, {ID: "web:apps/StatefulSet:cache/puller"}),
        obj(None, {ID: "web:apps/Deployment:elsewhere/puller"}),
        obj(None, {ID: ""}),
        obj({"kustomize.toolkit.fluxcd.io/name": "apps"}, {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}),
    ],
)
def test_what_nobody_tracks_is_free(free: dict[str, Any]) -> None:
    """A copy of the mark, our own label of that name, and what Flux was told to leave alone."""
    assert tracker(free) == ""


def test_what_has_no_namespace_is_tracked_in_that_of_the_application() -> None:
    annotations = {ID: "web:scheduling.k8s.io/PriorityClass:cache/image-puller-cache"}
    class_ = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "image-puller-cache", "annotations": annotations},
    }
    assert tracker(class_) == "the Argo CD application web"
