# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods and nodes without what nobody here reads, their equal parts shared: 5,000 nodes have to fit in memory.

What is kept is what ``health.assess``, ``roll.next_step``, ``reconcile.decide`` and, where there has to be room,
``preflight.plan`` look at; tests judge objects with and without this.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]
PAGE = 250  # Objects at a time where each is kept in a small part: 20 containers make a pod of 17 kB.

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
_NODE_INFO = ("kubeletVersion", "containerRuntimeVersion")
_PLATFORM = ("operatingSystem", "architecture")
_ROOM = ("cpu", "memory", "pods", "ephemeral-storage")
_MOUNT = ("name", "volumeStatus")
_CONDITION = ("type", "status", "reason", "message")
_TAINT = ("key", "value", "effect")


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


def pod_slimmer(share: Shared, *, starts: bool = False) -> Callable[[Mapping[str, Any]], Object | None]:
    """How pods are kept: those of DaemonSets, None for any other.

    :param starts: whether to keep when each container started. Otherwise it is only the last of them: it is all that
        the judgement needs, and each of them would make one more container status differ from those of all other pods.
    """

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
        made["spec"] = {
            kind: share([_some(c, ("name", "image")) for c in spec.get(kind) or ()])
            for kind in ("containers", "initContainers")
        }
        if volumes := [_some(volume, ("name", "image")) for volume in spec.get("volumes") or () if volume.get("image")]:
            made["spec"]["volumes"] = share(volumes)
        if spec.get("nodeName"):
            made["spec"]["nodeName"] = spec["nodeName"]
        else:  # Only the affinity tells then which node the pod is for.
            made["spec"]["affinity"] = spec.get("affinity") or {}
        made["status"] = _pod_status(status, share, starts)
        return made

    return slim


def node_slimmer(share: Shared, *, sizes: bool = False, room: bool = False) -> Callable[[Mapping[str, Any]], Object]:
    """How nodes are kept; ``sizes``: with those of the images that they list; ``room``: with platform and resources."""
    listed = ("names", "sizeBytes") if sizes else ("names",)
    info = _NODE_INFO + (_PLATFORM if room else ())

    def slim(node: Mapping[str, Any]) -> Object:
        spec, status = node.get("spec") or {}, node.get("status") or {}
        metadata = _some(node["metadata"], _NODE_METADATA)
        metadata["labels"] = _interned(metadata.get("labels") or {})
        ready = [_some(c, ("type", "status")) for c in status.get("conditions") or () if c.get("type") == "Ready"]
        kept = {
            "unschedulable": spec.get("unschedulable"),
            "taints": [_some(t, _TAINT) for t in spec.get("taints") or ()],
        }
        images = [share(_some(image, listed)) for image in status.get("images") or ()]
        made: Object = {
            "kind": "Node",
            "metadata": metadata,
            "spec": share({key: value for key, value in kept.items() if value}),
            "status": {
                "nodeInfo": share(_some(status.get("nodeInfo") or {}, info)),
                "conditions": share(ready),
                "images": images,
            },
        }
        if room:
            made["status"]["allocatable"] = _interned(_some(status.get("allocatable") or {}, _ROOM))
        return made

    return slim


def _pod_status(status: Mapping[str, Any], share: Shared, starts: bool) -> Object:
    unmet = [_some(c, _CONDITION) for c in status.get("conditions") or () if c.get("status") == "False"]
    containers = status.get("containerStatuses") or ()
    last = max(map(_first_start, containers), default="")
    made = {
        **_interned(_some(status, ("phase", "reason", "message"))),
        "conditions": share([condition for condition in unmet if condition["type"] == "PodScheduled"]),
        "containerStatuses": [share(_container_status(c, starts)) for c in containers],
        "initContainerStatuses": share(
            [_container_status(c, starts) for c in status.get("initContainerStatuses") or ()]
        ),
    }
    for number, container in enumerate(containers):
        if last and not starts and _first_start(container) == last:
            running = {"state": {"running": {"startedAt": last}}}
            made["containerStatuses"][number] = {**made["containerStatuses"][number], **running}
            break
    return {key: value for key, value in made.items() if value}


def _container_status(container: Mapping[str, Any], starts: bool) -> Object:
    made = _some(container, _CONTAINER_STATUS + (("restartCount",) if starts else ()))
    kept = ("reason", "message", "exitCode", *(("startedAt",) if starts else ()))
    if mounts := [_some(m, _MOUNT) for m in container.get("volumeMounts") or () if m.get("volumeStatus")]:
        made["volumeMounts"] = mounts
    for moment in ("state", "lastState"):
        found = {kind: _some(details or {}, kept) for kind, details in (container.get(moment) or {}).items()}
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
