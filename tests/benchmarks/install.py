# SPDX-License-Identifier: GPL-3.0-or-later
"""How long an installation takes: the role, one kubernetes.core.k8s task for each object, and kubectl.

    make bench-install [ARGS="--runs 5"]

All three make the same objects in a fresh namespace of the embedded cluster, in turn, without waiting for pods; its
nodes are simulated, so that they take nothing from the machine that installs. Then the requests of a rerun are counted
at the API server, and on real nodes the time from the end of the installation to the DaemonSet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster as Api
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Plan, Wanted
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet, config_maps
from ansible_collections.kubecache.image_puller.plugins.module_utils.installer import Choices, Outcome, install
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    keep_sets,
    look,
    members_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    Settings,
    from_options,
    require,
)
from tests.benchmarks.measuring import api_of, running
from tests.cluster import Cluster
from tests.running import WRITES, ansible_environment, push_built_images

IMAGES = {f"image-{number}": f"registry.example.com/bench/image-{number}:1" for number in range(5)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each way, after one that is not counted (default: 5)")
    runs = parser.parse_args().runs
    with running("bench-api", nodes=0, simulated=2) as cluster:
        Benchmark(cluster).run(runs)
    with running("bench", nodes=2, simulated=0) as cluster:
        cluster.enter()
        push_built_images(cluster)
        for image in IMAGES.values():
            cluster.push(image)
        Benchmark(cluster).run_controller(runs)


class Benchmark:
    """The ways to install, on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.environment = ansible_environment(cluster)
        self.count = 0

    def run(self, runs: int) -> None:
        """Time all ways in turn, and print medians and ratios."""
        ways: dict[str, Callable[[str], list[str]]] = {
            "the role": self.role,
            "the role, which looks ahead as by default": self.careful_role,
            "kubernetes.core.k8s, a task for each object": self.k8s_tasks,
            "kubectl apply -f": self.kubectl_apply,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(runs + 1):
            for name, way in ways.items():
                with self.namespace() as namespace:
                    taken = self.timed(way(namespace))
                    if number:
                        seconds[name].append(taken)
        empty = [self.timed(self.playbook([])) for _ in range(runs)]
        task = [self.timed(self.playbook([{"kubecache.image_puller.image_puller_info": {}}])) for _ in range(runs)]
        api = [self.api_seconds() for _ in range(runs)]
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        role = medians["the role"]
        print(f"\nInstalling {len(self.documents('x'))} objects, without waiting; medians of {runs} runs")
        for name, each in seconds.items():
            spread = f"({min(each):.2f} to {max(each):.2f})"
            print(f"  {name:45} {medians[name]:6.2f} s  {spread:16} {medians[name] / role:5.1f} x the role")
        start, info = statistics.median(empty), statistics.median(task)
        print("\nWhere the role's time goes, measured apart")
        print(f"  ansible-playbook with an empty play           {start:6.2f} s")
        print(f"  one module that imports the client            {info - start:6.2f} s")
        print(f"  all requests of the installation              {statistics.median(api):6.2f} s")
        print(f"\nWrite requests of a rerun on an unchanged cluster: {self.writes_of_a_rerun()}")
        ratio = medians["kubernetes.core.k8s, a task for each object"] / role
        print(f"\nratio kubernetes.core.k8s / role = {ratio:.2f} (goal: at least 3)")

    def run_controller(self, runs: int) -> None:
        """Print how long the controller takes to make the DaemonSet of a new installation."""
        seconds = []
        for _ in range(runs):
            with self.namespace() as namespace:
                seconds.append(self.seconds_to_daemonset(namespace))
        told = f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"\nFrom the end of image_puller_install to the DaemonSet that the controller makes: {told}")

    # The ways

    def role(self, namespace: str, preflight: str = "off") -> list[str]:
        """The collection's playbook; it only installs, as the other ways do."""
        variables = {
            "image_puller_namespace": namespace,
            "image_puller_images": IMAGES,
            "image_puller_wait": False,
            "image_puller_preflight": preflight,
        }
        return ["ansible-playbook", "kubecache.image_puller.install", "-e", json.dumps(variables)]

    def careful_role(self, namespace: str) -> list[str]:
        """The same with the look at nodes, quotas and registries that it begins with by default."""
        return self.role(namespace, "warn")

    def k8s_tasks(self, namespace: str) -> list[str]:
        """The same objects, a task each."""
        return self.playbook(
            [{"kubernetes.core.k8s": {"definition": document, "apply": True}} for document in self.documents(namespace)]
        )

    def kubectl_apply(self, namespace: str) -> list[str]:
        """The same objects in one file."""
        return ["kubectl", "apply", "-f", self.file(yaml.safe_dump_all(self.documents(namespace)))]

    # The parts

    def settings(self, namespace: str) -> Settings:
        """The settings as the role writes them."""
        return require(
            from_options(
                {
                    "images": IMAGES,
                    "namespace": namespace,
                    "priority_class_name": objects.PRIORITY_CLASS_NAME,
                    "cache_service_account_name": objects.CACHE_SERVICE_ACCOUNT_NAME,
                }
            )
        )

    def documents(self, namespace: str) -> list[dict[str, Any]]:
        """All objects that the role makes."""
        settings, installation = self.settings(namespace), objects.Installation()
        return [
            objects.namespace(settings),
            objects.priority_class(),
            objects.cache_service_account(settings),
            objects.config_map(installation, settings),
            *objects.nodes_access(installation, settings),
            *objects.controller(installation, settings),
            *build_daemonsets(settings),
        ]

    def playbook(self, tasks: list[dict[str, Any]]) -> list[str]:
        """A play on localhost with these tasks."""
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        play["vars"] = {"ansible_python_interpreter": sys.executable}
        return ["ansible-playbook", self.file(yaml.safe_dump([play]))]

    def file(self, text: str) -> str:
        """A file with this text, kept until the process ends."""
        self.count += 1
        path = pathlib.Path(self.directory.name) / f"{self.count}.yml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    directory = tempfile.TemporaryDirectory(prefix="image-puller-bench-")

    def timed(self, command: list[str]) -> float:
        """Seconds of a command that must succeed."""
        start = time.perf_counter()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{' '.join(command[:2])} failed:\n{done.stdout}\n{done.stderr}")
        return taken

    @contextlib.contextmanager
    def namespace(self) -> Iterator[str]:
        """A name for a namespace; afterwards everything that was made is gone, and the cluster is quiet."""
        self.count += 1
        name = f"bench-{self.count}"
        yield name
        delete = ["kubectl", "delete", "--ignore-not-found"]
        shared = [f"clusterrolebinding/{objects.nodes_binding_name(name)}", f"clusterrole/{objects.NODES_ROLE_NAME}"]
        self.timed([*delete, *shared, f"priorityclass/{objects.PRIORITY_CLASS_NAME}"])
        self.timed([*delete, "namespace", name, "--timeout=120s"])

    def api(self) -> Api:
        """The adapter that the modules use."""
        return api_of(self.cluster)

    def api_seconds(self) -> float:
        """Seconds of all requests of an installation, in a process that has imported everything."""
        with self.namespace() as name:
            settings, api = self.settings(name), self.api()
            start = time.perf_counter()
            outcome, image_set = Outcome(), ImageSet(name)
            live = config_maps(api, image_set)
            install(api, objects.Installation(), plan_of(settings), Choices(), outcome, live)
            members = members_of(image_set, live, outcome.sets)
            keep_sets(api, members, openshift=False)
            look(api, members[0], read_nodes=True)
            return time.perf_counter() - start

    def writes_of_a_rerun(self) -> int:
        """Write requests that the API server counted for a rerun, of any user but the cluster's own."""
        with self.namespace() as name:
            self.timed([part.replace("false", "true") for part in self.role(name)])
            mark = self.cluster.audit_mark()
            self.timed(self.role(name))
            written = [event for event in self.cluster.audit(mark) if event["verb"] in WRITES]
            reads = len(self.cluster.audit(mark)) - len(written)
            print(f"(requests of the rerun that were no writes: {reads})", end=" ")
            return len([event for event in written if "admin" in event["user"] or name in event["user"]])

    def seconds_to_daemonset(self, namespace: str) -> float:
        """Seconds until the controller has made the DaemonSet, with its image on the nodes already."""
        api, settings = self.api(), self.settings(namespace)
        install(api, objects.Installation(), plan_of(settings), Choices(), Outcome(), {})
        start = time.perf_counter()
        while api.get("DaemonSet", settings.daemonset_name, namespace) is None:
            if time.perf_counter() - start > 120:
                sys.exit("the controller made no DaemonSet within 120 s")
            time.sleep(0.02)
        return time.perf_counter() - start


def plan_of(settings: Settings) -> Plan:
    """An installation with one set."""
    return Plan(settings, (Wanted(CONFIG_MAP_NAME, "", settings),))


if __name__ == "__main__":
    main()
