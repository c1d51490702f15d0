# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation that must survive: what it holds, so that a test can say that nothing of it was lost."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster import Cluster

from ..conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Kubectl,
    Module,
    container_of,
    eventually,
    installer_of,
    modules_of,
    new_namespace,
)

JAVA = "registry.example.com/faults/java11:2.1"
THEIA = "registry.example.com/faults/theia:2.1"
IMAGES = {"java11": JAVA, "theia": THEIA}
# The longest pause of the controller between two tries is a minute.
PATIENCE = 90


@dataclass(frozen=True)
class Held:
    """What a fault may not take away: the DaemonSet's uid and generation, its pods, and the images on the nodes."""

    daemonset: str
    generation: int
    pods: frozenset[str]
    images: frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class Cache(Kubectl):
    """An installation with its controller, in a namespace of its own."""

    @functools.cached_property
    def module(self) -> Module:
        """The collection's modules for this installation."""
        return modules_of(self.cluster, self.namespace)

    def held(self) -> Held:
        """What is there now."""
        metadata = self.daemonset()["metadata"]
        pods = frozenset(pod["metadata"]["uid"] for pod in self.pods())
        return Held(metadata["uid"], metadata["generation"], pods, self.on_nodes())

    def pods(self, node: str = "") -> list[dict[str, Any]]:
        """The pods of the cache that do not end; on one node, or all."""
        where = [f"--field-selector=spec.nodeName={node}"] if node else []
        found = self.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}", *where)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def on_nodes(self) -> frozenset[tuple[str, str, str]]:
        """Node, image and digest of all that the nodes' own runtimes hold of our images."""
        return frozenset(
            (node, reference, digest)
            for node in self.cluster.nodes
            for reference, digest in self.cluster.node(node).images().items()
            if reference.startswith("registry.example.com/faults/")
        )

    def images(self) -> list[str]:
        """The images that the DaemonSet names."""
        return [container["image"] for container in self.daemonset()["spec"]["template"]["spec"]["containers"]]

    def controller(self) -> dict[str, Any]:
        """The pod of the controller, which may just have been replaced."""
        eventually(lambda: len(self.controllers()) == 1)
        return self.controllers()[0]

    def controllers(self) -> list[dict[str, Any]]:
        """All pods of the controller that do not end."""
        found = self.list("pod", "-l", "app.kubernetes.io/component=controller")
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def restarts(self) -> int:
        """How often the controller's process was started again."""
        return sum(container["restartCount"] for container in self.controller()["status"]["containerStatuses"])

    def log(self) -> str:
        """What the controller says."""
        name = self.controller()["metadata"]["name"]
        return self.cluster.kubectl("logs", "-n", self.namespace, name, check=False)

    def signal_controller(self, number: signal.Signals, pod: dict[str, Any]) -> None:
        """Send the process of the controller's pod a signal."""
        self.cluster.node(pod["spec"]["nodeName"]).kill(container_of(pod), number.name)

    def scale(self, replicas: int) -> None:
        """Have so many controllers, ready."""
        deployment = f"deployment/{DEPLOYMENT}"
        self.cluster.kubectl("scale", deployment, f"--replicas={replicas}", "-n", self.namespace)
        eventually(
            lambda: (
                [pod["status"].get("containerStatuses", [{}])[0].get("ready") for pod in self.controllers()]
                == [True] * replicas
            ),
            seconds=60,
        )
        if not replicas:  # One that ends may still do what it was about to do.
            eventually(lambda: not self.list("pod", "-l", "app.kubernetes.io/component=controller"), seconds=60)

    def wish(self) -> Callable[[], bool]:
        """Wish for something that restarts no pod; the answer tells whether the controller has done it."""
        word = uuid.uuid4().hex
        self.patch("configmap", CONFIG_MAP, {"data": {"DAEMONSET_ANNOTATIONS": json.dumps({"example.com/wish": word})}})
        return lambda: self.daemonset()["metadata"].get("annotations", {}).get("example.com/wish") == word

    def obeys(self, seconds: float = PATIENCE) -> None:
        """Assert that the controller does its work."""
        eventually(self.wish(), seconds)

    def info(self) -> dict[str, Any]:
        """What image_puller_info tells."""
        return self.module("info")

    def healthy(self, seconds: float = 60) -> dict[str, Any]:
        """Wait until the verdict is Healthy; what image_puller_info told."""
        told: dict[str, Any] = {}

        def is_healthy() -> bool:
            told.update(self.info())
            return bool(told["verdict"] == "Healthy")

        try:
            eventually(is_healthy, seconds, pause=1)
        except AssertionError as error:
            raise AssertionError(f"not Healthy after {seconds} s: {told['verdict']}: {told['reasons']}") from error
        return told


@contextlib.contextmanager
def installed(
    cluster: Cluster, images: dict[str, str] | None = None, *, size_mb: float = 0, **options: Any
) -> Iterator[Cache]:
    """An installation whose images are cached and whose controller is ready."""
    images = images or IMAGES
    for reference in images.values():
        cluster.push(reference, size_mb=size_mb)
    with new_namespace(cluster) as namespace:
        cache = Cache(cluster, namespace)
        installer_of(cache.module)(images, **options)
        cache.healthy()
        yield cache


@pytest.fixture(scope="module")
def cache(cluster: Cluster) -> Iterator[Cache]:
    """An installation for the faults of a file; each leaves it as it was."""
    with installed(cluster) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults are made on the embedded cluster alone."""
    embedded = os.geteuid() == 0 and os.environ.get("IMAGE_PULLER_TEST_CLUSTER", "embedded") == "embedded"
    for item in items:
        if not embedded and "faults" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="makes faults of the embedded cluster with real nodes, as root"))
