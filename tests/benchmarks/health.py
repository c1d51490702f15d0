# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the controller mends, and how little it takes while there is nothing to mend.

    make bench-health [ARGS="--nodes 50 --runs 20 --idle 600 --reconciles 1000"] [ARGS="--nodes 5000 --runs 3 ..."]

The controller runs as installed, in its pod, under its limits, on a real node of the embedded cluster; all other nodes
are simulated. 20 images. The figures of small and of large clusters are two runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.installer import (
    Choices,
    Outcome,
    install,
    wait_for_controller,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    Settings,
    from_options,
    require,
)
from tests.benchmarks.install import plan_of
from tests.benchmarks.measuring import Process, api_of, eventually, print_figure, running
from tests.cluster import Cluster
from tests.running import WRITES, ansible_environment, push_built_images

IMAGES = {f"image-{number}": f"registry.example.com/bench/image-{number}:1" for number in range(20)}
NAMESPACE = "bench"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50, help="one of them is real (default: 50)")
    parser.add_argument("--runs", type=int, default=20, help="times that the DaemonSet is deleted (default: 20)")
    parser.add_argument("--idle", type=int, default=600, help="seconds in which nothing happens (default: 600)")
    parser.add_argument("--reconciles", type=int, default=1000, help="passes that are caused (default: 1000)")
    asked = parser.parse_args()
    with running("bench-health", nodes=1, simulated=asked.nodes - 1) as cluster:
        cluster.enter()
        push_built_images(cluster)
        for image in IMAGES.values():
            cluster.push(image)
        Benchmark(cluster, asked.nodes).run(asked.runs, asked.idle, asked.reconciles)


