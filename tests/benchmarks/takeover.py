# SPDX-License-Identifier: GPL-3.0-or-later
"""What taking over from the known implementation costs the cache: `make bench-takeover`.

On three real nodes whose kubelets remove every image that no container uses, at their next garbage collection (every
five minutes; two images that nobody uses show that they do). A stand-in for the known controller holds five images; the
playbook `install` takes over so that the collection falls into the roll: the kubelets' logs tell when they collect, and
a rehearsal in check mode how long the playbook takes until then. Each node's own runtime is asked all the time which
images it has and which of them a container uses.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.measuring import print_figure, running
from tests.cluster import Cluster
from tests.cluster.embedded import EmbeddedCluster
from tests.integration import known
from tests.running import ansible_environment, push_built_images

NODES = 3
IMAGES = {f"image-{number}": f"registry.example.com/bench/image-{number}:1" for number in range(5)}
UNUSED = [f"registry.example.com/bench-unused/image-{number}:1" for number in range(2)]
NAMESPACE = "bench-takeover"
COLLECTION = 300.0  # Seconds between two collections of a kubelet.
COLLECTS = "trying to free bytes down to the low threshold"  # What a kubelet logs as it collects.
# Seconds from the playbook's reading, which a rehearsal does too, to the middle of the roll: the controller starts.
MIDDLE = 15.0
GENEROUS = {"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0, "imageMinimumGCAge": "5s"}


class Witness:
    """One node, as its runtime tells: which images are missing, and for how long each is in no container."""

    def __init__(self, cluster: EmbeddedCluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.node = cluster.node(name)
        self.lost: set[str] = set()
        self.gap = (0.0, 0.0)  # The longest, its begin and its end.
        self.collected_at = 0.0  # By the kubelet's log; there may have been some before.
        self.before = collections(cluster, name)
        self.unused: set[str] = set()
        self.samples = 0
        self.used_at: dict[str, float] = {}

    def look(self) -> None:
        """One sample. A gap reaches from the last sample with a container to the next: never too short."""
        before = time.monotonic()
        used = {container["image"] for container in self.node.containers()}
        there = self.node.images()
        after = time.monotonic()
        self.samples += 1
        self.unused = set(UNUSED) & set(there)
        if not self.collected_at and collections(self.cluster, self.name) > self.before:
            self.collected_at = after
        for image in IMAGES.values():
            self.lost |= set() if image in there else {image}
            if image in used:
                gap = (self.used_at.get(image, after), after)
                self.gap = max(self.gap, gap, key=_length)
                self.used_at[image] = before


def _length(gap: tuple[float, float]) -> float:
    return gap[1] - gap[0]


def main() -> None:
    """Measure and print."""
    with running("bench-takeover", nodes=NODES, simulated=0) as cluster:
        assert isinstance(cluster, EmbeddedCluster)
        cluster.enter()
        collect_all(cluster)
        prepare(cluster)
        wait_for(lambda: ready(cluster), "the stand-in's pods are not ready")
        leave_unused(cluster)
        # A kubelet spares what it had not seen at the collection before.
        last = next_collections(cluster)
        start = time.monotonic()
        install(cluster, "--check")
        rehearsal = time.monotonic() - start
        pause = sum(last) / NODES + COLLECTION - rehearsal - MIDDLE - time.monotonic()
        print(
            f"the rehearsal took {rehearsal:.0f} s; waiting {pause:.0f} s for the next garbage collection", flush=True
        )
        if pause < 0:
            sys.exit("the rehearsal took longer than a kubelet waits; nothing was measured")
        time.sleep(pause)
        before, since = uid(cluster), time.time()
        with watched(cluster) as witnesses:
            start = time.monotonic()
            install(cluster)
            seconds = time.monotonic() - start
            wait_for(lambda: all(bool(each.collected_at) for each in witnesses), "no kubelet collected anything", 330)
            time.sleep(5)
        pulled = [r for r in cluster.registry_requests(since) if "/bench/" in r["path"]]
        print(f"\nTaking over from the known implementation (a stand-in for it), {NODES} nodes, {len(IMAGES)} images")
        print_figure("images pulled again", str(len(pulled)), "0")
        print_figure("images lost", str(sum(len(each.lost) for each in witnesses)), "0")
        worst = max(_length(each.gap) for each in witnesses)
        print_figure("seconds in which an image was in no container, worst node", f"{worst:.1f}", "one pod's restart")
        begin, end = min(each.gap[0] for each in witnesses), max(each.gap[1] for each in witnesses)
        within = sum(begin <= each.collected_at <= end for each in witnesses)
        print_figure("nodes that collected while the roll went on", f"{within} of {NODES}")
        print_figure(
            "seconds of the roll; collections, after its begin", f"{end - begin:.0f}; {_ages(witnesses, begin)}"
        )
        print_figure("images that nobody uses, afterwards", str(sum(len(each.unused) for each in witnesses)), "0")
        print_figure("the same DaemonSet afterwards", "yes" if uid(cluster) == before else "no")
        print_figure("seconds of the playbook, with its wait", f"{seconds:.0f}")
        print_figure("samples of each node", ", ".join(str(each.samples) for each in witnesses))


def _ages(witnesses: list[Witness], begin: float) -> str:
    return ", ".join(f"{each.collected_at - begin:.0f}" for each in witnesses)


def collections(cluster: EmbeddedCluster, name: str) -> int:
    """How often a node's kubelet has collected images, as its log tells."""
    log = cluster.node(name).log("kubelet").read_text(encoding="utf-8", errors="replace")
    return log.count(COLLECTS)


