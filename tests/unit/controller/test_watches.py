# SPDX-License-Identifier: GPL-3.0-or-later
"""The caches where a right is missing, and where what is to be looked at changes while a watch goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.clock import Clock
from controller.watches import Watch

FORBIDDEN = 'daemonsets.apps is forbidden: User "x" cannot {} resource "daemonsets" in API group "apps"'


class Ended(BaseException):
    """Ends a watch's thread."""


class Scripted(Cluster):
    """A cluster that has these objects by label selector, and lets nobody watch, or only without an end."""

    def __init__(self, objects: dict[str, list[str]], forbidden: str = "") -> None:
        self.objects = objects
        self.forbidden = forbidden
        self.listed: list[str] = []

    def pages(self, kind: str, namespace: str | None = None, *, labels: str = "", **_: Any) -> Iterator[Any]:
        self.listed.append(labels)
        if self.forbidden == "list":
            raise ApiError(FORBIDDEN.format("list"), 403, "Forbidden", verb="list")
        yield [{"metadata": {"name": name}} for name in self.objects[labels]], "1"

    def watch(self, kind: str, namespace: str | None, version: str, **_: Any) -> Iterator[tuple[str, Object]]:
        if self.forbidden == "watch":
            raise ApiError(FORBIDDEN.format("watch"), 403, "Forbidden", verb="watch")
        yield "BOOKMARK", {"metadata": {"resourceVersion": "2"}}
        raise Ended


class Sleeper(Clock):
    """A clock that tells for how long somebody slept, and ends him after so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.slept: list[float] = []
        self.times = times

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self.times:
            raise Ended


def watch(cluster: Cluster, clock: Clock, told: list[ApiError], **more: Any) -> Watch:
    return Watch(
        cluster,
        "DaemonSet",
        "puller",
        slim=dict,
        changed=lambda before, after: None,
        failed=told.append,
        clock=clock,
        **more,
    )


def run(made: Watch) -> None:
    """Its thread, here, to the end of the script."""
    with pytest.raises(Ended):
        made._run()


def test_where_only_watching_is_forbidden_it_polls() -> None:
    cluster, clock, told = Scripted({"": ["a"]}, forbidden="watch"), Sleeper(3), list[ApiError]()
    made = watch(cluster, clock, told)
    run(made)
    assert cluster.listed == ["", "", ""]
    assert all(54 <= seconds <= 66 for seconds in clock.slept)
    assert made.complete
    assert [error.verb for error in told] == ["watch"] * 3


def test_where_listing_is_forbidden_nothing_is_known_and_it_asks_again_ever_later() -> None:
    cluster, clock = Scripted({}, forbidden="list"), Sleeper(4)
    made = watch(cluster, clock, [])
    made._failures = 6  # An API server that did not answer.
    run(made)
    assert clock.slept[0] < 20
    assert made.known
    assert not made.complete
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] > 4 * clock.slept[0] / 1.6


def test_what_is_looked_at_from_now_on_is_there_at_once_and_the_watch_follows() -> None:
    """As when a DaemonSet is adopted whose pods lack our label."""
    labels = ["ours"]
    cluster = Scripted({"ours": ["a"], "": ["a", "adopted"]})
    made = watch(cluster, Clock(), [], labels=lambda: labels[0])
    run(made)
    labels[0] = ""
    other = threading.Thread(target=made.look_again)
    other.start()
    other.join()
    assert sorted(obj["metadata"]["name"] for obj in made.all()) == ["a", "adopted"]
    made.look_again()
    assert cluster.listed == ["ours", ""]
