# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the controller's Deployment is available, and what keeps it from that."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import PERMANENT, REMEDIES, pull_failure
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import label_selector


def look_at_controller(cluster: Cluster, deployment_name: str, namespace: str) -> tuple[bool, str, bool]:
    """Whether the Deployment's new pod is available; what is in the way, and whether waiting can't help."""
    deployment = cluster.get("Deployment", deployment_name, namespace)
    if deployment is None:
        return False, "it has gone", True
    if is_available(deployment):
        return True, "", False
    trouble, final = controller_trouble(cluster, deployment)
    return False, trouble or "its pod is still starting", final


def is_available(deployment: dict[str, Any]) -> bool:
    """Whether the pods of the Deployment as it is now are there, and no others."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    observed = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    there = all(status.get(key, 0) >= wanted for key in ("updatedReplicas", "availableReplicas"))
    return bool(observed and there and status.get("replicas", 0) == wanted)


def controller_trouble(cluster: Cluster, deployment: dict[str, Any]) -> tuple[str, bool]:
    """What keeps the controller from running, and whether waiting can't help."""
    pods, _version = cluster.list("Pod", deployment["metadata"]["namespace"], labels=label_selector(deployment))
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"its pod can't be created: {condition.get('message')}", False
    wanted = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    for pod in pods:
        if pod["spec"]["containers"][0]["image"] != wanted or pod["metadata"].get("deletionTimestamp"):
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            failure = pull_failure(status)
            if failure:
                class_, message = failure
                remedy = (
                    "Build and push the controller's image as the README says (make image), or name one that the "
                    f"nodes can pull with image; {REMEDIES[class_]}"
                )
                return f"its image {wanted} can't be pulled ({class_}). The kubelet says: {message}. {remedy}", (
                    class_ in PERMANENT
                )
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") == "CrashLoopBackOff":
                log = f"kubectl logs -n {pod['metadata']['namespace']} {pod['metadata']['name']} --previous"
                return f"its container ends again and again. Look at: {log}", False
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"its pod can't be scheduled: {condition.get('message')}", False
    return "", False
