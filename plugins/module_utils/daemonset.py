# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From settings to the DaemonSets that hold the images: pure, and deterministic to the byte."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    BUILDER,
    DAEMONSET,
    IMAGE_SET,
    LABELS,
    REVISION,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.podsecurity import (
    container_security,
    pod_security,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import canonical_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    IMAGE_VOLUME,
    SLEEP,
    Settings,
)

# Raised whenever the template of an unchanged set changes: it costs every user one roll of the cache.
BUILDER_NUMBER = 1

# Nodes on which no kubelet of ours holds images: the labels that virtual-kubelet and EKS Fargate document.
VIRTUAL_NODES = {"type": "virtual-kubelet", "eks.amazonaws.com/compute-type": "fargate"}

# What the API server writes on a DaemonSet, and the DaemonSet controller on each of its pods.
_GENERATION, _POD_GENERATION = "deprecated.daemonset.template.generation", "pod-template-generation"
_HELPER_VOLUME = "kip"
_HELPER_PATH = "/kip"
_FOR_EVER = "876000h"  # A hundred years: the known implementation's helper takes hours, and no `infinity`.
_IMAGE_PATH = "/image"
# What a pod of image volumes asks for as a whole, whatever the number of its images: they are mounted and nothing runs
# but a sleep for each. Measured: 5 MiB for 20 images, 10 MiB while they start.
_WHOLE_POD = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def build_daemonsets(
    settings: Settings,
    *,
    config_map_name: str = CONFIG_MAP_NAME,
    owners: Sequence[Mapping[str, Any]] = (),
    selector: Mapping[str, str] | None = None,
    openshift: bool = False,
    rolled_by_controller: bool = False,
    pull_policy: str = "IfNotPresent",
) -> list[dict[str, Any]]:
    """The DaemonSets of one image set: one pod a node, one container an image, in the order of the list.

    :param settings: ``auto`` makes what works everywhere; ``strategy.choose`` decides before.
    :param owners: the objects whose going takes the cache away when all of them are gone (ConfigMap and Deployment,
        as far as they exist, as the API server returns them).
    :param selector: the ``matchLabels`` of a DaemonSet that is already there; they are immutable, so they are adopted.
    :param openshift: the SCC of the namespace assigns the user, so none is named.
    :param rolled_by_controller: a controller of ours exchanges the pods (OnDelete); else the DaemonSet controller does.
    :param pull_policy: of the images, never of the helper.
    """
    labels = {**LABELS, "app.kubernetes.io/component": "cache", IMAGE_SET: config_map_name}
    match_labels = dict(selector) if selector else {DAEMONSET: settings.daemonset_name}
    data: dict[str, Any] = {
        "name": settings.daemonset_name,
        "namespace": settings.namespace,
        "labels": labels,
        "ownerReferences": [reference_to(owner) for owner in owners],
    }
    if settings.daemonset_annotations:
        data["annotations"] = dict(settings.daemonset_annotations)
    roll: dict[str, Any] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": _int_or_percent(settings.max_unavailable), "maxSurge": 0},
    }
    template: dict[str, Any] = {
        "metadata": {
            # What the pods are known by comes last, so that no label of the user's can take its place.
            "labels": {**settings.pod_labels, **labels, DAEMONSET: settings.daemonset_name, **match_labels},
            "annotations": {**settings.pod_annotations, BUILDER: str(BUILDER_NUMBER)},
        },
        "spec": _pod_spec(settings, openshift, pull_policy),
    }
    template["metadata"]["annotations"][REVISION] = _fingerprint(template)
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": data,
            "spec": {
                "selector": {"matchLabels": match_labels},
                "updateStrategy": {"type": "OnDelete"} if rolled_by_controller else roll,
                "template": template,
            },
        }
    ]


