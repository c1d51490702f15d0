# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to know that no tag was moved, what one that was moved costs, and what a changed list does to a fleet.

    make bench-refresh [ARGS="--hours 10 --nodes 50 --fleet 1000"]

The controller runs as a process. First its clock runs faster; the nodes are simulated, 20 images on each, and the
registry is the embedded cluster's. The known way's figures are computed from its documented behaviour: it restarts all
pods in each hour, and pulls each image with Always on each node. Then a tag is moved on real nodes, whose own runtimes
tell which image it stands for, with each strategy. At last the list of a fleet of simulated nodes is changed, once for
an image less and once for one that does not exist.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster as Api
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    IMAGE_VOLUME,
    SLEEP,
    from_options,
    require,
)
from tests.benchmarks.measuring import api_of, eventually, print_figure, running
from tests.cluster import Cluster
from tests.running import ROOT, WRITES, push_built_images

NAMESPACE, OWN, SECONDS = "bench", "kubernetes-image-puller", 60.0  # How long the simulated hours take.
IMAGES = {f"image-{number}": f"registry.example.com/bench/image-{number}:1" for number in range(20)}
FAST = """
import json, sys
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS, open_client
from controller.clock import Clock
from controller.loop import Controller
kubeconfig, namespace, speed, environment = sys.argv[1:]
client = open_client(dict.fromkeys(CONNECTION_ARGUMENTS) | {"kubeconfig": kubeconfig})
Controller(
    Cluster(client),
    namespace=namespace,
    deployment_name="kubernetes-image-puller",
    environment=json.loads(environment),
    clock=Clock(float(speed)),
).run()
"""

