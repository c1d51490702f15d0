# SPDX-License-Identifier: GPL-3.0-or-later
"""How soon a changed resource is a changed DaemonSet, and what the operator takes for many namespaces.

    make bench-operator [ARGS="--runs 20 --namespaces 200 --foreign 3000"]

The operator runs as installed, in its pod, on a real node of the embedded cluster, and serves all namespaces. In the
many namespaces each resource has all its objects, and its DaemonSet a verdict of realistic size, which the benchmark
writes. Their controllers need not be available: the operator reads only what controllers publish, and looks at those
that are not available again with growing pauses, which is what its requests are.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STATUS
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    API_VERSION,
    KIND,
    crd,
    read_resource,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    fingerprint,
)
from tests.benchmarks.measuring import Process, api_of, eventually, print_figure, running
from tests.cluster import Cluster
from tests.running import push_built_images

NAMESPACE = "bench"
IMAGES = ";".join(f"image-{number}=registry.example.com/bench/image-{number}:1" for number in range(20))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="changes of the resource (default: 20)")
    parser.add_argument("--namespaces", type=int, default=200, help="with a resource each (default: 200)")
    parser.add_argument("--foreign", type=int, default=3000, help="namespaces without one (default: 3000)")
    asked = parser.parse_args()
    with running("bench-operator", nodes=1, simulated=0) as cluster:
        cluster.enter()
        push_built_images(cluster)
        benchmark = Benchmark(cluster)
        benchmark.install()
        benchmark.changes(asked.runs)
        benchmark.many(asked.namespaces, asked.foreign)


class Benchmark:
    """The figures of one operator on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api = api_of(cluster)
        self.process = Process(cluster, "")

    def install(self) -> None:
        """The operator for all namespaces, as OLM grants it."""
        self.namespace(NAMESPACE)
        self.api.apply(crd())
        made = deployment = operator.deployment(NAMESPACE)
        deployment["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "WATCH_NAMESPACE", "value": ""}]
        role = {**operator.role(), "kind": "ClusterRole"}
        binding = {**operator.role_binding(NAMESPACE), "kind": "ClusterRoleBinding"}
        for obj in (role, binding):
            obj["metadata"].pop("namespace", None)
        binding["roleRef"] = {**binding["roleRef"], "kind": "ClusterRole"}
        for obj in (operator.service_account(NAMESPACE), role, binding, made):
            self.api.apply(obj)
        eventually(lambda: self.available(NAMESPACE, operator.NAME))
        (pod,) = self.api.list("Pod", NAMESPACE, labels="app.kubernetes.io/component=operator")[0]
        self.process = Process(self.cluster, pod["status"]["podIP"])

    def changes(self, runs: int) -> None:
        """A field of the resource is changed: seconds until the DaemonSet says so."""
        self.resource(NAMESPACE, cachingMemoryLimit="100Mi")
        eventually(functools.partial(self.has_limit, "100Mi"))
        eventually(lambda: self.available(NAMESPACE, "kubernetes-image-puller"))
        seconds = []
        for number in range(runs):
            limit = f"{101 + number}Mi"
            start = time.perf_counter()
            self.api.merge(KIND, "puller", NAMESPACE, {"spec": {"cachingMemoryLimit": limit}})
            eventually(functools.partial(self.has_limit, limit), pause=0.005)
            seconds.append(time.perf_counter() - start)
            time.sleep(1)
        median = f"{statistics.median(seconds):.2f} s"
        print_figure(f"changed resource -> changed DaemonSet, median of {runs}", median, "at most 1 s")
        print_figure("  worst", f"{max(seconds):.2f} s")

    def many(self, count: int, foreign: int) -> None:
        """Namespaces with a resource, then namespaces without: what each costs."""
        self.settled()
        few = self.process.rss()
        print_figure("RSS with 1 namespace", f"{few:.1f} MiB")
        self.cluster.kubectl("cordon", self.cluster.nodes[0])
        self.cluster.simulate(20)
        began = time.monotonic()
        for number in range(count - 1):
            self.populate(f"bench-{number}")
        eventually(lambda: self.process.metric("image_puller_operator_namespaces") == count)
        eventually(self.all_told, seconds=900, pause=2)
        print_figure(f"until {count} namespaces had their status", f"{time.monotonic() - began:.0f} s")
        self.settled()
        with_all = self.process.rss()
        print_figure(f"RSS with {count} namespaces", f"{with_all:.1f} MiB", "at most 64 MiB")
        each = 1024 * (with_all - few) / max(1, count - 1)
        print_figure("  each namespace", f"{each:.0f} KiB", "at most 100 KiB")
        print_figure("  its requests in 30 s without a change", self.asked(30))
        for number in range(foreign):
            self.namespace(f"foreign-{number}")
            self.api.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "theirs", "namespace": f"foreign-{number}"},
                    "data": {"key": "x" * 1000},
                }
            )
        print_figure("  its requests in 30 s without a change", self.asked(30), "no more")
        print_figure(f"RSS with {foreign} foreign namespaces besides", f"{self.process.rss():.1f} MiB", "no more")

    def asked(self, seconds: float) -> str:
        """How often it asks the API server in so many seconds, and what that takes."""
        mark, cpu = self.cluster.audit_mark(), self.process.metric("process_cpu_seconds_total")
        time.sleep(seconds)
        taken = self.process.metric("process_cpu_seconds_total") - cpu
        its = [e for e in self.cluster.audit(mark) if e["user"].endswith(f":{operator.NAME}") and e["verb"] != "watch"]
        available = sum(self.available(f"bench-{number}", "kubernetes-image-puller") for number in range(3))
        return f"{len(its)}, {taken:.2f} s of CPU ({available} of 3 controllers available)"

    # --- the parts ---------------------------------------------------------------------------------------------------

    def namespace(self, name: str) -> None:
        """A namespace, empty."""
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def resource(self, namespace: str, **spec: str) -> dict[str, Any]:
        """A resource with 20 images."""
        metadata = {"name": "puller", "namespace": namespace}
        made = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"images": IMAGES, **spec}}
        eventually(lambda: self.api.apply(made))
        return made

    def populate(self, namespace: str) -> None:
        """A namespace with a resource, and a DaemonSet with a verdict on failures."""
        self.namespace(namespace)
        settings = read_resource(self.resource(namespace)).settings
        assert settings
        (daemonset,) = build_daemonsets(settings)
        daemonset["spec"]["template"]["spec"]["nodeSelector"] = {"no": "node"}
        failures = [
            {"name": image.name, "image": image.image, "class": "not_found", "nodes": 1, "message": "m" * 300}
            for image in settings.images[:5]
        ]
        summary = {"images": 20, "nodes": 10, "cached": 180, "pulling": 0, "waiting": 0, "failed": 20}
        told = {"verdict": "Degraded", "reasons": ["r" * 300], "summary": summary, "failures": failures}
        daemonset["metadata"]["annotations"] = {
            STATUS: json.dumps({**told, "generation": 1, "settings": fingerprint(settings)})
        }
        self.api.apply(daemonset)

    def all_told(self) -> bool:
        """Whether each resource has conditions."""
        return all((r.get("status") or {}).get("conditions") for r in self.api.list(KIND)[0])

    def has_limit(self, limit: str) -> bool:
        """Whether the DaemonSet's containers have this memory limit."""
        found = self.api.get("DaemonSet", "kubernetes-image-puller", NAMESPACE)
        containers = found["spec"]["template"]["spec"]["containers"] if found else ()
        return any(container["resources"]["limits"]["memory"] == limit for container in containers)

    def available(self, namespace: str, name: str) -> bool:
        """Whether a Deployment has its pod."""
        found = self.api.get("Deployment", name, namespace) or {}
        return bool((found.get("status") or {}).get("availableReplicas"))

    def settled(self) -> None:
        """Wait until it has nothing to do."""
        name = "image_puller_operator_reconcile_duration_seconds_count"

        def idle() -> bool:
            before = self.process.metric(name)
            time.sleep(8)
            return self.process.metric(name) == before

        deadline = time.monotonic() + 120
        while not idle() and time.monotonic() < deadline:
            pass


if __name__ == "__main__":
    main()
