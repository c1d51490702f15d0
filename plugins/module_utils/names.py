# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that several rooms share: labels, annotations, the field manager, how an object is called in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MANAGER = "kubecache.image_puller"
MANAGED_BY = "app.kubernetes.io/managed-by"
IMAGE_SET = "kubecache.io/image-set"
DAEMONSET = "kubecache.io/daemonset"
BUILDER = "kubecache.io/builder"
REVISION = "kubecache.io/revision"  # On the pod template: which one it is; pods carry it.
GUARD = "kubecache.io/guard"  # On a set's ConfigMap: how often its DaemonSet was made anew, and when.
STATUS = "kubecache.io/status"  # On the DaemonSet: the verdict and a bounded summary.
DEPLOYMENT = "kubecache.io/deployment"  # On a set's ConfigMap: the Deployment of the controller that keeps it.
HOME = (
    "kubecache.io/home"  # On a DaemonSet in another namespace than its ConfigMap: that one, and its controller there.
)
MADE_FROM = "kubecache.io/made-from"  # On a DaemonSet that may only be created and deleted: what it was made from.
KEPT = "kubecache.io/kept-settings"  # On a set's ConfigMap: options that were taken over, and that nobody has given.
GROUP = "kubecache.io/group"  # On a set's ConfigMap: the name of the group that it is.
STRATEGY = "kubecache.io/strategy"  # On a DaemonSet: the strategy that was chosen for it, and why.
REFRESH_OF = "kubecache.io/refresh-of"  # On the short-lived DaemonSet: the one whose moved tags it pulls.
REFRESH = "kubecache.io/refresh"  # There: what it pulls, and on which nodes now.
SETTLED = "kubecache.io/settled-digests"  # On a set's ConfigMap: what nodes call a digest of the registry.

_NAMED = 3

LABELS = {"app.kubernetes.io/name": "kubernetes-image-puller", MANAGED_BY: MANAGER}


def metadata(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The object's metadata; empty where there is none."""
    found: dict[str, Any] = obj.get("metadata") or {}
    return found


def describe(obj: Mapping[str, Any]) -> str:
    """``DaemonSet k8s-image-puller/kubernetes-image-puller``: how every sentence calls an object."""
    data = metadata(obj)
    namespace = data.get("namespace")
    return f"{obj.get('kind')} {namespace + '/' if namespace else ''}{data.get('name')}"


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are: how sentences list what may be many."""
    names = list(names)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def label_selector(obj: Mapping[str, Any]) -> str:
    """What asks the API for the pods of a workload: its ``matchLabels`` as text, ``a=b,c=d``."""
    match_labels = obj["spec"]["selector"].get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in match_labels.items())


def is_ours(obj: Mapping[str, Any]) -> bool:
    """Whether this collection made the object (or took it over)."""
    return (metadata(obj).get("labels") or {}).get(MANAGED_BY) == MANAGER
