# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks share: a cluster, its API, a question until it is answered, a process's own numbers, a line."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster as Api
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS, open_client
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import PORT
from tests.cluster import Cluster, of_this_checkout, open_cluster

MIB = 1024 * 1024
T = TypeVar("T")


@contextlib.contextmanager
def running(name: str, nodes: int, simulated: int) -> Iterator[Cluster]:
    """A cluster that is up, and down afterwards, also where the benchmark is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = open_cluster(
        of_this_checkout(name), nodes, simulated, report=lambda text: print(text, file=sys.stderr, flush=True)
    )
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def api_of(cluster: Cluster) -> Api:
    """The adapter that the modules use."""
    return Api(open_client(dict.fromkeys(CONNECTION_ARGUMENTS) | {"kubeconfig": str(cluster.kubeconfig)}))


def print_figure(what: str, figure: str, goal: str = "") -> None:
    """One line."""
    print(f"  {what:60} {figure}{f'  (goal: {goal})' if goal else ''}", flush=True)


def eventually(question: Callable[[], T | None], seconds: float = 300, pause: float = 0.2) -> T:
    """The first true answer; the end of the benchmark without one. An error is no answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = question()
        except Exception as error:  # What is asked for may not be served yet.
            answer, told = None, str(error)
        else:
            told = repr(answer)
        if answer:
            return answer
        if time.monotonic() > end:
            sys.exit(f"still {told} after {seconds:.0f} s")
        time.sleep(pause)


class Process:
    """The controller or the operator in its pod, by what it tells of itself."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._cluster = cluster
        self._url = f"http://{address}:{PORT}/metrics"

    def metrics(self) -> str:
        """All of it; empty while nothing answers."""
        return self._cluster.run(["curl", "-s", "--max-time", "20", self._url]).stdout

    def metric(self, name: str) -> float:
        """One number of that."""
        return float(eventually(lambda: re.findall(rf"^{name} (\S+)$", self.metrics(), re.MULTILINE))[0])

    def rss(self) -> float:
        """MiB of its memory."""
        return self.metric("process_resident_memory_bytes") / MIB