def next_collections(cluster: EmbeddedCluster) -> list[float]:
    """Wait until every kubelet has collected once more; when each did."""
    before = {name: collections(cluster, name) for name in cluster.nodes}
    print("waiting for every kubelet's next garbage collection", flush=True)
    done: dict[str, float] = {}

    def all_have() -> bool:
        for name in cluster.nodes:
            if name not in done and collections(cluster, name) > before[name]:
                done[name] = time.monotonic()
        return len(done) == len(before)

    wait_for(all_have, "a kubelet collected nothing", 2 * COLLECTION)
    return list(done.values())


def collect_all(cluster: EmbeddedCluster) -> None:
    """Let every kubelet remove what no container uses, all at about the same time."""
    for name in cluster.nodes:
        node = cluster.node(name)
        node.stop(runtime=False)
        path = node.directory / "kubelet.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | GENEROUS))
    for name in cluster.nodes:
        cluster.node(name).start()


def prepare(cluster: Cluster) -> None:
    """Push everything, and let the stand-in hold the images."""
    push_built_images(cluster)
    known.push_stand_in(cluster)
    for reference in (*IMAGES.values(), *UNUSED):
        cluster.push(reference, size_mb=5)
    listed = ";".join(f"{name}={image}" for name, image in IMAGES.items())
    data = known.config_map(NAMESPACE, IMAGES=f"{listed};")
    known.apply(cluster, NAMESPACE, *known.rights(), data, known.deployment())


def leave_unused(cluster: Cluster) -> None:
    """Bring images to every node that nobody uses any more."""
    for name in cluster.nodes:
        containers = [{"name": f"c{n}", "image": image} for n, image in enumerate(UNUSED)]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"passing-{name}", "namespace": "default"},
            "spec": {"nodeName": name, "terminationGracePeriodSeconds": 0, "containers": containers},
        }
        cluster.kubectl("apply", "-f", "-", input=json.dumps(pod))
    for name in cluster.nodes:
        arguments = ["--for=condition=Ready", "--timeout=120s", "-n", "default"]
        cluster.kubectl("wait", f"pod/passing-{name}", *arguments)
        cluster.kubectl("delete", "pod", f"passing-{name}", "-n", "default")


def ready(cluster: Cluster) -> bool:
    """Whether the stand-in's DaemonSet is on all nodes."""
    told = cluster.kubectl("get", "daemonset", known.NAME, "-n", NAMESPACE, "--ignore-not-found", "-o", "json")
    return bool(told.strip()) and json.loads(told)["status"].get("numberReady") == NODES


def uid(cluster: Cluster) -> str:
    """The DaemonSet's."""
    return cluster.kubectl("get", "daemonset", known.NAME, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}")


def install(cluster: Cluster, *arguments: str) -> None:
    """The playbook, with nothing but the namespace."""
    variables = ("-e", f"image_puller_namespace={NAMESPACE}")
    command = ["ansible-playbook", "kubecache.image_puller.install", *variables, *arguments]
    environment = ansible_environment(cluster)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        sys.exit(f"the playbook failed:\n{done.stdout}\n{done.stderr}")


@contextlib.contextmanager
def watched(cluster: EmbeddedCluster) -> Iterator[list[Witness]]:
    """Look at every node all the time, each in a thread of its own."""
    witnesses, ended = [Witness(cluster, name) for name in cluster.nodes], threading.Event()

    def look(witness: Witness) -> None:
        while not ended.is_set():
            witness.look()

    threads = [threading.Thread(target=look, args=(witness,)) for witness in witnesses]
    for thread in threads:
        thread.start()
    try:
        yield witnesses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def wait_for(question: Callable[[], bool], complaint: str, seconds: float = 120) -> None:
    """Wait until a question has a true answer; the end of the program else."""
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            sys.exit(complaint)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
