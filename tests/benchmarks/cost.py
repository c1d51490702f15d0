# SPDX-License-Identifier: GPL-3.0-or-later
"""What a set of images costs a real node, by strategy: `make bench-cost`.

What it reserves and really uses, how soon it arrives beside the runtime's own pulls, what one registry that hangs does
to the other images, and how long a user's pod waits for its image on a node where the cache is filled just then. All on
one real node, whose kubelet pulls one image after another or several at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import look
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    IMAGE_VOLUME,
    SLEEP,
    Settings,
    from_options,
    require,
)
from tests.benchmarks.measuring import MIB, api_of, eventually, print_figure, running
from tests.cluster.embedded import EmbeddedCluster
from tests.cluster.processes import cgroup_hierarchies
from tests.running import push_built_images

NAMESPACE, NODE = "bench-cost", "node-1"
REGISTRY = "registry.example.com"
SMALL = {f"small-{number}": f"{REGISTRY}/small/image-{number}:1" for number in range(20)}
LARGE = {f"large-{number}": f"{REGISTRY}/large/image-{number}:1" for number in range(10)}
OTHER = f"{REGISTRY}/other/image:1"
HANGING = ("hanging", f"{REGISTRY}/hanging/image:1")
SIZE = 50  # Megabytes of a large image.
SHARDS, EARLY = 4, 15  # Pods; seconds.
PAUSE = 0.25  # Seconds; to ask the runtime more often takes it from its work.
LINKS: dict[str, int] = {"as fast as it can": 0, "20 MB/s for each layer": 20_000_000}
KUBELETS: dict[str, dict[str, Any]] = {
    "one after another": {"serializeImagePulls": True},
    "five at once": {"serializeImagePulls": False, "maxParallelImagePulls": 5},
}
LIMITED = {"registryPullQPS": 5, "registryBurst": 10}  # As a kubelet has it by default.
PARTS = ("requests", "memory", "arrival", "limit", "hanging", "guest")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="of the parts, several times for several")
    parser.add_argument("--runs", type=int, default=3, help="of the arrivals and the waits (default: 3)")
    asked = parser.parse_args()
    with running("bench-cost", nodes=1, simulated=0) as cluster:
        assert isinstance(cluster, EmbeddedCluster)
        cluster.enter()
        bench = Bench(cluster, asked.runs)
        bench.prepare()
        for part in asked.only or PARTS:
            getattr(bench, part)()


@dataclass(frozen=True)
class _Arrival:
    """Seconds until all images were there, and until that was known; how many were there early."""

    there: float
    known: float
    early: int


class Bench:
    """The node, and sets on it."""

    def __init__(self, cluster: EmbeddedCluster, runs: int) -> None:
        self.cluster, self.runs, self.node, self.api = cluster, runs, cluster.node(NODE), api_of(cluster)

    def prepare(self) -> None:
        """Push everything; the helper's image is on the node as it is on one that has a cache already."""
        push_built_images(self.cluster)
        for reference in SMALL.values():
            self.cluster.push(reference, size_mb=1)
        for reference in (*LARGE.values(), OTHER):
            self.cluster.push(reference, size_mb=SIZE)
        self.cluster.push(HANGING[1])
        self.cluster.kubectl("create", "namespace", NAMESPACE)
        with self._sets(SLEEP, [{"first": SMALL["small-0"]}]):
            pass

    # --- what is reserved and used -----------------------------------------------------------------------------------

    def requests(self) -> None:
        """What the scheduler counts for 20 images on a node."""
        print(f"\nRequests on one node for {len(SMALL)} images")
        known = [len(SMALL) * parse_quantity(amount) for amount in ("50m", "10Mi")]
        print_figure("the known way, computed from its defaults", _amounts(*known))
        for strategy in (SLEEP, IMAGE_VOLUME):
            with self._sets(strategy, [SMALL]):
                cost = cost_of(pod["spec"] for pod in self._pods())
            goal = "10m CPU, 32 MiB" if strategy == IMAGE_VOLUME else ""
            asked = (cost.cpu_requests, cost.memory_requests)
            times = " and ".join(f"{float(own / usual):.2f}" for own, usual in zip(asked, known, strict=True))
            print_figure(strategy, f"{_amounts(*asked)}; {times} times the known way's", goal)

    def memory(self) -> None:
        """What the pod's cgroup counts for 20 images, once all is quiet."""
        print(f"\nMemory that one node uses for {len(SMALL)} images, by its pod's cgroup")
        usual = self._use(SLEEP, helper_image=self.cluster.push_busybox())
        print_figure("sleep, with busybox's program", _shown(usual))
        own = self._use(SLEEP)
        print_figure("sleep, with the helper's own program", _shown(own))
        volumes = self._use(IMAGE_VOLUME)
        print_figure(IMAGE_VOLUME, _shown(volumes), f"at most 0.6 times: {volumes / usual:.2f} and {volumes / own:.2f}")

    def _use(self, strategy: str, **more: Any) -> float:
        with self._sets(strategy, [SMALL], **more):
            time.sleep(20)  # What starting took is given back.
            (pod,) = self._pods()
            return statistics.median(self._used(pod["metadata"]["uid"]) for _number in range(5))

    def _used(self, uid: str) -> float:
        for root in cgroup_hierarchies():
            for path in (root / f"image-puller-{self.cluster.name}" / NODE).rglob(f"*{uid}"):
                for name in ("memory.current", "memory.usage_in_bytes"):
                    if (path / name).exists():
                        return int((path / name).read_text()) / MIB
        raise RuntimeError(f"no cgroup counts the memory of pod {uid}")

    # --- how soon ----------------------------------------------------------------------------------------------------

    def arrival(self) -> None:
        """From the DaemonSet to the last image, beside the same pulls asked of the runtime by CRI."""
        print(f"\nCold start: {len(LARGE)} images of {SIZE} MB each, until all of them are held")
        for link, speed in LINKS.items():
            if speed:
                self.cluster.registry_fault("large/", "slow", bytes_per_second=speed)
            for kubelet, configuration in KUBELETS.items():
                print(f"  the registry gives {link}, the kubelet pulls {kubelet}")
                self._configure(configuration)
                self._arrivals(configuration.get("maxParallelImagePulls", 1), 1 if speed else self.runs)
        self.cluster.registry_clear()

    def _arrivals(self, parallel: int, runs: int) -> None:
        own = statistics.median(self._pull_by_runtime(parallel) for _number in range(runs))
        print_figure(f"  the runtime's own pulls by CRI, {parallel} at once", f"{own:.1f} s")
        for strategy in (SLEEP, IMAGE_VOLUME):
            for shards in (1, SHARDS) if parallel > 1 else (1,):
                took = statistics.median(self._arrive(strategy, shards) for _number in range(runs))
                goal = "at most 1.15 times" if shards == SHARDS or parallel == 1 else ""
                print_figure(f"  {strategy}, {_pods(shards)}", f"{took:.1f} s  {took / own:.2f} times", goal)

    def _pull_by_runtime(self, parallel: int) -> float:
        self._forget(LARGE.values())
        program = str(self.cluster.tool("cri-pull"))
        return float(self.cluster.run([program, str(self.node.socket), str(parallel), *LARGE.values()]).stdout)

    def _arrive(self, strategy: str, shards: int) -> float:
        """Seconds until every container runs. Nobody is asked meanwhile: that would take the machine from the pulls."""
        self._forget(LARGE.values())
        begun = time.monotonic()
        with self._sets(strategy, _dealt(LARGE, shards), wait=False):
            eventually(lambda: len(self._pods()) == shards, pause=PAUSE)
            self.cluster.kubectl("wait", "pod", "--all", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=300s")
            return time.monotonic() - begun

    def limit(self) -> None:
        """More cold images than a kubelet lets through at once: until all are on the node, and how often it says so."""
        print(f"\n{len(SMALL)} small cold images, a kubelet's registryPullQPS of 5 with a burst of 10, and without")
        for kubelet, configuration in KUBELETS.items():
            for shards in (1, SHARDS):
                self._configure({**configuration, **LIMITED})
                took, refused = self._until_known(_dealt(SMALL, shards), SMALL.values()), self._refused()
                self._configure(configuration)
                free = self._until_known(_dealt(SMALL, shards), SMALL.values())
                print_figure(
                    f"kubelet pulls {kubelet}, {_pods(shards)}",
                    f"{took.there:.1f} s, refused {refused} times; without the limit {free.there:.1f} s",
                )

    def _refused(self) -> int:
        """How often the kubelet said that it pulls too much; Events of pods that are gone stay."""
        told = json.loads(self.cluster.kubectl("get", "event", "-n", NAMESPACE, "-o", "json"))["items"]
        found = sum(int(event.get("count") or 1) for event in told if "pull QPS exceeded" in event["message"])
        self.cluster.kubectl("delete", "event", "--all", "-n", NAMESPACE)
        return found

    def hanging(self) -> None:
        """One image of 20 whose registry does not answer: until the 19 others are there, and known to be cached."""
        print(f"\nA registry that hangs, one image of {len(SMALL)}: until the others are on the node, and known to be")
        for kubelet, configuration in KUBELETS.items():
            self._configure(configuration)
            goal = "at most 1.3 times" if "maxParallelImagePulls" in configuration else ""
            for strategy in (SLEEP, IMAGE_VOLUME):
                for shards in (1, SHARDS):
                    print(f"  {strategy}, kubelet pulls {kubelet}, {_pods(shards)}")
                    self._beside_one_that_hangs(strategy, shards, goal)

    def _beside_one_that_hangs(self, strategy: str, shards: int, goal: str) -> None:
        items = [*SMALL.items()]
        listed, others = dict([*items[:4], HANGING, *items[4:-1]]), [image for _name, image in items[:-1]]
        without = self._until_known(_dealt(SMALL, shards), SMALL.values(), strategy)
        self.cluster.registry_fault("hanging/", "hang")
        try:
            beside = self._until_known(_dealt(listed, shards), others, strategy)
        finally:
            self.cluster.registry_clear()
        for what, took, usual, early in (
            ("on the node, by its runtime", beside.there, without.there, f"; {beside.early} after {EARLY} s"),
            ("known to be cached, as image_puller_info tells", beside.known, without.known, ""),
        ):
            figure = f"{took:.1f} s; without it {usual:.1f} s; {took / usual:.2f} times{early}"
            print_figure(f"  {what}", figure, goal)

    def _until_known(self, sets: Sequence[Mapping[str, str]], images: Iterable[str], strategy: str = SLEEP) -> _Arrival:
        """How long it takes until all are there, and until that is known, which it never is before."""
        wanted, early = set(images), 0
        self._forget(wanted)
        begun = time.monotonic()
        with self._sets(strategy, sets, wait=False):
            while len(there := wanted & set(self.node.images())) < len(wanted):
                early = len(there) if time.monotonic() - begun < EARLY else early
                time.sleep(PAUSE)
            took = time.monotonic() - begun
            eventually(lambda: self._told(strategy, sets) >= wanted, seconds=900, pause=PAUSE)
            return _Arrival(took, time.monotonic() - begun, early if took > EARLY else len(wanted))

    def _told(self, strategy: str, sets: Sequence[Mapping[str, str]]) -> set[str]:
        """The images of which it is told that they are cached."""
        reports = [look(self.api, _settings(strategy, images, number)) for number, images in enumerate(sets)]
        return {row.image for report in reports for row in report.rows if row.state == "cached"}

    # --- beside a user's pod -----------------------------------------------------------------------------------------

    def guest(self) -> None:
        """How long a user's pod waits for its image when the cache is filled just before it."""
        print(f"\nA user's pod on a fresh node, {len(LARGE)} images of {SIZE} MB in the list, until it runs")
        last = list(LARGE.values())[-1]
        for kubelet, configuration in KUBELETS.items():
            self._configure(configuration)
            for what, image in (("its image is the list's last", last), ("its image is not in the list", OTHER)):
                alone = self._wait_of(image, 0)
                print_figure(f"kubelet pulls {kubelet}; {what}; without a cache", f"{alone:.1f} s")
                for shards in (1, SHARDS):
                    beside = self._wait_of(image, shards)
                    print_figure(f"  with {_pods(shards)} of the cache", f"{beside:.1f} s  {beside - alone:+.1f} s")

    def _wait_of(self, image: str, shards: int) -> float:
        return statistics.median(self._wait_once(image, shards) for _number in range(self.runs))

    def _wait_once(self, image: str, shards: int) -> float:
        self._forget([*LARGE.values(), image])
        with self._sets(SLEEP, _dealt(LARGE, shards), wait=False):
            if shards:
                eventually(lambda: len(self._pods()) == shards, pause=PAUSE)
                time.sleep(0.5)  # The cache's pulls have begun.
            main = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
            spec = {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [main]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": spec}
            begun = time.monotonic()
            self.cluster.kubectl("create", "-n", NAMESPACE, "-f", "-", input=json.dumps(pod))
            try:
                eventually(lambda: _runs(self._pod("user")), pause=PAUSE)
                return time.monotonic() - begun
            finally:
                self.cluster.kubectl("delete", "pod", "user", "-n", NAMESPACE)

    # --- the node ----------------------------------------------------------------------------------------------------

    def _configure(self, configuration: Mapping[str, Any]) -> None:
        self.node.stop(runtime=False)
        path: pathlib.Path = self.node.directory / "kubelet.json"
        kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "maxParallelImagePulls"}
        path.write_text(json.dumps({**kept, "registryPullQPS": 0, **configuration}))
        self.node.start()
        eventually(lambda: "True" in self.cluster.kubectl("get", "node", NODE, "-o", f"jsonpath={_READY}"))

    def _forget(self, references: Iterable[str]) -> None:
        for reference in references:
            if self.node.has_image(reference):
                self.node.remove_image(reference)

    @contextlib.contextmanager
    def _sets(
        self, strategy: str, sets: Sequence[Mapping[str, str]], *, wait: bool = True, **more: Any
    ) -> Iterator[None]:
        """Sets that are on the node within the context, a pod each; without a controller."""
        made = [_daemonset(strategy, images, number, **more) for number, images in enumerate(sets)]
        for daemonset in made:
            self.cluster.kubectl("create", "-f", "-", input=json.dumps(daemonset))
        try:
            if wait:
                eventually(lambda: self._all_run(len(made)))
            yield
        finally:
            if made:
                self.cluster.kubectl("delete", "daemonset", "--all", "-n", NAMESPACE)
            eventually(lambda: not self._pods(), seconds=600)

    def _pods(self) -> list[dict[str, Any]]:
        found: dict[str, Any] = json.loads(self.cluster.kubectl("get", "pod", "-n", NAMESPACE, "-o", "json"))
        return [pod for pod in found["items"] if pod["metadata"].get("ownerReferences")]

    def _pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cluster.kubectl("get", "pod", name, "-n", NAMESPACE, "-o", "json"))
        return found

    def _all_run(self, count: int) -> bool:
        pods = self._pods()
        return len(pods) == count and all(_runs(pod) for pod in pods)


