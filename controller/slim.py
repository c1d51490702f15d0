# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of the API without what nobody here reads, their equal parts shared: 5,000 nodes have to fit in memory.

What is kept is what ``health.assess``, ``roll.next_step`` and ``reconcile.decide`` look at; a test judges objects with
and without this. Of the times at which a pod's containers started only the last is kept: it is all that the judgement
needs, and each of them would make one more container status differ from those of all other pods.
"""

from __future__ import annotations

import hashlib
import marshal
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
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
_PULL = re.compile(r'(?:Pulling image|Successfully pulled image|Container image|Failed to pull image) "([^"]+)"')
_PULLED = re.compile(r'Successfully pulled image "[^"]+"')


class Shared:
    """Gives equal values as one object.

    :param limit: of different values; beyond it the table starts anew, and what is there stays as it is.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._values: dict[bytes, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The value (of JSON's types), or one that equals it and was here before; nobody may change it from now on."""
        # Version 2 of the format says the same of equal values; later ones also tell of shared references.
        key = hashlib.blake2b(marshal.dumps(value, 2), digest_size=16).digest()
        found = self._values.get(key)
        if found is None:
            if len(self._values) >= self._limit:
                self._values.clear()
            found = self._values[key] = _interned(value)
        return found


def _interned(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(name): _interned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_interned(item) for item in value]
    return sys.intern(value) if isinstance(value, str) else value


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
        metadata["namespace"] = sys.intern(metadata["namespace"])
        containers = share([_some(c, ("name", "image")) for c in spec.get("containers") or ()])
        if spec.get("nodeName"):
            made["spec"] = {"nodeName": spec["nodeName"], "containers": containers}
        else:  # Only the affinity tells then which node the pod is for.
            made["spec"] = {"affinity": spec.get("affinity") or {}, "containers": containers}
        made["status"] = _pod_status(status, share)
        return made

    return slim


def node_slimmer(share: Shared) -> Callable[[Mapping[str, Any]], Object | None]:
    """How nodes are kept."""

    def slim(node: Mapping[str, Any]) -> Object:
        spec, status = node.get("spec") or {}, node.get("status") or {}
        metadata = _some(node["metadata"], _NODE_METADATA)
        metadata["labels"] = _interned(metadata.get("labels") or {})
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


class ToldEvents:
    """What kubelets told of pulls, and the DaemonSet controller of pods that it can't create: the last of each.

    Written by one thread, read by another.
    """

    def __init__(self) -> None:
        self._pulls: dict[str, dict[str, tuple[str, str]]] = {}
        self._refused: dict[str, Object] = {}
        self._lock = threading.Lock()

    def take(self, event: Mapping[str, Any]) -> bool:
        """Keep what is needed of an event; whether anything is."""
        about, message = event.get("involvedObject") or {}, event.get("message") or ""
        kind, uid = about.get("kind"), about.get("uid") or ""
        time = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
        if kind == "DaemonSet" and event.get("reason") == "FailedCreate":
            kept = {"involvedObject": {"uid": uid}, "reason": "FailedCreate", "message": message}
            with self._lock:
                self._refused = {**self._refused, uid: {**kept, "lastTimestamp": time, "metadata": {}}}
            return True
        match = _PULL.match(message) if kind == "Pod" else None
        if match is None:
            return False
        # How long a pull took makes each message another one, and is nothing that is judged.
        pulled = _PULLED.match(message)
        with self._lock:
            told = self._pulls.setdefault(uid, {})
            if time >= told.get(match.group(1), ("", ""))[1]:
                told[sys.intern(match.group(1))] = (sys.intern(pulled.group() if pulled else message), sys.intern(time))
        return True

    def of(self, daemonset: str, pods: Iterable[str]) -> list[Object]:
        """The events of a DaemonSet and of its pods, by their uids, as ``health.assess`` reads them."""
        with self._lock:
            found = [self._refused[daemonset]] if daemonset in self._refused else []
            found += [
                {"involvedObject": {"uid": uid}, "message": message, "lastTimestamp": time, "metadata": {}}
                for uid in pods
                for message, time in self._pulls.get(uid, {}).values()
            ]
        return found

    def forget_others(self, daemonsets: Iterable[str], pods: Iterable[str]) -> None:
        """Keep only what was told of these, by their uids."""
        with self._lock:
            self._refused = {uid: self._refused[uid] for uid in daemonsets if uid in self._refused}
            self._pulls = {uid: self._pulls[uid] for uid in pods if uid in self._pulls}


def _pod_status(status: Mapping[str, Any], share: Shared) -> Object:
    unmet = [_some(c, _CONDITION) for c in status.get("conditions") or () if c.get("status") == "False"]
    containers = status.get("containerStatuses") or ()
    last = max(map(_first_start, containers), default="")
    made = {
        **_interned(_some(status, ("phase", "reason", "message"))),
        "conditions": share([condition for condition in unmet if condition["type"] == "PodScheduled"]),
        "containerStatuses": [share(_container_status(c)) for c in containers],
        "initContainerStatuses": share([_container_status(c) for c in status.get("initContainerStatuses") or ()]),
    }
    for number, container in enumerate(containers):
        if last and _first_start(container) == last:
            running = {"state": {"running": {"startedAt": last}}}
            made["containerStatuses"][number] = {**made["containerStatuses"][number], **running}
            break
    return {key: value for key, value in made.items() if value}


def _container_status(container: Mapping[str, Any]) -> Object:
    made = _some(container, _CONTAINER_STATUS)
    for moment in ("state", "lastState"):
        found = {
            kind: _some(details or {}, ("reason", "message", "exitCode"))
            for kind, details in (container.get(moment) or {}).items()
        }
        if found:
            made[moment] = found
    return made


def _first_start(container: Mapping[str, Any]) -> str:
    """When a container that runs for the first time was started; empty for any other."""
    if container.get("restartCount"):
        return ""
    return str(((container.get("state") or {}).get("running") or {}).get("startedAt") or "")


def _some(mapping: Mapping[str, Any], names: tuple[str, ...]) -> Object:
    return {name: mapping[name] for name in names if name in mapping}
