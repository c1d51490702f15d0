# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation as the known project's Helm chart and its OpenShift Templates make it, and its definition.

Written from their contract. What runs in it is a stand-in.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import KNOWN_FIELDS, crd
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE
from ansible_collections.kubecache.image_puller.plugins.module_utils.template import process
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


def from_templates(namespace: str, image: str = STAND_IN, **parameters: str) -> list[dict[str, Any]]:
    """What its Templates serviceaccount, configmap and app make, with these parameters of configmap.

    As documented: each value a parameter with its default, the ConfigMap with a `type` as Secrets have it, a Deployment
    with amounts and a PriorityClass that is empty. Its Role lists nothing.
    """
    account, role, binding = rights()
    role["rules"][0]["verbs"] = ["create", "delete", "watch", "get"]
    names = {"SERVICEACCOUNT_NAME": ACCOUNT, "DEPLOYMENT_NAME": NAME, "PRIORITY_CLASS_NAME": ""}
    amounts = {"CPU_REQUEST": "50m", "MEMORY_REQUEST": "64Mi", "CPU_LIMIT": "200m", "MEMORY_LIMIT": "256Mi"}
    app = {**names, "IMAGE": image.rpartition(":")[0], "IMAGE_TAG": image.rpartition(":")[2]}
    app |= {f"DEPLOYMENT_{name}": amount for name, amount in amounts.items()}
    settings: dict[str, str] = {**config_map(namespace)["data"], "TOLERATIONS": "[]"}
    data = {key: f"${{{key}}}" for key in (*settings, "IMAGES")}
    made = deployment("${IMAGE}:${IMAGE_TAG}")
    made["metadata"]["name"] = "${DEPLOYMENT_NAME}"
    pod = made["spec"]["template"]["spec"]
    pod |= {"serviceAccountName": "${SERVICEACCOUNT_NAME}", "priorityClassName": "${PRIORITY_CLASS_NAME}"}
    pod["containers"][0]["env"][0]["value"] = "${DEPLOYMENT_NAME}"
    pod["containers"][0]["resources"] = {
        which: {name.lower(): f"${{DEPLOYMENT_{name}_{key}}}" for name in ("CPU", "MEMORY")}
        for which, key in (("requests", "REQUEST"), ("limits", "LIMIT"))
    }
    return [
        *_processed([account, role, binding], {}),
        *_processed([{**config_map(namespace), "type": "Opaque", "data": data}], settings | parameters),
        *_processed([made], app),
    ]


def _processed(objects: list[dict[str, Any]], parameters: dict[str, str]) -> list[dict[str, Any]]:
    declared = [{"name": name, "value": value} for name, value in parameters.items()]
    return process({"kind": "Template", "objects": objects, "parameters": declared}, {})


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition: texts, and a status of one field."""
    made = crd()
    (version,) = made["spec"]["versions"]
    del version["additionalPrinterColumns"]
    text = {"type": "string"}
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"] = {"type": "object", "properties": dict.fromkeys(KNOWN_FIELDS, text)}
    properties["status"] = {"type": "object", "properties": {"imagePullerImage": text}}
    del made["metadata"]["labels"]
    return made


def apply(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Make the namespace, if it is missing, and these objects in it; what the API does not know is dropped."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    placed = [{**o, "metadata": {**o["metadata"], "namespace": namespace}} for o in objects]
    made = {"apiVersion": "v1", "kind": "List", "items": [space, *placed]}
    cluster.kubectl("apply", "--validate=ignore", "-f", "-", input=json.dumps(made))