def _daemonset(strategy: str, images: Mapping[str, str], number: int, **more: Any) -> dict[str, Any]:
    (made,) = build_daemonsets(_settings(strategy, images, number, **more))
    made["spec"]["updateStrategy"] = {"type": "OnDelete"}
    for name in ("priorityClassName", "serviceAccountName"):  # An installation brings them, and there is none.
        made["spec"]["template"]["spec"].pop(name, None)
    return made


def _settings(strategy: str, images: Mapping[str, str], number: int, **more: Any) -> Settings:
    where = {"namespace": NAMESPACE, "daemonset_name": f"set-{number}"}
    return require(from_options({"images": dict(images), "strategy": strategy, **where, **more}))


def _dealt(images: Mapping[str, str], count: int) -> list[dict[str, str]]:
    """The list dealt out to so many pods, in its order."""
    items = list(images.items())
    return [dict(items[number::count]) for number in range(count)]


def _runs(pod: Mapping[str, Any]) -> bool:
    statuses = pod["status"].get("containerStatuses") or ()
    return bool(statuses) and all("running" in status["state"] for status in statuses)


def _amounts(cpu: Any, memory: Any) -> str:
    return f"{float(cpu) * 1000:.0f}m CPU, {float(memory) / MIB:.0f} MiB"


def _shown(used: float) -> str:
    return f"{used:.1f} MiB; {used / len(SMALL) * 1024:.0f} KiB an image"


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


_READY = '{.status.conditions[?(@.type=="Ready")].status}'

if __name__ == "__main__":
    main()
