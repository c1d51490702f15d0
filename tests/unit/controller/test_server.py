# SPDX-License-Identifier: GPL-3.0-or-later
"""What the probes are answered: 503 with the reason until the caches are filled, and once a loop hangs."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from controller.loop import Controller
from controller.operator import Operator
from controller.server import Process, serve
from tests.unit.controller.scripted import Hands, Server


class Ended(BaseException):
    """Ends the thread of a loop."""


class Hung:
    """A set whose work does not end until it is let go."""

    due = 0.0

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def run(self) -> bool:
        self.begun.set()
        assert self.go_on.wait(30)
        raise Ended


def nothing(*_asked: Any) -> dict[str, Any]:
    return {"items": [], "metadata": {"resourceVersion": "1"}}


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def controller(clock: Hands) -> Controller:
    return Controller(
        Cluster(Server(nothing)),
        namespace="a",
        deployment_name="puller",
        environment={"CONFIG_MAP_NAME": "c"},
        clock=clock,
    )


@pytest.fixture
def ask() -> Iterator[Callable[[Process, str], tuple[int, str]]]:
    """Ask a process for a path; status and text of the answer."""
    servers = []

    def asked(process: Process, path: str) -> tuple[int, str]:
        servers.append(serve(process, 0, "127.0.0.1"))
        address = f"http://127.0.0.1:{servers[-1].server_address[1]}{path}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield asked
    for server in servers:
        server.shutdown()
        server.server_close()


Ask = Callable[[Process, str], tuple[int, str]]


def hang(loop: Callable[[], object], hung: Hung) -> threading.Thread:
    """Begin the loop in a thread of its own, and wait until it hangs."""

    def run() -> None:
        with contextlib.suppress(Ended):
            loop()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert hung.begun.wait(30)
    return thread


def test_until_its_caches_are_filled_it_is_not_ready(controller: Controller, ask: Ask) -> None:
    status, text = ask(controller, "/readyz")
    assert (status, text) == (503, "not read yet: ConfigMaps, Nodes\n")
    assert ask(controller, "/healthz") == (200, "ok\n")


def test_until_each_set_was_looked_at_it_is_not_ready(controller: Controller, ask: Ask) -> None:
    for watch in controller._world.watches:
        watch._filled = True
    assert ask(controller, "/readyz") == (503, "not every set was looked at yet\n")
    controller._passed = True
    assert ask(controller, "/readyz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("which", "said"),
    [("keeps", "the loop that keeps the DaemonSets"), ("judges", "the loop that judges them")],
)
def test_a_loop_that_hangs_is_told_whichever_it_is(
    controller: Controller, clock: Hands, ask: Ask, which: str, said: str
) -> None:
    hung = Hung()
    idle = Hung()
    idle.due = float("inf")
    keeper, judge = cast("Any", (hung, idle) if which == "keeps" else (idle, hung))
    controller._sets = {"c": (keeper, judge)}
    controller._world.config_maps.denied = ApiError("")  # The set is the one that the environment names.
    loop = controller._keep if which == "keeps" else controller._judge
    thread = hang(loop, hung)
    try:
        clock.time += 120
        assert ask(controller, "/healthz") == (200, "ok\n")
        clock.time += 10
        controller._pulse.beat(
            "the loop that judges them" if which == "keeps" else "the loop that keeps the DaemonSets"
        )
        assert ask(controller, "/healthz") == (503, f"{said} has not moved for 130 s\n")
    finally:
        hung.go_on.set()
        thread.join(30)


def test_the_operators_loops_are_watched_too(clock: Hands, ask: Ask) -> None:
    operator = Operator(Cluster(Server(nothing)), [None], own_namespace="a", identity="x", clock=clock)
    assert ask(operator, "/readyz")[0] == 503
    assert ask(operator, "/healthz") == (200, "ok\n")
    clock.time += 121
    said = ("the loop", "the thread of the Lease")
    assert ask(operator, "/healthz") == (503, "; ".join(f"{which} has not moved for 121 s" for which in said) + "\n")


def test_the_metrics_are_there_and_nothing_else(controller: Controller, ask: Ask) -> None:
    status, text = ask(controller, "/metrics")
    assert status == 200
    assert "image_puller_loop_longest_delay_seconds" in text
    assert ask(controller, "/")[0] == 404