def overruled_labels(settings: Settings, daemonset: Mapping[str, Any]) -> str:
    """Which of ``pod_labels`` a DaemonSet's adopted selector does not leave room for, in one sentence; else empty."""
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    lost = [f"{key}={value}" for key, value in settings.pod_labels.items() if labels.get(key) != value]
    if not lost:
        return ""
    return (
        f"pod_labels {', '.join(lost)}: the selector of the DaemonSet {settings.daemonset_name}, which can't be "
        "changed, has another value, which stays. Remedy: leave the label out, or choose another daemonset_name"
    )


def is_current(daemonset: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a pod is of the DaemonSet's present template, whatever admission has made of the pod's images.

    A template that was changed and changed back has a new generation and the same revision: its pods are current.
    """
    generation = (metadata(daemonset).get("annotations") or {}).get(_GENERATION)
    if generation and (metadata(pod).get("labels") or {}).get(_POD_GENERATION) == generation:
        return True
    template = daemonset["spec"]["template"]
    wanted = revision(template)
    same = (metadata(pod).get("annotations") or {}).get(REVISION) == wanted if wanted else generation is None
    return same and list(held_images(template["spec"]).items()) == list(held_images(pod["spec"]).items())


def revision(template: Mapping[str, Any]) -> str:
    """The fingerprint that the builder wrote on a pod template; empty where it did not."""
    return str((metadata(template).get("annotations") or {}).get(REVISION, ""))


def held_images(pod_spec: Mapping[str, Any]) -> dict[Any, Any]:
    """Which image each entry of a pod holds, whatever the strategy: name -> reference, in the order of the pod.

    An entry is a container. What it holds is the image volume of its name, or else its own image.
    """
    volumes = _image_volumes(pod_spec)
    containers = pod_spec.get("containers") or ()
    return {c.get("name"): volumes.get(c.get("name"), c.get("image")) for c in containers}


def helper_images(pod_spec: Mapping[str, Any]) -> list[Any]:
    """The images that a pod needs to hold the others: what runs in their place, or what that is copied from."""
    volumes = _image_volumes(pod_spec)
    held_by = [c for c in pod_spec.get("containers") or () if c.get("name") in volumes]
    return list(dict.fromkeys(c.get("image") for c in [*(pod_spec.get("initContainers") or ()), *held_by]))


def strategy_of(pod_spec: Mapping[str, Any]) -> str:
    """By which strategy the images of a pod are held."""
    return IMAGE_VOLUME if _image_volumes(pod_spec) else SLEEP


def _image_volumes(pod_spec: Mapping[str, Any]) -> dict[Any, Any]:
    volumes = pod_spec.get("volumes") or ()
    return {volume.get("name"): volume["image"].get("reference") for volume in volumes if volume.get("image")}


def _fingerprint(template: Mapping[str, Any]) -> str:
    same = copy.deepcopy(dict(template))
    spec = same["spec"]
    for owner in [spec, *spec.get("initContainers", ()), *spec["containers"]]:
        for amounts in owner.get("resources", {}).values():  # ".05" and "50m" are no reason to restart a pod.
            amounts.update({name: canonical_quantity(amount) for name, amount in amounts.items()})
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


def builder_number(daemonset: Mapping[str, Any]) -> int:
    """The number of the builder that made a live DaemonSet's template; 0 where none (or no number) is written."""
    text = told_builder(daemonset)
    return int(text) if is_builder(text) else 0


def told_builder(daemonset: Mapping[str, Any]) -> str:
    """What a live DaemonSet's template says of its builder; empty where it says nothing."""
    return str((metadata(daemonset["spec"]["template"]).get("annotations") or {}).get(BUILDER, ""))


def is_builder(text: str) -> bool:
    """Whether this can be the number of a builder."""
    return re.fullmatch("[0-9]{1,6}", text) is not None


def node_affinity(settings: Settings) -> dict[str, Any]:
    """The user's affinity, with virtual nodes excluded in each of its terms (terms are alternatives)."""
    affinity = copy.deepcopy(settings.affinity)
    not_virtual = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in VIRTUAL_NODES.items()]
    node = affinity.setdefault("nodeAffinity", {})
    for term in node.get(_REQUIRED, {}).get("nodeSelectorTerms", ()):
        if term.get("matchExpressions") or term.get("matchFields"):  # An empty term selects no node, and stays so.
            term["matchExpressions"] = [*term.get("matchExpressions", ()), *not_virtual]
    node.setdefault(_REQUIRED, {"nodeSelectorTerms": [{"matchExpressions": not_virtual}]})
    return affinity


