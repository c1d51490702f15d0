# SPDX-License-Identifier: GPL-3.0-or-later
"""How long an installation waits for its images, with the clock under control."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.waiting import (
    SECOND_TRY,
    NotCached,
    wait_until_cached,
)

HEALTHY = Report("Healthy", ())
COMING = Report("Progressing", ("1 image is on its way",))


def failed(class_: str) -> Report:
    row = Row("node-1", "java11", "r.io/java11:1", "failed", class_=class_, message="no")
    return Report("Degraded", ("java11 failed",), rows=(row,), nodes=("node-1",))


def one_after_another(*reports: Report) -> Callable[[], Report]:
    """What is seen at each look; the last one for ever."""

    def looks() -> Iterator[Report]:
        yield from reports
        while True:
            yield reports[-1]

    return looks().__next__


class Clock:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def wait(clock: Clock, timeout: float = 100, min_nodes: int = 1, **sets: Callable[[], Report]) -> dict[str, Report]:
    observers = {name.replace("main", "").replace("_", " "): observe for name, observe in sets.items()}
    return wait_until_cached(observers, timeout=timeout, min_nodes=min_nodes, clock=clock, sleep=clock.sleep)


def test_it_ends_when_every_set_is_healthy() -> None:
    clock = Clock()
    found = wait(clock, main=one_after_another(HEALTHY), group_gpu=one_after_another(COMING, COMING, HEALTHY))
    assert {report.verdict for report in found.values()} == {"Healthy"}
    assert 0 < clock.now < 5


def test_what_only_a_person_can_mend_ends_it_at_once_and_is_told_with_the_set() -> None:
    clock = Clock()
    with pytest.raises(NotCached, match=r"^group gpu: java11 \(r.io/java11:1\) failed on 1 node") as ended:
        wait(clock, main=one_after_another(COMING), group_gpu=one_after_another(failed("not_found")))
    assert clock.now == 0
    assert ended.value.reports[""] == COMING


def test_a_failure_of_the_main_set_is_told_without_a_name() -> None:
    with pytest.raises(NotCached, match=r"^java11 "):
        wait(Clock(), main=one_after_another(failed("unauthorized")))


def test_an_unknown_host_ends_it_at_the_second_try() -> None:
    clock = Clock()
    with pytest.raises(NotCached, match="unknown_host"):
        wait(clock, main=one_after_another(failed("unknown_host")))
    assert SECOND_TRY <= clock.now < SECOND_TRY + 6


def test_an_unknown_host_that_is_known_again_begins_anew() -> None:
    unknown, clock = failed("unknown_host"), Clock()
    wait(clock, main=one_after_another(unknown, unknown, COMING, unknown, unknown, HEALTHY))


def test_what_may_pass_is_waited_for_until_the_time_is_over() -> None:
    clock = Clock()
    with pytest.raises(NotCached, match=r"^Not cached after 100 s: java11 failed$"):
        wait(clock, main=one_after_another(failed("network")))
    assert clock.now == 100


def test_at_the_end_only_the_sets_that_lack_something_are_told() -> None:
    with pytest.raises(NotCached, match=r"^Not cached after 9 s: group gpu: 1 image is on its way$"):
        wait(Clock(), 9, main=one_after_another(HEALTHY), group_gpu=one_after_another(COMING))


def test_no_node_fails_it_unless_none_is_needed() -> None:
    nowhere = Report("NoMatchingNodes", ("no node matches",))
    with pytest.raises(NotCached, match=r"^no node matches. Remedy: change node_selector"):
        wait(Clock(), main=one_after_another(nowhere))
    assert wait(Clock(), min_nodes=0, main=one_after_another(nowhere)) == {"": nowhere}
