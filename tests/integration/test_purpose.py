# SPDX-License-Identifier: GPL-3.0-or-later
"""The purpose: with the registry gone, a user's pod that names repo:tag starts at once on every node of the set."""

from __future__ import annotations

import json

from tests.cluster import Cluster

from .conftest import Install, eventually

IMAGE = "registry.example.com/purpose/workspace:1.0"


def start_consumer(cluster: Cluster, node: str) -> str:
    name = f"consumer-{node}"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "workspace", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}],
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(pod))
    return name


def first_image_event(cluster: Cluster, pod: str) -> str:
    """The first thing that the kubelet says of the image."""
    told = cluster.kubectl(
        "get", "events", "-n", "default", "--field-selector", f"involvedObject.name={pod}", "-o", "json"
    )
    events = sorted(json.loads(told)["items"], key=lambda event: int(event["metadata"]["resourceVersion"]))
    messages = [event["message"] for event in events if event["reason"] in ("Pulling", "Pulled", "Failed")]
    return messages[0] if messages else ""


def test_with_the_registry_gone_a_users_pod_starts_on_every_node_of_the_set(cluster: Cluster, install: Install) -> None:
    cluster.push(IMAGE, size_mb=2)
    inside, outside = cluster.nodes
    for node in cluster.nodes:
        if cluster.node(node).has_image(IMAGE):
            cluster.node(node).remove_image(IMAGE)
    cluster.kubectl("label", "node", inside, "example.com/cached=yes", "--overwrite")
    consumers = []
    try:
        install({"workspace": IMAGE}, node_selector={"example.com/cached": "yes"})
        cluster.registry_stop()
        consumers = [start_consumer(cluster, node) for node in (inside, outside)]
        eventually(
            lambda: (
                cluster.kubectl("get", "pod", consumers[0], "-n", "default", "-o", "jsonpath={.status.phase}")
                == "Running"
            )
        )
        assert "already present on machine" in eventually(lambda: first_image_event(cluster, consumers[0]))
        assert eventually(lambda: first_image_event(cluster, consumers[1])).startswith(f'Pulling image "{IMAGE}"')
        waiting = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
        eventually(
            lambda: (
                cluster.kubectl("get", "pod", consumers[1], "-n", "default", "-o", waiting)
                in ("ErrImagePull", "ImagePullBackOff")
            )
        )
        assert not cluster.node(outside).has_image(IMAGE)
    finally:
        cluster.registry_start()
        for name in consumers:
            cluster.kubectl("delete", "pod", name, "-n", "default", "--wait=false", "--ignore-not-found")
        cluster.kubectl("label", "node", inside, "example.com/cached-")
