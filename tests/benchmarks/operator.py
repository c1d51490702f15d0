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
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ansible_collections.kubecache.image_puller.plugins.module_utils import operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster as Api
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS, open_client
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import IMAGE, PORT
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STATUS
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    API_VERSION,
    KIND,
    crd,
    read_resource,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    HELPER_IMAGE,
    fingerprint,
)
from tests.benchmarks.install import running
from tests.cluster import Cluster
from tests.running import ROOT

NAMESPACE = "bench"
IMAGES = ";".join(f"image-{number}=registry.example.com/bench/image-{number}:1" for number in range(20))
MIB = 1024 * 1024
T = TypeVar("T")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="changes of the resource (default: 20)")
    parser.add_argument("--namespaces", type=int, default=200, help="with a resource each (default: 200)")
    parser.add_argument("--foreign", type=int, default=3000, help="namespaces without one (default: 3000)")
    asked = parser.parse_args()
    with running("bench-operator", nodes=1, simulated=0) as cluster:
        cluster.enter()
        for archive, reference in (("image-puller", IMAGE), ("image-puller-helper", HELPER_IMAGE)):
            cluster.push_archive(ROOT / "build" / f"{archive}.oci.tar", reference)
        benchmark = Benchmark(cluster)
        benchmark.install()
        benchmark.changes(asked.runs)
        benchmark.many(asked.namespaces, asked.foreign)


class Benchmark:
    """The figures of one operator on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        options = dict.fromkeys(CONNECTION_ARGUMENTS) | {"kubeconfig": str(cluster.kubeconfig)}
        self.api = Api(open_client(options))
        self.address = ""

    def told(self, what: str, figure: str, goal: str = "") -> None:
        """One line."""
        print(f"  {what:60} {figure}{f'  (goal: {goal})' if goal else ''}", flush=True)

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
        self.eventually(lambda: self.available(NAMESPACE, operator.NAME))
        (pod,) = self.api.list("Pod", NAMESPACE, labels="app.kubernetes.io/component=operator")[0]
        self.address = pod["status"]["podIP"]

    def changes(self, runs: int) -> None:
        """A field of the resource is changed: seconds until the DaemonSet says so."""
        self.resource(NAMESPACE, cachingMemoryLimit="100Mi")
        self.eventually(functools.partial(self.has_limit, "100Mi"))
        self.eventually(lambda: self.available(NAMESPACE, "kubernetes-image-puller"))
        seconds = []
        for number in range(runs):
            limit = f"{101 + number}Mi"
            start = time.perf_counter()
            self.api.merge(KIND, "puller", NAMESPACE, {"spec": {"cachingMemoryLimit": limit}})
            self.eventually(functools.partial(self.has_limit, limit), pause=0.005)
            seconds.append(time.perf_counter() - start)
            time.sleep(1)
        median = f"{statistics.median(seconds):.2f} s"
        self.told(f"changed resource -> changed DaemonSet, median of {runs}", median, "at most 1 s")
        self.told("  worst", f"{max(seconds):.2f} s")

    def many(self, count: int, foreign: int) -> None:
        """Namespaces with a resource, then namespaces without: what each costs."""
        self.settled()
        few = self.rss()
        self.told("RSS with 1 namespace", f"{few:.1f} MiB")
        self.cluster.kubectl("cordon", self.cluster.nodes[0])
        self.cluster.simulate(20)
        began = time.monotonic()
        for number in range(count - 1):
            self.populate(f"bench-{number}")
        self.eventually(lambda: self.metric("image_puller_operator_namespaces") == count)
        self.eventually(self.all_told, seconds=900, pause=2)
        self.told(f"until {count} namespaces had their status", f"{time.monotonic() - began:.0f} s")
        self.settled()
        with_all = self.rss()
        self.told(f"RSS with {count} namespaces", f"{with_all:.1f} MiB", "at most 64 MiB")
        each = 1024 * (with_all - few) / max(1, count - 1)
        self.told("  each namespace", f"{each:.0f} KiB", "at most 100 KiB")
        self.told("  its requests in 30 s without a change", self.asked(30))
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
        self.told("  its requests in 30 s without a change", self.asked(30), "no more")
        self.told(f"RSS with {foreign} foreign namespaces besides", f"{self.rss():.1f} MiB", "no more")

    def asked(self, seconds: float) -> str:
        """How often it asks the API server in so many seconds, and what that takes."""
        mark, cpu = self.cluster.audit_mark(), self.metric("process_cpu_seconds_total")
        time.sleep(seconds)
        taken = self.metric("process_cpu_seconds_total") - cpu
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
        self.eventually(lambda: self.api.apply(made))
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

    def metric(self, name: str) -> float:
        """One number that the operator tells of itself."""

        def ask() -> list[str]:
            command = ["curl", "-s", "--max-time", "20", f"http://{self.address}:{PORT}/metrics"]
            return re.findall(rf"^{name} (\S+)$", self.cluster.run(command).stdout, re.MULTILINE)

        return float(self.eventually(ask)[0])

    def rss(self) -> float:
        """MiB of its process."""
        return self.metric("process_resident_memory_bytes") / MIB

    def settled(self) -> None:
        """Wait until it has nothing to do."""
        name = "image_puller_operator_reconcile_duration_seconds_count"

        def idle() -> bool:
            before = self.metric(name)
            time.sleep(8)
            return self.metric(name) == before

        deadline = time.monotonic() + 120
        while not idle() and time.monotonic() < deadline:
            pass

    @staticmethod
    def eventually(question: Callable[[], T | None], seconds: float = 300, pause: float = 0.2) -> T:
        """The first true answer; the end of the benchmark without one."""
        end = time.monotonic() + seconds
        while True:
            try:
                answer = question()
            except Exception as error:  # The definition is not served yet.
                answer, told = None, str(error)
            else:
                told = repr(answer)
            if answer:
                return answer
            if time.monotonic() > end:
                sys.exit(f"still {told} after {seconds:.0f} s")
            time.sleep(pause)


if __name__ == "__main__":
    main()