class Benchmark:
    """The figures of one controller on one cluster."""

    def __init__(self, cluster: Cluster, nodes: int) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.api = api_of(cluster)
        self.settings: Settings = require(from_options({"images": IMAGES, "namespace": NAMESPACE}))
        self.process = Process(cluster, "")

    def run(self, runs: int, idle: int, reconciles: int) -> None:
        """Print all figures, each with its goal."""
        self.install()
        limit = 64 if self.nodes <= 50 else 128
        print(
            f"\n{self.nodes} nodes, {len(IMAGES)} images, a controller under {objects.Resources().cpu_limit} of a CPU"
        )
        self.all_become_ready()
        print_figure("RSS with all cached", f"{self.process.rss():.1f} MiB", f"at most {limit} MiB")
        if runs:
            self.deletions(runs)
            self.settled()
            print_figure("RSS after that", f"{self.process.rss():.1f} MiB", f"at most {limit} MiB")
        if idle:
            self.idle(idle)
        if reconciles:
            self.growth(reconciles)
        if self.nodes <= 50:
            self.ends(3)
            self.playbook()

    # --- the figures -------------------------------------------------------------------------------------------------

    def all_become_ready(self) -> None:
        """From an installation to a healthy set."""
        start = time.monotonic()
        self.settled()
        cpu = self.process.metric("process_cpu_seconds_total")
        delay = self.process.metric("image_puller_loop_longest_delay_seconds")
        print_figure(f"until the controller calls {self.nodes} pods healthy", f"{time.monotonic() - start:.0f} s")
        print_figure("CPU of the controller until then", f"{cpu:.1f} s")
        print_figure("largest delay of its loop", f"{delay:.2f} s")

    def deletions(self, runs: int) -> None:
        """A DaemonSet is deleted: seconds until there is another one."""
        seconds = []
        for _ in range(runs):
            seconds.append(self.seconds_to_recreate())
            if self.nodes <= 50:
                self.settled()
        median = f"{statistics.median(seconds):.2f} s"
        print_figure(f"DaemonSet deleted -> a new one, median of {runs}", median, "at most 1 s")
        print_figure("  worst", f"{max(seconds):.2f} s", "at most 3 s")

    def seconds_to_recreate(self) -> float:
        """One deletion."""
        name = self.settings.daemonset_name
        live = eventually(lambda: self.api.get("DaemonSet", name, NAMESPACE))
        start = time.perf_counter()
        self.api.delete("DaemonSet", name, NAMESPACE, uid=live["metadata"]["uid"])

        def another() -> bool:
            found = self.api.get("DaemonSet", name, NAMESPACE)
            return found is not None and found["metadata"]["uid"] != live["metadata"]["uid"]

        eventually(another, pause=0.01)
        return time.perf_counter() - start

    def idle(self, seconds: int) -> None:
        """Nothing happens: what does the controller ask the API server?"""
        time.sleep(60)  # In the first minute registries are asked, and what comes of it is told.
        for _ in range(40):  # After many Events one goes out in ten seconds; what never ends is counted.
            if not self.writes(self.asked(25)):
                break
        cpu = self.process.metric("process_cpu_seconds_total")
        asked = self.asked(seconds)
        cpu = self.process.metric("process_cpu_seconds_total") - cpu
        writes = self.writes(asked)
        reads = [event for event in asked if event["verb"] not in (*WRITES, "watch")]
        print_figure(f"writes in {seconds} s without a change", str(len(writes)), "0")
        for (verb, resource), count in Counter((e["verb"], e["resource"]) for e in writes).items():
            print_figure(f"  {verb} {resource}", str(count))
        print_figure("reads", str(len(reads)), "at most 30 in 600 s")
        print_figure("watch renewals", str(len(asked) - len(writes) - len(reads)))
        print_figure("CPU of the controller", f"{cpu:.2f} s")

    def asked(self, seconds: int) -> list[dict[str, Any]]:
        """What the controller asks the API server in so many seconds from now."""
        mark = self.cluster.audit_mark()
        time.sleep(seconds)
        return [e for e in self.cluster.audit(mark) if e["user"].startswith(f"system:serviceaccount:{NAMESPACE}:")]

    @staticmethod
    def writes(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of them that change something."""
        return [event for event in asked if event["verb"] in WRITES]

    def growth(self, count: int) -> None:
        """Passes for a reason that changes nothing: does the process grow?"""
        self.cause(max(1, count // 10))
        before = self.process.rss()
        start = time.monotonic()
        self.cause(count)
        taken = time.monotonic() - start
        after = self.process.rss()
        print_figure(f"RSS before and after {count} reconciles", f"{before:.1f} -> {after:.1f} MiB", "no growth")
        print_figure("  time of one, with what causes it", f"{1000 * taken / count:.0f} ms")

    def cause(self, count: int) -> None:
        """So many passes."""
        name = "image_puller_reconcile_duration_seconds_count"
        done = self.process.metric(name)
        end, number = done + count, 0
        while done < end:
            for _ in range(5):
                number += 1
                patch = {"metadata": {"annotations": {"example.com/touched": f"{time.time()}-{number}"}}}
                self.api.merge("ConfigMap", objects.Installation().config_map_name, NAMESPACE, patch)
                time.sleep(0.03)
            done = self.process.metric(name)

    def ends(self, runs: int) -> None:
        """SIGTERM: seconds until the process is gone, with two calls of the runtime's client."""
        seconds, node, container = [], self.cluster.node(self.cluster.nodes[0]), ""
        for _ in range(runs):
            container = self.running_container(container)
            start = time.perf_counter()
            node.kill(container, "SIGTERM")
            while node.runs(container):
                time.sleep(0.01)
            seconds.append(time.perf_counter() - start)
        print_figure(f"SIGTERM -> the process is gone, worst of {runs}", f"{max(seconds):.2f} s", "at most 1 s")

    def running_container(self, former: str) -> str:
        """The id of the controller's container, once another one than the former is ready."""

        def running() -> str:
            statuses = [s for pod in self.controller_pods() for s in pod["status"].get("containerStatuses") or ()]
            running = [status["containerID"] for status in statuses if status["ready"]]
            return next((container for container in running if container != former), "")

        return eventually(running)

    def playbook(self) -> None:
        """A DaemonSet is deleted where no controller runs: one run of the playbook makes it again."""
        patch = {"spec": {"replicas": 0}}
        self.api.merge("Deployment", objects.Installation().deployment_name, NAMESPACE, patch)
        eventually(lambda: not self.controller_pods())
        self.api.delete("DaemonSet", self.settings.daemonset_name, NAMESPACE)
        variables = {"image_puller_namespace": NAMESPACE, "image_puller_wait": False}
        command = ["ansible-playbook", "kubecache.image_puller.health_check", "-e", json.dumps(variables)]
        start = time.perf_counter()
        done = subprocess.run(
            command, env=ansible_environment(self.cluster), capture_output=True, text=True, check=False
        )
        if self.api.get("DaemonSet", self.settings.daemonset_name, NAMESPACE) is None:
            sys.exit(f"the playbook made no DaemonSet:\n{done.stdout}\n{done.stderr}")
        print_figure("the same by one run of the health_check playbook", f"{time.perf_counter() - start:.2f} s")

    # --- the parts ---------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """The installation, with the controller on the real node."""
        installation = objects.Installation()
        install(self.api, installation, plan_of(self.settings), Choices(), Outcome(), {})
        here = {"kubernetes.io/hostname": self.cluster.nodes[0]}
        patch = {"spec": {"template": {"spec": {"nodeSelector": here}}}}
        self.api.merge("Deployment", installation.deployment_name, NAMESPACE, patch)
        wait_for_controller(self.api, installation, NAMESPACE, 300)
        (pod,) = eventually(lambda: found if len(found := self.controller_pods()) == 1 else [])
        self.process = Process(self.cluster, pod["status"]["podIP"])

    def controller_pods(self) -> list[dict[str, Any]]:
        """The controller's on the real node, as they are now."""
        fields = f"spec.nodeName={self.cluster.nodes[0]}"
        return self.api.list("Pod", NAMESPACE, labels="app.kubernetes.io/component=controller", fields=fields)[0]

    def ready(self) -> int:
        """The nodes on which the pod of the present DaemonSet is ready."""
        found = self.api.get("DaemonSet", self.settings.daemonset_name, NAMESPACE) or {}
        return int((found.get("status") or {}).get("numberReady") or 0)

    def settled(self) -> None:
        """Wait until all pods of the DaemonSet that is there are ready, and the controller calls the set healthy.

        It may still say so of the one before. Deleted while its pods are being created, a DaemonSet of the same name is
        left alone by the DaemonSet controller for minutes: it waits to see the pods that it made for the other one.
        """
        eventually(lambda: self.ready() == self.nodes, seconds=1800, pause=0.2)
        healthy = f'image_set="{objects.Installation().config_map_name}",verdict="Healthy"}} 1.0'
        complete = f'state="complete"}} {float(self.nodes)}'
        eventually(lambda: healthy in (told := self.process.metrics()) and complete in told, seconds=1800, pause=0.5)


if __name__ == "__main__":
    main()