LAYERS, SIZE = 4, 40  # Of the image that is moved; megabytes in all.
INTERVAL = 10  # Seconds; how often it is asked whether the tag was moved.
SIMULATED: dict[str, Any] = {"node_selector": {"type": "kwok"}, "affinity": {}}
_NOT_SIMULATED = [{"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["kwok"]}]}]
REAL: dict[str, Any] = {
    "affinity": {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": _NOT_SIMULATED}}
    }
}
MISSING = "registry.example.com/bench/missing:1"
OWN_STATUS = {"kwok.x-k8s.io/status": "custom"}  # Of such pods the benchmark is the kubelet.
PARTS = ("unmoved", "moved", "fleet")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=10, help="simulated hours (default: 10)")
    parser.add_argument("--nodes", type=int, default=50, help="simulated nodes (default: 50)")
    parser.add_argument("--fleet", type=int, default=1000, help="simulated nodes of a changed list (default: 1000)")
    parser.add_argument("--only", choices=PARTS, action="append", help="of the parts, several times for several")
    asked = parser.parse_args()
    parts = asked.only or PARTS
    with running("bench-refresh", nodes=3, simulated=asked.nodes) as cluster:
        cluster.enter()
        push_built_images(cluster)
        for reference in IMAGES.values():
            cluster.push(reference)
        if "unmoved" in parts:
            unmoved(cluster, asked.hours, asked.nodes)
        if "moved" in parts:
            for strategy in (SLEEP, IMAGE_VOLUME):
                moved(cluster, strategy)
        if "fleet" in parts:
            cluster.simulate(asked.fleet)
            fleet(cluster, asked.fleet)


@contextlib.contextmanager
def controlled(
    cluster: Cluster, speed: float, count: int, **options: Any
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A set, and its controller with a clock ``speed`` times as fast; yields what lists its pods once all run."""
    api = api_of(cluster)
    settings = require(from_options({"namespace": NAMESPACE, **options}))
    # The process stands for its pod, which a Deployment that is paused does not make: so the roll is the controller's.
    *_, deployment = objects.controller(objects.Installation(), settings)
    deployment["spec"]["paused"] = True
    for obj in (objects.namespace(settings), objects.config_map(objects.Installation(), settings), deployment):
        api.apply(obj)
    environment = {
        "CONFIG_MAP_NAME": objects.Installation().config_map_name,
        "REGISTRY_MIRRORS": json.dumps({"registry.example.com": cluster.registry}),
        "REGISTRY_INSECURE": f"http://{cluster.registry}",
    }

    def pods() -> list[dict[str, Any]]:
        found = api.list("Pod", NAMESPACE)[0]
        ready = [pod for pod in found if pod["status"].get("phase") == "Running"]
        return found if len(ready) == len(found) == count else []

    arguments = [str(cluster.kubeconfig), NAMESPACE, str(speed), json.dumps(environment)]
    process = subprocess.Popen(
        [sys.executable, "-c", FAST, *arguments],
        env={**cluster.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'build' / 'collections'}"},
    )
    try:
        eventually(pods, seconds=900)
        yield pods
    finally:
        process.terminate()
        process.wait(10)
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        eventually(lambda: not cluster.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"), seconds=900)


def unmoved(cluster: Cluster, hours: int, nodes: int) -> None:
    """The figures of so many hours in which no tag is moved."""
    with controlled(cluster, hours * 3600 / SECONDS, nodes, images=IMAGES, **SIMULATED) as pods:
        before = {pod["metadata"]["uid"] for pod in pods()}
        time.sleep(15)  # What was told last is told, and each tag was asked for once.
        mark, since = cluster.audit_mark(), time.time()
        time.sleep(SECONDS)
        requests = [r for r in cluster.registry_requests(since) if "/bench/" in r["path"]]
        writes = [e for e in cluster.audit(mark) if e["verb"] in WRITES and e.get("namespace") == NAMESPACE]
        restarted = before ^ {pod["metadata"]["uid"] for pod in eventually(pods)}
    print(f"\n{hours} simulated hours, {nodes} nodes, {len(IMAGES)} images, no tag is moved")
    print_figure("pods restarted", str(len(restarted)), f"0; the known way, computed: {nodes * hours}")
    print_figure("writes in the namespace", str(len(writes)), "0")
    methods = ", ".join(sorted({request["method"] for request in requests}))
    computed = f"{len(IMAGES)}; the known way, computed: {nodes * len(IMAGES)}"
    print_figure(f"requests of the registry in an hour ({methods})", f"{len(requests) / hours:.1f}", computed)


def moved(cluster: Cluster, strategy: str) -> None:
    """What one moved tag costs on real nodes, which never had any layer of it."""
    count, repository = len(cluster.nodes), f"bench-{strategy}/image"
    reference = f"registry.example.com/{repository}:1"

    def push(version: str) -> str:
        files = {"/version": f"{strategy} {version}"}
        return cluster.push(reference, size_mb=SIZE, layers=LAYERS, seed=strategy, files=files)

    def everywhere() -> bool:
        return all(cluster.node(name).images().get(reference) == new for name in cluster.nodes)

    old = push("0")
    options = {"images": {"moving": reference}, "strategy": strategy, "max_unavailable": "1", **REAL}
    with controlled(cluster, 1.0, count, **options, caching_interval_hours=str(INTERVAL / 3600)) as pods:
        before, since = {pod["metadata"]["uid"] for pod in pods()}, time.time()
        with Watch(cluster) as watch:
            new, begun = push("1"), time.monotonic()
            eventually(everywhere, seconds=900)
            arrived = time.monotonic() - begun
            # With image volumes a container's image is the helper's; a pod that began after that has the new one.
            eventually(lambda: len(watch.holders) == count and not before & watch.holders, seconds=900)
            held = time.monotonic() - begun
            eventually(pods)
        after = {pod["metadata"]["uid"] for pod in pods()}
        blobs = [r for r in cluster.registry_requests(since) if f"/{repository}/blobs/" in r["path"]]
    if old == new:
        sys.exit("the tag was not moved")
    print(f"\nA tag is moved, strategy {strategy}: {count} real nodes, an image of {SIZE} MB in {LAYERS} layers")
    print_figure("blobs pulled by a node", f"{len(blobs) / count:.1f}", "its configuration and the new small layer: 2")
    print_figure("pods restarted", str(len(after - before)), f"{count}, as many as there are nodes")
    print_figure("nodes without a running pod at a time, at most", str(watch.away), "max_unavailable: 1")
    print_figure("the longest time for which neither image was in use", f"{watch.gap:.1f} s", "0 s, or as measured")
    asked = f"asked for every {INTERVAL} s"
    print_figure("from the move until the last node's runtime has it", f"{arrived:.0f} s; {asked}")
    print_figure("from the move until the last node's pod holds it", f"{held:.0f} s; {asked}")
    print_figure("samples", str(watch.samples))


class Watch:
    """Asks the API all the time which pods run, in a thread of its own. holders: the uids of the set's own."""

    def __init__(self, cluster: Cluster) -> None:
        self.holders: set[str] = set()
        self.away = self.samples = 0
        self.gap = 0.0
        self._cluster, self._ended = cluster, threading.Event()
        self._api = api_of(cluster)
        self._seen = dict.fromkeys(cluster.nodes, time.monotonic())
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            asked = time.monotonic()
            found = self._api.list("Pod", NAMESPACE)[0]
            own = [pod for pod in found if pod["metadata"]["ownerReferences"][0]["name"] == OWN]
            there = [pod for pod in own if not pod["metadata"].get("deletionTimestamp") and _holds(pod)]
            self.holders = {pod["metadata"]["uid"] for pod in there}
            self.away = max(self.away, len(self._cluster.nodes) - len(there))
            self.samples += 1
            for pod in found:  # A node holds an image by either DaemonSet's container.
                if _holds(pod):
                    node = pod["spec"]["nodeName"]
                    self.gap = max(self.gap, time.monotonic() - self._seen[node])
                    self._seen[node] = asked


def _holds(pod: Mapping[str, Any]) -> bool:
    """Whether a container of a pod runs: of the image, or with it mounted."""
    return any("running" in status["state"] for status in pod["status"].get("containerStatuses") or ())


def fleet(cluster: Cluster, nodes: int) -> None:
    """How many of a fleet's pods are away at a time while a changed list reaches them, and who asks in vain."""
    api = api_of(cluster)
    with controlled(cluster, 1.0, nodes, images=IMAGES, **SIMULATED) as pods:
        fewer = dict(list(IMAGES.items())[:-1])
        changed = require(from_options({"namespace": NAMESPACE, "images": fewer, **SIMULATED}))
        begun, most = time.monotonic(), 0
        api.apply(objects.config_map(objects.Installation(), changed))
        while not _follows(found := api.list("Pod", NAMESPACE)[0], len(fewer), nodes):
            most = max(most, nodes - sum(_is_there(pod) for pod in found))
            time.sleep(0.2)
        took = time.monotonic() - begun
        eventually(pods)
        longer = require(
            from_options(
                {"namespace": NAMESPACE, "images": {**fewer, "missing": MISSING}, "pod_annotations": OWN_STATUS}
                | SIMULATED
            )
        )
        api.apply(objects.config_map(objects.Installation(), longer))
        asking = _ask_in_vain(cluster, api)
        api.apply(objects.config_map(objects.Installation(), changed))
        eventually(lambda: _end(cluster, api.list("Pod", NAMESPACE)[0]) and pods())
    print(f"\nA changed list on {nodes} simulated nodes, max_unavailable 10%")
    print_figure("nodes without a running pod at a time, at most", str(most), f"{nodes // 10}")
    print_figure("until the change has reached every node", f"{took:.0f} s")
    print_figure(f"nodes that ask for an image that does not exist, {SECONDS:.0f} s", str(len(asking)), "1, the canary")


def _ask_in_vain(cluster: Cluster, api: Api) -> set[str]:
    """Fail each pull of the missing image, as kubelets do; the nodes that tried."""
    asking = set[str]()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for pod in api.list("Pod", NAMESPACE)[0]:
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
            if node and node not in asking and _asks(pod):
                status = json.dumps({"status": _failed(pod)})
                cluster.kubectl("patch", "pod", name, "-n", NAMESPACE, "--subresource=status", "-p", status)
                asking.add(node)
        time.sleep(0.5)
    return asking


def _asks(pod: Mapping[str, Any]) -> bool:
    return any(container["image"] == MISSING for container in pod["spec"]["containers"])


def _failed(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a pod all of whose images are there but for the missing one."""
    runs = {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}}
    fails = {"waiting": {"reason": "ErrImagePull", "message": f"failed to resolve image: {MISSING}: not found"}}
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": container["image"] != MISSING,
            "restartCount": 0,
            "state": fails if container["image"] == MISSING else runs,
        }
        for container in pod["spec"]["containers"]
    ]
    return {"phase": "Pending", "containerStatuses": statuses}


def _end(cluster: Cluster, pods: Sequence[Mapping[str, Any]]) -> bool:
    """Let the pods that no other kubelet has go when they are told to; whether none is left."""
    own = [pod["metadata"] for pod in pods if _asks(pod)]
    for data in own:
        if data.get("deletionTimestamp"):
            cluster.kubectl("delete", "pod", data["name"], "-n", NAMESPACE, "--force", "--grace-period=0")
    return not own


def _is_there(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _follows(pods: Sequence[Mapping[str, Any]], images: int, nodes: int) -> bool:
    done = [pod for pod in pods if _is_there(pod) and len(pod["spec"]["containers"]) == images]
    return len(done) == nodes


if __name__ == "__main__":
    main()
