# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what a real cluster says of images that can't be had, and of containers and nodes in trouble.

`python -m tests.recorded.record [CASE...]` starts a cluster of its own, makes each case, and writes CASE.json beside
this file: the versions, the time, and the DaemonSet, pods, nodes and events, cut to what tells of the case.
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.cluster import Cluster, of_this_checkout, open_cluster

HERE = pathlib.Path(__file__).parent
PATIENCE = 180  # seconds
NAME = "app"  # of the container
Object = dict[str, Any]
Pod = Callable[[Mapping[str, Any]], bool]
KEPT: dict[str, Any] = {
    "metadata": {
        "name": True,
        "namespace": True,
        "uid": True,
        "generation": True,
        "creationTimestamp": True,
        "deletionTimestamp": True,
        "labels": True,
        "annotations": {"deprecated.daemonset.template.generation": True},
        "ownerReferences": True,
    },
    "spec": {
        "selector": True,
        "template": True,
        "nodeName": True,
        "containers": True,
        "initContainers": True,
        "volumes": True,
        "unschedulable": True,
        "taints": True,
    },
    "status": {
        "observedGeneration": True,
        "desiredNumberScheduled": True,
        "currentNumberScheduled": True,
        "numberReady": True,
        "updatedNumberScheduled": True,
        "phase": True,
        "reason": True,
        "message": True,
        "conditions": True,
        "containerStatuses": True,
        "initContainerStatuses": True,
    },
    "involvedObject": True,
    "reason": True,
    "message": True,
    "type": True,
    "count": True,
    "firstTimestamp": True,
    "lastTimestamp": True,
    "eventTime": True,
    "series": True,
}


def cut(value: Mapping[str, Any], kept: Mapping[str, Any]) -> Object:
    """The fields of an object that are kept."""
    return {
        key: value[key] if wanted is True else cut(value[key] or {}, wanted)
        for key, wanted in kept.items()
        if key in value
    }


def waits(*reasons: str) -> Pod:
    """A pod whose container waits for one of these reasons."""

    def told(pod: Mapping[str, Any]) -> bool:
        return any((status["state"].get("waiting") or {}).get("reason") in reasons for status in statuses(pod))

    return told


def runs(pod: Mapping[str, Any]) -> bool:
    """A pod whose container runs."""
    return any("running" in status["state"] for status in statuses(pod))


def statuses(pod: Mapping[str, Any]) -> list[Object]:
    """Of the pod's containers, as far as there are any."""
    told: list[Object] = pod.get("status", {}).get("containerStatuses") or []
    return told


