# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests of the core are made of: settings, and objects as an API server and a kubelet show them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import canonical_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CachedImage,
    Settings,
    from_options,
    require,
)

JAVA = CachedImage("java11", "registry.example.com/team/java11:2.1")
THEIA = CachedImage("theia", "registry.example.com/team/theia:2.1")
NOW = "2026-11-20T12:00:00Z"


def settings(**options: Any) -> Settings:
    """Settings of these options, which must be good; two images unless others are named."""
    return require(from_options({"images": {JAVA.name: JAVA.image, THEIA.name: THEIA.image}, **options}))


def desired(**options: Any) -> dict[str, Any]:
    """The DaemonSet of these options."""
    (daemonset,) = build_daemonsets(settings(**options))
    return daemonset


# --- what users write ------------------------------------------------------------------------------------------------

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
_components = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,2})[a-z0-9]{1,4}){0,2}", fullmatch=True)
repositories = st.lists(_components, min_size=1, max_size=3).map("/".join)
registries = st.sampled_from(["quay.io", "localhost", "registry.example.com:5000", "[::1]:5000", "10.0.0.1", "Host"])
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
references = st.builds(
    lambda registry, repository, tag, digest: f"{registry}{repository}{tag}{digest}",
    registries.map("{}/".format) | st.just("team/"),
    repositories,
    tags.map(":{}".format) | st.just(""),
    digests.map("@{}".format) | st.just(""),
)
image_lists = st.lists(
    st.builds(CachedImage, labels, references), min_size=1, max_size=5, unique_by=lambda image: image.name
).map(tuple)
_quantities = st.sampled_from(["1", ".05", "0.5", "100m", "10Mi", "0.5Gi", "1e3", "20M", "64Ki", "1.5"])
_keys = st.sampled_from(["disktype", "example.com/zone", "kubernetes.io/arch", "a_b.c"])
_label_values = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?)?", fullmatch=True)
_requirements = st.one_of(
    st.fixed_dictionaries(
        {
            "key": _keys,
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(_label_values, min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries({"key": _keys, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
    st.fixed_dictionaries(
        {"key": _keys, "operator": st.sampled_from(["Gt", "Lt"]), "values": st.integers(0, 99).map(lambda n: [str(n)])}
    ),
)
node_terms = st.fixed_dictionaries({}, optional={"matchExpressions": st.lists(_requirements, max_size=2)})
affinities = st.fixed_dictionaries(
    {},
    optional={
        "nodeAffinity": st.fixed_dictionaries(
            {},
            optional={
                "requiredDuringSchedulingIgnoredDuringExecution": st.fixed_dictionaries(
                    {"nodeSelectorTerms": st.lists(node_terms, min_size=1, max_size=3)}
                ),
                "preferredDuringSchedulingIgnoredDuringExecution": st.lists(
                    st.fixed_dictionaries({"weight": st.integers(1, 100), "preference": node_terms}), max_size=2
                ),
            },
        ),
        "podAntiAffinity": st.just(
            {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "namespaces": ["a"]}]}
        ),
    },
)
tolerations = st.one_of(
    st.fixed_dictionaries({"operator": st.just("Exists")}, optional={"key": _keys, "effect": st.just("NoSchedule")}),
    st.fixed_dictionaries({"key": _keys, "value": _label_values, "effect": st.just("PreferNoSchedule")}),
    st.fixed_dictionaries(
        {"key": _keys, "effect": st.just("NoExecute")},
        optional={"operator": st.just("Equal"), "tolerationSeconds": st.integers(0, 600)},
    ),
)
#: Options that have no problem, as a playbook gives them.
good_options = st.fixed_dictionaries(
    {"images": image_lists.map(lambda images: [{"name": i.name, "image": i.image} for i in images])},
    optional={
        "namespace": labels,
        "daemonset_name": labels,
        "daemonset_annotations": st.dictionaries(_keys, st.text(max_size=20), max_size=3),
        "caching_interval_hours": st.sampled_from([1, "1", "0.5", "2.50", 24, "1e1"]),
        "caching_memory_request": _quantities.filter(lambda text: text != "0.5Gi"),
        "caching_memory_limit": st.just("1Gi"),
        "caching_cpu_request": st.sampled_from([".05", "50m", "0"]),
        "caching_cpu_limit": _quantities.filter(lambda text: text != ".05"),
        "node_selector": st.dictionaries(_keys, _label_values, max_size=3),
        "affinity": affinities,
        "tolerations": st.lists(tolerations, max_size=3),
        "image_pull_secrets": st.lists(labels, max_size=3),
        "helper_image": references,
        "max_unavailable": st.sampled_from([1, "5", "10%", "100%"]),
        "priority_class_name": labels,
        "cache_service_account_name": labels,
        "pod_labels": st.dictionaries(_keys, _label_values, max_size=3),
        "pod_annotations": st.dictionaries(_keys, st.text(max_size=20), max_size=3),
        "runtime_class_name": labels,
        "strategy": st.sampled_from(["sleep", "image_volume", "auto"]),
    },
)


# --- what an API server gives back -----------------------------------------------------------------------------------

_MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "protocol"),
    "ownerReferences": ("uid",),
}
_ATOMIC = ("nodeSelector", "selector", "roleRef", "requiredDuringSchedulingIgnoredDuringExecution")
_ATOMIC_ITEMS = ("imagePullSecrets", "ownerReferences")
_UNOWNED = {"apiVersion", "kind", "name", "namespace"}


def served(applied: Mapping[str, Any]) -> dict[str, Any]:
    """The object as an API server (1.36) stores it after our server-side apply.

    With what it defaults, drops, canonicalises and records in ``managedFields``: written down from recorded answers.
    """
    live: dict[str, Any] = _stored(copy.deepcopy(dict(applied)), "")
    fields = {f"f:{key}": _fields_v1(value, key) for key, value in applied.items() if key not in _UNOWNED}
    fields["f:metadata"] = {k: v for k, v in fields["f:metadata"].items() if k[2:] not in _UNOWNED}
    live["metadata"] |= {
        "uid": "7c9c3c5e-7d0f-4b0a-9a53-3a3b6f1f2d10",
        "resourceVersion": "243",
        "generation": 1,
        "creationTimestamp": NOW,
        "managedFields": [
            {"manager": "kubecache.image_puller", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields},
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "fieldsV1": {}},
        ],
    }
    if applied["kind"] in ("DaemonSet", "Deployment"):
        live["spec"] |= {"revisionHistoryLimit": 10}
        pod = live["spec"]["template"]["spec"]
        pod |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
        if "serviceAccountName" in pod:
            pod["serviceAccount"] = pod["serviceAccountName"]
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
    if applied["kind"] == "DaemonSet":
        live["metadata"].setdefault("annotations", {})["deprecated.daemonset.template.generation"] = "1"
        live["status"] = {"numberReady": 0, "desiredNumberScheduled": 0}
    return live


