# SPDX-License-Identifier: GPL-3.0-or-later
"""What it takes to tell the truth, and how soon a wait is over.

    make bench-info [ARGS="--nodes 50 5000 --runs 3 --waits 10"]

image_puller_info with many and with 50 simulated nodes of 20 images, all of which are cached, as a task of a play and
beside one that only imports the client and connects. Then plays on a real node that wait for an image: from the moment
at which the API shows that it is there, or that it can't be had, until the task ends.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import look
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.installer import Choices, Outcome, install
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    HELPER_IMAGE,
    Settings,
    from_options,
    require,
)
from tests.benchmarks.install import plan_of
from tests.benchmarks.measuring import api_of, print_figure, running
from tests.cluster import Cluster
from tests.running import ROOT, ansible_environment

IMAGES = {f"image-{number:02}": f"registry.example.com/bench/image-{number:02}:1" for number in range(20)}
NAMESPACE = "bench"
INFO = "kubecache.image_puller.image_puller_info"
# A module of nobody's that does what every module must: import the client, and connect.
EMPTY = """
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS, connect
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec=CONNECTION_ARGUMENTS)
connect(module)
module.exit_json()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[50, 5000], help="of each cluster (default: 50 5000)")
    parser.add_argument("--runs", type=int, default=3, help="of each task (default: 3)")
    parser.add_argument("--waits", type=int, default=10, help="of each kind (default: 10)")
    asked = parser.parse_args()
    for nodes in asked.nodes:
        with running("bench-info", nodes=0, simulated=nodes) as cluster:
            Told(cluster, nodes).run(asked.runs)
    if asked.waits:
        with running("bench-wait", nodes=1, simulated=0) as cluster:
            cluster.enter()
            cluster.push_archive(ROOT / "build" / "image-puller-helper.oci.tar", HELPER_IMAGE)
            Waits(cluster).run(asked.waits)


class Play:
    """Plays of one task, and what it takes to run them."""

    def __init__(self, cluster: Cluster) -> None:
        self.directory = pathlib.Path(cluster.kubeconfig).parent / "plays"
        (self.directory / "library").mkdir(parents=True, exist_ok=True)
        (self.directory / "library" / "empty.py").write_text(EMPTY)
        self.environment = ansible_environment(cluster) | {"ANSIBLE_LIBRARY": str(self.directory / "library")}
        self.cluster = cluster

    def command(self, task: dict[str, Any] | None) -> list[str]:
        """A play with this task, in the cluster's network."""
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task] if task else []}
        play["vars"] = {"ansible_python_interpreter": sys.executable}
        path = self.directory / "play.yml"
        path.write_text(yaml.safe_dump([play]))
        return self.cluster.command(["ansible-playbook", path])

    def start(self, task: dict[str, Any] | None) -> subprocess.Popen[str]:
        """A play with this task, whose output can be read."""
        pipe, out = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(self.command(task), env=self.environment, stdout=pipe, stderr=out, text=True)

    def measure(self, task: dict[str, Any] | None) -> tuple[float, float]:
        """Seconds, and MiB of the largest process."""
        start = time.perf_counter()
        process = self.start(task)
        output = process.stdout.read() if process.stdout else ""
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(output)
        return time.perf_counter() - start, usage.ru_maxrss / 1024


