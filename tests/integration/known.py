# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation as the known project's Helm chart makes it, written from its contract, and what runs in it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE
from tests.cluster import Cluster, images
from tests.running import ROOT

STAND_IN = "quay.io/eclipse/kubernetes-image-puller:next"
NAME = "kubernetes-image-puller"
CONFIG_MAP = ACCOUNT = "k8s-image-puller"
ROLE = "create-daemonset"


def push_stand_in(cluster: Cluster) -> None:
    """Push an image that runs the stand-in for the known controller (stand_in.py) under the known one's name."""
    program = pathlib.Path(__file__).with_name("stand_in.py")
    archive = ROOT / "build" / "image-puller.oci.tar"
    made = images.extended(archive, {"/stand_in.py": program}, Entrypoint=["python3", "/stand_in.py"], Cmd=[])
    images.push(cluster.connect_registry, made, STAND_IN)


def config_map(namespace: str, **data: str) -> dict[str, Any]:
    """The ConfigMap with its documented keys; ``data`` are other values."""
    values = {
        "DAEMONSET_NAME": NAME,
        "CACHING_INTERVAL_HOURS": "1",
        "NAMESPACE": namespace,
        "CACHING_MEMORY_REQUEST": "10Mi",
        "CACHING_MEMORY_LIMIT": "20Mi",
        "CACHING_CPU_REQUEST": ".05",
        "CACHING_CPU_LIMIT": ".2",
        "NODE_SELECTOR": "{}",
        "IMAGE_PULL_SECRETS": "",
        "AFFINITY": "{}",
        "KIP_IMAGE": HELPER_IMAGE,
        **data,
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP}, "data": values}


def rights() -> list[dict[str, Any]]:
    """Its ServiceAccount, and the Role with which it does its work."""
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["create", "delete", "list", "watch", "get"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
    ]
    reference = {"apiGroup": group, "kind": "Role", "name": ROLE}
    subjects = [{"kind": "ServiceAccount", "name": ACCOUNT}]
    named = {"apiVersion": f"{group}/v1", "metadata": {"name": ROLE}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}},
        {**named, "kind": "Role", "rules": rules},
        {**named, "kind": "RoleBinding", "roleRef": reference, "subjects": subjects},
    ]


def deployment(image: str = STAND_IN) -> dict[str, Any]:
    """Its Deployment."""
    labels = {"app": NAME}
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "DEPLOYMENT_NAME", "value": NAME}],
        "envFrom": [{"configMapRef": {"name": CONFIG_MAP}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"serviceAccountName": ACCOUNT, "containers": [container]},
            },
        },
    }


def apply(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Make the namespace, if it is missing, and these objects in it."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    placed = [{**o, "metadata": {**o["metadata"], "namespace": namespace}} for o in objects]
    made = {"apiVersion": "v1", "kind": "List", "items": [space, *placed]}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(made))