def _stored(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _stored(item, f"{path}.{key}")
            for key, item in value.items()
            if item != [] and (item != {} or key in ("emptyDir", "labelSelector", "preference"))
        }
    if isinstance(value, list):
        return [_stored(item, path) for item in value]
    return canonical_quantity(value) if ".resources." in path else value


def _fields_v1(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and name not in _ATOMIC:
        return {f"f:{key}": _fields_v1(item, key) for key, item in value.items()}
    if isinstance(value, list) and name in _MERGE_KEYS:
        return {
            "k:" + json.dumps({key: item[key] for key in _MERGE_KEYS[name]}, separators=(",", ":")): {}
            if name in _ATOMIC_ITEMS
            else {".": {}, **_fields_v1(item, "")}
            for item in value
        }
    return {}


# --- what kubelets and the control plane tell ------------------------------------------------------------------------


def node(name: str = "node-1", *, ready: bool = True, taints: Any = (), **more: Any) -> dict[str, Any]:
    """A Linux node; ``labels``, ``unschedulable``, ``images`` (the names it lists), ``created``, ``deleted``."""
    metadata = {"name": name, "labels": {"kubernetes.io/os": "linux", **more.get("labels", {})}}
    metadata["creationTimestamp"] = more.get("created", "2026-11-01T00:00:00Z")
    if more.get("deleted"):
        metadata["deletionTimestamp"] = NOW
    spec = {"taints": list(taints)} | ({"unschedulable": True} if more.get("unschedulable") else {})
    images = [{"names": [name]} for name in more.get("images", ())]
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}], "images": images},
    }


def pod(node_name: str = "node-1", statuses: Any = (), **more: Any) -> dict[str, Any]:
    """The pod of ``desired()`` on a node: ``statuses`` of its containers; ``uid``, ``status`` and ``metadata`` more."""
    spec = copy.deepcopy(more.get("daemonset") or desired())["spec"]["template"]["spec"]
    return {
        "metadata": {
            "name": f"cache-{node_name}",
            "uid": more.get("uid", f"uid-{node_name}"),
            **more.get("metadata", {}),
        },
        "spec": {**spec, "nodeName": node_name},
        "status": {"phase": "Pending", "containerStatuses": list(statuses), **more.get("status", {})},
    }


def running(name: str, digest: str = "a" * 64) -> dict[str, Any]:
    """The status of a container that runs."""
    return {
        "name": name,
        "imageID": f"registry.example.com/team/{name}@sha256:{digest}",
        "state": {"running": {"startedAt": NOW}},
    }


def waiting(name: str, reason: str, message: str = "", image_id: str = "") -> dict[str, Any]:
    """The status of a container that waits."""
    return {"name": name, "imageID": image_id, "state": {"waiting": {"reason": reason, "message": message}}}


def event(message: str, uid: str = "uid-node-1", at: str = NOW, reason: str = "") -> dict[str, Any]:
    """An event about a pod (or, by its uid, about anything)."""
    return {"metadata": {}, "involvedObject": {"uid": uid}, "message": message, "lastTimestamp": at, "reason": reason}