def reference_to(owner: Mapping[str, Any]) -> dict[str, Any]:
    """An object as an owner of what goes with it."""
    # blockOwnerDeletion stays unset: on OpenShift it needs rights on the owner's finalizers.
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }


def _int_or_percent(text: str) -> int | str:
    return text if text.endswith("%") else int(text)


def _pod_spec(settings: Settings, openshift: bool, pull_policy: str = "IfNotPresent") -> dict[str, Any]:
    strategy = _image_volume_strategy if settings.strategy == IMAGE_VOLUME else _sleep_strategy
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": pod_security(openshift),
        "nodeSelector": {"kubernetes.io/os": "linux", **settings.node_selector},
        "affinity": node_affinity(settings),
        **strategy(settings, pull_policy),
    }
    if settings.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class_name:
        spec["priorityClassName"] = settings.priority_class_name
    if settings.runtime_class_name:
        spec["runtimeClassName"] = settings.runtime_class_name
    if settings.cache_service_account_name:
        spec["serviceAccountName"] = settings.cache_service_account_name
    return spec


def _sleep_strategy(settings: Settings, pull_policy: str) -> dict[str, Any]:
    """One container an image, which runs a static ``sleep`` that an init container copied from the helper image."""
    names = {image.name for image in settings.images}
    helper = "copy-sleep"
    while helper in names:  # Container names are unique in a pod, init containers included.
        helper += "-0"
    mount = {"name": _HELPER_VOLUME, "mountPath": _HELPER_PATH}
    return {
        "volumes": [{"name": _HELPER_VOLUME, "emptyDir": {}}],
        "initContainers": [
            {
                "name": helper,
                "image": settings.helper_image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", f"cp /bin/sleep {_HELPER_PATH}/sleep"],
                "volumeMounts": [mount],
                **_container(settings),
            }
        ],
        "containers": [
            {
                "name": image.name,
                "image": image.image,
                "imagePullPolicy": pull_policy,
                "command": [f"{_HELPER_PATH}/sleep", _FOR_EVER],
                "workingDir": "/",
                # Keeps the NVIDIA runtime's hook, and the memory it takes, out of images that ask for GPUs.
                "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
                "volumeMounts": [{**mount, "readOnly": True}],
                **_container(settings),
            }
            for image in settings.images
        ],
    }


def _image_volume_strategy(settings: Settings, pull_policy: str) -> dict[str, Any]:
    """One container an image, which sleeps in the helper image and mounts that image, of which nothing is run.

    One container for each, since a container whose image does not come is not created, and what no container mounts is
    not in use. The name of an entry is a DNS label, and so names its container and its volume.
    """
    container = _container(settings)
    if settings.pod_resources:
        del container["resources"]
    return {
        "volumes": [
            {"name": image.name, "image": {"reference": image.image, "pullPolicy": pull_policy}}
            for image in settings.images
        ],
        "containers": [
            {
                "name": image.name,
                "image": settings.helper_image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sleep", _FOR_EVER],
                "workingDir": "/",
                "volumeMounts": [{"name": image.name, "mountPath": _IMAGE_PATH, "readOnly": True}],
                **container,
            }
            for image in settings.images
        ],
        **({"resources": copy.deepcopy(_WHOLE_POD)} if settings.pod_resources else {}),
    }


def _container(settings: Settings) -> dict[str, Any]:
    return {
        "resources": {
            "requests": {"cpu": settings.caching_cpu_request, "memory": settings.caching_memory_request},
            "limits": {"cpu": settings.caching_cpu_limit, "memory": settings.caching_memory_limit},
        },
        "securityContext": container_security(),
    }