class Recorder:
    """Makes cases on a cluster. Each has a namespace of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.busybox = f"{cluster.registry}/test/busybox:1"

    def record(self, case: str) -> None:
        """Make a case and write what is told of it."""
        self.cluster.kubectl("create", "namespace", case.replace("_", "-"))
        getattr(self, case)(case.replace("_", "-"))
        print(f"{case}: recorded", flush=True)

    def case(self, namespace: str, image: str, until: Pod, pod: Object | None = None, **container: Any) -> None:
        """A DaemonSet with one container, recorded when a pod of it is as the case wants it."""
        self.make(namespace, image, pod, **container)
        self.wait(f"{namespace}: the pod does not come to it", lambda: any(map(until, self.get("pods", namespace))))
        self.write(namespace)

    def make(self, namespace: str, image: str, pod: Object | None = None, **container: Any) -> None:
        """Create the DaemonSet."""
        labels = {"kubecache.io/daemonset": "cache"}
        containers = [{"name": NAME, "image": image, "imagePullPolicy": "IfNotPresent", **container}]
        spec: Object = {"nodeSelector": {"record": "yes"}, "containers": containers}
        spec |= {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
        daemonset = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "cache", "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec | (pod or {})},
            },
        }
        self.create(daemonset)

    def create(self, obj: Object) -> None:
        """Create any object."""
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(obj))

    def get(self, kind: str, namespace: str) -> list[Object]:
        """All objects of a kind."""
        listed = self.cluster.kubectl("get", kind, "-n", namespace, "-o", "json")
        items: list[Object] = json.loads(listed)["items"]
        return items

    def wait(self, complaint: str, condition: Callable[[], bool]) -> None:
        """Ask until it is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                sys.exit(complaint)
            time.sleep(0.3)

    def node(self) -> Object:
        """The node that the cases use."""
        listed = self.cluster.kubectl("get", "nodes", "-l", "record=yes", "-o", "json")
        (node,) = json.loads(listed)["items"]
        return dict(node)

    def write(self, namespace: str) -> None:
        """Write what is there now."""
        node = self.node()
        info = node["status"]["nodeInfo"]
        (daemonset,) = self.get("daemonsets", namespace)
        pods = [pod for pod in self.get("pods", namespace) if pod["metadata"].get("ownerReferences")]
        recorded = {
            "kubernetes": info["kubeletVersion"],
            "runtime": info["containerRuntimeVersion"],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "daemonset": cut(daemonset, KEPT),
            "pods": self.slim(pods),
            "nodes": self.slim([node]),
            "events": self.slim(self.get("events", namespace)),
        }
        text = json.dumps(recorded, indent=1, ensure_ascii=False)
        (HERE / f"{namespace.replace('-', '_')}.json").write_text(text + "\n")

    def slim(self, objects: Iterable[Object]) -> list[Object]:
        """Each object, cut."""
        return [cut(obj, KEPT) for obj in objects]

    # Cases, each named for its file

    def healthy(self, namespace: str) -> None:
        self.case(namespace, self.busybox, runs)

    def absent_tag(self, namespace: str) -> None:
        self.case(namespace, "registry.example.com/team/app:absent", waits("ErrImagePull"))

    def back_off(self, namespace: str) -> None:
        self.case(namespace, "registry.example.com/team/app:absent", waits("ImagePullBackOff"))

    def unauthorized(self, namespace: str) -> None:
        self.cluster.push("registry.example.com/private/app:1")
        self.cluster.registry_fault("private/", "auth", user="u", password="p")
        self.case(namespace, "registry.example.com/private/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def unknown_host(self, namespace: str) -> None:
        self.case(namespace, "egistry.access.redhat.com/team/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def silent_name_server(self, namespace: str) -> None:
        self.case(namespace, "registry.hang.test/team/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def no_platform(self, namespace: str) -> None:
        self.cluster.push("registry.example.com/other/app:1", architecture="riscv64")
        self.case(namespace, "registry.example.com/other/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def invalid_name(self, namespace: str) -> None:
        self.case(namespace, "registry.example.com/Team/App:1", waits("InvalidImageName"))

    def rate_limit(self, namespace: str) -> None:
        self.cluster.registry_fault("busy/", "rate_limit", retry_after=5)
        self.case(namespace, "registry.example.com/busy/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def registry_error(self, namespace: str) -> None:
        self.cluster.registry_fault("error/", "error", status=503)
        self.case(namespace, "registry.example.com/error/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def broken_layer(self, namespace: str) -> None:
        self.cluster.push("registry.example.com/broken/app:1", broken="layer")
        self.case(namespace, "registry.example.com/broken/app:1", waits("ErrImagePull", "ImagePullBackOff"))

    def run_container_error(self, namespace: str) -> None:
        self.case(namespace, self.busybox, waits("RunContainerError"), command=["/no/such/program"])

    def crash_loop(self, namespace: str) -> None:
        self.case(namespace, self.busybox, waits("CrashLoopBackOff"), command=["/bin/sh", "-c", "exit 1"])

    def oom_killed(self, namespace: str) -> None:
        def killed(pod: Mapping[str, Any]) -> bool:
            ended = [status["lastState"].get("terminated") or {} for status in statuses(pod)]
            return waits("CrashLoopBackOff")(pod) and any(end.get("reason") == "OOMKilled" for end in ended)

        resources = {"limits": {"memory": "20Mi"}}
        self.case(namespace, self.busybox, killed, command=["tail", "/dev/zero"], resources=resources)

    def create_container_config_error(self, namespace: str) -> None:
        missing = [{"configMapRef": {"name": "missing"}}]
        self.case(namespace, self.busybox, waits("CreateContainerConfigError"), envFrom=missing)

    def quota(self, namespace: str) -> None:
        hard = {"hard": {"pods": "0"}}
        metadata = {"name": "none", "namespace": namespace}
        self.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard})
        self.wait("no quota", lambda: bool(self.get("resourcequotas", namespace)[0].get("status", {}).get("hard")))
        self.make(namespace, self.busybox)
        refused = ("FailedCreate",)
        self.wait("not refused", lambda: any(event["reason"] in refused for event in self.get("events", namespace)))
        self.write(namespace)

    def evicted(self, namespace: str) -> None:
        """On the node whose images have a file system of their own, which a user's pod fills."""
        image = "registry.example.com/big/app:1"
        self.cluster.push(image, size_mb=80)
        below = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "guest"}}
        self.create({**below, "value": -5, "preemptionPolicy": "Never"})
        self.make(namespace, image, {"priorityClassName": "guest"})
        self.wait("no pod runs", lambda: any(map(runs, self.get("pods", namespace))))
        room = {"requests": {"ephemeral-storage": "200M"}}
        fill = {"name": "main", "image": self.busybox, "command": ["/bin/sh", "-c", FILL], "resources": room}
        name = self.node()["metadata"]["name"]
        spec = {"nodeName": name, "containers": [fill], "terminationGracePeriodSeconds": 0}
        metadata = {"name": "user", "namespace": namespace}
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.wait("nothing is evicted", lambda: any(map(was_evicted, self.get("pods", namespace))))
        self.write(namespace)
        self.cluster.kubectl("delete", "pod", "user", "-n", namespace)

    def image_volume(self, namespace: str) -> None:
        self.volume(namespace, "registry.example.com/team/scratch:1", runs, self.busybox)

    def image_volume_absent(self, namespace: str) -> None:
        self.volume(namespace, "registry.example.com/team/app:absent", waits("ErrImagePull"), self.busybox)

    def image_volume_back_off(self, namespace: str) -> None:
        self.volume(namespace, "registry.example.com/team/app:absent", waits("ImagePullBackOff"), self.busybox)

    def image_volume_unauthorized(self, namespace: str) -> None:
        self.cluster.push("registry.example.com/private/app:1")
        self.cluster.registry_fault("private/", "auth", user="u", password="p")
        image = "registry.example.com/private/app:1"
        self.volume(namespace, image, waits("ErrImagePull", "ImagePullBackOff"), self.busybox)

    def image_volume_helper_absent(self, namespace: str) -> None:
        helper = "registry.example.com/team/helper:absent"
        refused = waits("ErrImagePull", "ImagePullBackOff")
        self.volume(namespace, "registry.example.com/team/scratch:1", refused, helper)

    def volume(self, namespace: str, image: str, until: Pod, helper: str) -> None:
        """A case whose container mounts the image as a volume, and runs the helper."""
        self.cluster.push("registry.example.com/team/scratch:1")
        volume = {"name": NAME, "image": {"reference": image, "pullPolicy": "IfNotPresent"}}
        mount = {"name": NAME, "mountPath": "/image", "readOnly": True}
        self.case(namespace, helper, until, {"volumes": [volume]}, volumeMounts=[mount])

    def hanging_registry(self, namespace: str) -> None:
        """Late, because the kubelet pulls one image after another."""
        self.cluster.registry_fault("hanging/", "hang")
        self.make(namespace, "registry.example.com/hanging/app:1")
        pulling = ("Pulling",)
        self.wait("no pull", lambda: any(event["reason"] in pulling for event in self.get("events", namespace)))
        self.write(namespace)

    def node_not_ready(self, namespace: str) -> None:
        """The last case: the node's kubelet is gone."""
        self.make(namespace, self.busybox)
        self.wait("no pod runs", lambda: any(map(runs, self.get("pods", namespace))))
        self.cluster.node(self.node()["metadata"]["name"]).stop(runtime=False)

        def lost() -> bool:
            return any(c["type"] == "Ready" and c["status"] != "True" for c in self.node()["status"]["conditions"])

        self.wait("the node stays Ready", lost)
        time.sleep(2)  # for the taint and the pod's condition, which follow
        self.write(namespace)


FILL = "dd if=/dev/zero of=/big bs=1M count=160 && sleep infinity"


def was_evicted(pod: Mapping[str, Any]) -> bool:
    """A pod of the DaemonSet that the kubelet gave up."""
    return bool(pod["metadata"].get("ownerReferences")) and pod.get("status", {}).get("reason") == "Evicted"


CASES = [name for name in vars(Recorder) if name not in vars(object) and not name.startswith("_")]
CASES = CASES[CASES.index("healthy") :]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with the cluster
    cluster = open_cluster(of_this_checkout("record"), nodes=1, report=print)
    try:
        cluster.up()
        cluster.add_node({"record": "yes"}, image_disk_mb=400)
        recorder = Recorder(cluster)
        for case in sys.argv[1:] or CASES:
            recorder.record(case)
    finally:
        cluster.down()


if __name__ == "__main__":
    main()