class Told:
    """image_puller_info on a cluster of simulated nodes."""

    def __init__(self, cluster: Cluster, nodes: int) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.play = Play(cluster)
        self.settings: Settings = require(from_options({"images": IMAGES, "namespace": NAMESPACE}))

    def run(self, runs: int) -> None:
        """Print the figures."""
        api, plan = api_of(self.cluster), plan_of(self.settings)
        install(api, Installation(), plan, Choices(controller=False), Outcome(plan.sets), {})
        self.play.measure({"kubecache.image_puller.image_puller_daemonset": {"namespace": NAMESPACE}})
        while look(api, self.settings).verdict != "Healthy":
            time.sleep(max(1, self.nodes / 500))
        print(f"\nimage_puller_info, {self.nodes} nodes x {len(IMAGES)} images; medians of {runs} runs")
        tasks: dict[str, dict[str, Any] | None] = {
            "a play without a task": None,
            "a task that only connects": {"empty": {}},
            "image_puller_info": {INFO: {"namespace": NAMESPACE}},
            "image_puller_info, details: all": {INFO: {"namespace": NAMESPACE, "details": "all"}},
        }
        seconds = {}
        for name, task in tasks.items():
            measured = [self.play.measure(task) for _ in range(runs)]
            seconds[name] = statistics.median(taken for taken, _ in measured)
            print_figure(name, f"{seconds[name]:6.2f} s  {max(size for _, size in measured):5.0f} MiB")
        empty, only, info = (seconds[name] for name in list(tasks)[:3])
        if self.nodes > 50:
            print_figure("the whole task", f"{info - empty:6.2f} s", "at most 10 s and 300 MiB")
            print_figure("its result", f"{self.size() / 1024:6.0f} KiB", "at most 1 MiB")
        else:
            print_figure("on top of a task that only connects", f"{info - only:6.2f} s", "at most 0.5 s")

    def size(self) -> int:
        """Bytes of JSON that the module returns."""
        code = (
            "from ansible.module_utils.testing import patch_module_args\n"
            f"from ansible_collections.{INFO.rpartition('.')[0]}.plugins.modules import image_puller_info\n"
            f"with patch_module_args({{'namespace': '{NAMESPACE}'}}):\n"
            "    image_puller_info.main()\n"
        )
        done = subprocess.run(
            self.cluster.command([sys.executable, "-c", code]),
            env=self.play.environment | {"PYTHONPATH": str(ROOT / "build" / "collections")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout)["summary"]["cached"] == self.nodes * len(IMAGES)
        return len(done.stdout)


class Waits:
    """How soon a play goes on when its image is there, or can't be had."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api = api_of(cluster)
        self.play = Play(cluster)

    def run(self, runs: int) -> None:
        """Print the medians."""
        print(f"\nFrom what the API shows to the end of the task that waits; medians of {runs}")
        for what, arrives in (("the last image arrived", True), ("the first permanent failure", False)):
            seconds = [self.once(f"wait-{number}{'-good' if arrives else '-bad'}", arrives) for number in range(runs)]
            spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
            print_figure(what, f"{statistics.median(seconds):6.2f} s  {spread}", "at most 1.5 s")

    def once(self, name: str, arrives: bool) -> float:
        """One play in a namespace of its own, for an image that takes some seconds."""
        image = f"registry.example.com/{name}/image:1"
        if arrives:
            self.cluster.push(image)
        # Four or five requests are made for an image, and one for a tag that is not there.
        delay = random.uniform(1, 3) if arrives else random.uniform(4, 12)
        self.cluster.registry_fault(f"{name}/", "delay", seconds=delay)
        settings = require(from_options({"images": {"image": image}, "namespace": name}))
        plan = plan_of(settings)
        install(self.api, Installation(), plan, Choices(controller=False), Outcome(plan.sets), {})
        options = {"namespace": name, "wait": True, "wait_timeout": 120}
        task = {"kubecache.image_puller.image_puller_daemonset": options}
        shown: list[float] = []
        watcher = threading.Thread(target=self.watch, args=(name, arrives, shown), daemon=True)
        watcher.start()
        process = subprocess.Popen(
            self.play.command(task),
            env=self.play.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ended = 0.0
        for line in process.stdout or ():
            if line.startswith(("changed: ", "fatal: ", "[ERROR]")) and not ended:
                ended = time.monotonic()
        process.wait()
        watcher.join(timeout=30)
        self.api.delete("Namespace", name)
        if not ended or not shown:
            sys.exit(f"the wait in {name} did not end as it should")
        return ended - shown[0]

    def watch(self, namespace: str, arrives: bool, shown: list[float]) -> None:
        """Note when the API shows it."""
        question: Callable[[], bool] = (
            (lambda: self.is_there(namespace)) if arrives else (lambda: self.has_failed(namespace))
        )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if question():
                shown.append(time.monotonic())
                return
            time.sleep(0.02)

    def is_there(self, namespace: str) -> bool:
        """Whether the container of the image runs."""
        pods, _version = self.api.list("Pod", namespace)
        statuses = [status for pod in pods for status in (pod.get("status") or {}).get("containerStatuses") or ()]
        return bool(statuses) and all("running" in status["state"] for status in statuses)

    def has_failed(self, namespace: str) -> bool:
        """Whether the kubelet has said so."""
        events, _version = self.api.list("Event", namespace)
        return any(event["message"].startswith("Failed to pull image") for event in events)


if __name__ == "__main__":
    main()
