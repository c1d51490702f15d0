# SPDX-License-Identifier: GPL-3.0-or-later
"""A change on its way to the nodes: the controller dies in the middle, or what it brings does not exist."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from tests.cluster import Cluster

from ..conftest import CONFIG_MAP, DAEMONSET, eventually, stays
from ..test_controller import ask
from .conftest import JAVA, PATIENCE, THEIA, Cache, installed

SLOW, ABSENT = "registry.example.com/faults/slow:1", "registry.example.com/faults/theia:9"
MEGABYTES, PER_SECOND = 30, 1_500_000  # Its pull takes twenty seconds on a node.


def images_of(pod: dict[str, Any]) -> list[str]:
    return [container["image"] for container in pod["spec"]["containers"]]


def holds(pod: dict[str, Any], name: str) -> bool:
    """Whether the pod's container of this name runs."""
    statuses = pod["status"].get("containerStatuses", ())
    return any(status["name"] == name and "running" in status["state"] for status in statuses)


class Away(threading.Thread):
    """Looks all the time on how many nodes no pod of the cache holds the image that was there before."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(daemon=True)
        self.most = self.looks = 0
        self._cache, self._ended = cache, threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            there = {pod["spec"].get("nodeName") for pod in self._cache.pods() if holds(pod, "java11")}
            self.most = max(self.most, len(set(self._cache.cluster.nodes) - there))
            self.looks += 1
            time.sleep(0.1)

    def end(self) -> None:
        self._ended.set()
        self.join(60)


@pytest.mark.thorough
def test_killed_in_the_middle_of_a_roll(cluster: Cluster) -> None:
    with installed(cluster, max_unavailable="1") as cache:
        before = cache.held()
        cluster.push(SLOW, size_mb=MEGABYTES)
        cluster.registry_fault("faults/slow", "slow", bytes_per_second=PER_SECOND)
        away = Away(cache)
        away.start()
        try:
            images = f"java11={JAVA};theia={THEIA};slow={SLOW}"
            cache.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": images}})
            eventually(lambda: [SLOW in images_of(pod) for pod in cache.pods()].count(True) == 1, 30)
            cache.signal_controller(signal.SIGKILL, cache.controller())
            eventually(lambda: cache.restarts() == 1, 60)
            assert [SLOW in images_of(pod) for pod in cache.pods()].count(False) >= 1, "it was killed after the roll"
            eventually(lambda: all(cluster.node(node).has_image(SLOW) for node in cluster.nodes), 120)
            cache.healthy()
        finally:
            away.end()
            cluster.registry_clear()
        assert away.looks > 20
        assert away.most == 1
        after = cache.held()
        assert (after.daemonset, after.generation) == (before.daemonset, before.generation + 1)
        assert not after.pods & before.pods
        assert after.images >= before.images


@pytest.mark.thorough
def test_replacement_that_does_not_exist(cluster: Cluster) -> None:
    with installed(cluster) as cache:
        before = cache.held()
        cache.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={ABSENT}"}})
        said = f"the roll waits, the change has reached 1 of 2 nodes: theia ({ABSENT}) can't be pulled on "
        eventually(lambda: "".join(cache.info()["reasons"][:1]).startswith(said), 60)
        stays(cache.held, seconds=10)
        (canary,) = [pod for pod in cache.pods() if ABSENT in images_of(pod)]
        (other,) = [pod for pod in cache.pods() if ABSENT not in images_of(pod)]
        node = other["spec"]["nodeName"]
        assert other["metadata"]["uid"] in before.pods
        assert images_of(other) == [JAVA, THEIA]
        assert holds(other, "theia")
        assert cluster.node(node).has_image(THEIA)
        assert holds(canary, "java11"), "what can be had is held there"
        info = cache.info()
        assert info["verdict"] == "Degraded"
        assert (
            "The other nodes keep their pods. It goes on by itself as soon as a new image arrives" in info["reasons"][0]
        )
        events = cache.list("event", "--field-selector", "reason=RollStopped,involvedObject.kind=DaemonSet")
        assert [event["message"].startswith(said) for event in events] == [True]
        assert f'image_puller_roll_stopped{{image_set="{CONFIG_MAP}"}} 1.0' in ask(cluster, cache, "/metrics")

        cluster.push(ABSENT)
        # The kubelet's own pauses between two tries grow; nobody does anything but push the image.
        eventually(lambda: all(cluster.node(node).has_image(ABSENT) for node in cluster.nodes), 180, pause=1)
        cache.healthy(PATIENCE)
        assert [images_of(pod) for pod in cache.pods()] == [[JAVA, ABSENT]] * 2
        assert (cache.get("daemonset", DAEMONSET) or {})["metadata"]["uid"] == before.daemonset
        eventually(
            lambda: f'image_puller_roll_stopped{{image_set="{CONFIG_MAP}"}} 0.0' in ask(cluster, cache, "/metrics"), 30
        )
