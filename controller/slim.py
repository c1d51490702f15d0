# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of the API without what nobody here reads, their equal parts shared: 5,000 nodes have to fit in memory.

What is kept is what ``health.assess``, ``roll.next_step`` and ``reconcile.decide`` look at; a test judges objects with
and without this. Of the times at which a pod's containers started only the last is kept: it is all that the judgement
needs, and each of them would make one more container status differ from those of all other pods.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "ownerReferences",
)
_NODE_METADATA = ("name", "uid", "creationTimestamp", "deletionTimestamp", "labels")
_POD_LABELS = ("pod-template-generation", "controller-revision-hash")
_OURS = "kubecache.io/"
_OWNER = ("kind", "name", "uid", "controller")
_CONTAINER_STATUS = ("name", "image", "imageID", "ready")
_CONDITION = ("type", "status", "reason", "message")
_TAINT = ("key", "value", "effect")


class Shared:
    """Gives equal values as one object.

    :param limit: of different parts; beyond it the table starts anew, and what is there stays as it is.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._parts: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The value, or one that equals it and was here before; it must not be changed from now on."""
        if len(self._parts) > self._limit:
            self._parts = {}
        return self._share(value)

    def _share(self, value: Any) -> Any:
        # The table holds what the ids in its keys belong to.
        if isinstance(value, dict):
            shared = {sys.intern(name): self._share(item) for name, item in value.items()}
            return self._parts.setdefault((dict, *((name, id(item)) for name, item in shared.items())), shared)
        if isinstance(value, list):
            items = [self._share(item) for item in value]
            return self._parts.setdefault((list, *map(id, items)), items)
        return self._parts.setdefault((type(value), value), value)


def pod_slimmer(share: Shared) -> Callable[[Mapping[str, Any]], Object | None]:
    """How pods are kept: those of DaemonSets, None for any other."""

    def slim(pod: Mapping[str, Any]) -> Object | None:
        if not any(owner.get("kind") == "DaemonSet" for owner in pod["metadata"].get("ownerReferences") or ()):
            return None
        spec, status = pod["spec"], pod.get("status") or {}
        made: Object = {"metadata": _some(pod["metadata"], _POD_METADATA)}
        metadata = made["metadata"]
        metadata["labels"] = share(_some(metadata.get("labels") or {}, _POD_LABELS))
        ours = {key: text for key, text in (pod["metadata"].get("annotations") or {}).items() if key.startswith(_OURS)}
        metadata["annotations"] = share(ours)
        metadata["ownerReferences"] = share([_some(owner, _OWNER) for owner in metadata["ownerReferences"]])
        metadata["namespace"] = share(metadata["namespace"])
        containers = share([_some(c, ("name", "image")) for c in spec.get("containers") or ()])
        if spec.get("nodeName"):
            made["spec"] = {"nodeName": spec["nodeName"], "containers": containers}
        else:  # Only the affinity tells then which node the pod is for.
            made["spec"] = {"affinity": spec.get("affinity") or {}, "containers": containers}
        made["status"] = share(_pod_status(status))
        return made

    return slim


def node_slimmer(share: Shared) -> Callable[[Mapping[str, Any]], Object | None]:
    """How nodes are kept."""

    def slim(node: Mapping[str, Any]) -> Object:
        spec, status = node.get("spec") or {}, node.get("status") or {}
        metadata = _some(node["metadata"], _NODE_METADATA)
        metadata["labels"] = {sys.intern(key): share(value) for key, value in (metadata.get("labels") or {}).items()}
        ready = [_some(c, ("type", "status")) for c in status.get("conditions") or () if c.get("type") == "Ready"]
        kept = {
            "unschedulable": spec.get("unschedulable"),
            "taints": [_some(t, _TAINT) for t in spec.get("taints") or ()],
        }
        images = [share({"names": image.get("names") or []}) for image in status.get("images") or ()]
        return {
            "kind": "Node",
            "metadata": metadata,
            "spec": share({key: value for key, value in kept.items() if value}),
            "status": {"conditions": share(ready), "images": images},
        }

    return slim


def slim_config_map(config_map: Mapping[str, Any]) -> Object:
    """How ConfigMaps are kept: whole, but for the server's bookkeeping."""
    metadata = {key: value for key, value in config_map["metadata"].items() if key != "managedFields"}
    return {**config_map, "kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}


def slim_daemonset(daemonset: Mapping[str, Any]) -> Object:
    """How DaemonSets are kept: whole, since any field of theirs may have drifted."""
    return {**daemonset, "kind": "DaemonSet", "apiVersion": "apps/v1"}


def _pod_status(status: Mapping[str, Any]) -> Object:
    unmet = [_some(c, _CONDITION) for c in status.get("conditions") or () if c.get("status") == "False"]
    containers = status.get("containerStatuses") or ()
    last = max(map(_first_start, containers), default="")
    made = {
        **_some(status, ("phase", "reason", "message")),
        "conditions": [condition for condition in unmet if condition["type"] == "PodScheduled"],
        "containerStatuses": [_container_status(c, last) for c in containers],
        "initContainerStatuses": [_container_status(c) for c in status.get("initContainerStatuses") or ()],
    }
    return {key: value for key, value in made.items() if value}


def _container_status(container: Mapping[str, Any], last: str = "") -> Object:
    made = _some(container, _CONTAINER_STATUS)
    for moment in ("state", "lastState"):
        found = {
            kind: _some(details or {}, ("reason", "message", "exitCode"))
            for kind, details in (container.get(moment) or {}).items()
        }
        if found:
            made[moment] = found
    if last and _first_start(container) == last:
        made["state"]["running"] = {"startedAt": last}
    return made


def _first_start(container: Mapping[str, Any]) -> str:
    """When a container that runs for the first time was started; empty for any other."""
    if container.get("restartCount"):
        return ""
    return str(((container.get("state") or {}).get("running") or {}).get("startedAt") or "")


def _some(mapping: Mapping[str, Any], names: tuple[str, ...]) -> Object:
    return {name: mapping[name] for name in names if name in mapping}
