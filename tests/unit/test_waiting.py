# SPDX-License-Identifier: GPL-3.0-or-later
"""How long an installation waits for its images, with the clock under control."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import Policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.waiting import (
    SECOND_TRY,
    WHOLE,
    NotCached,
    Slice,
    Waited,
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
    policy = Policy(min_nodes=min_nodes)
    return wait_until_cached(observers, timeout=timeout, policy=policy, clock=clock, sleep=clock.sleep).reports


STARTING = ("Deployment d is not available: its pod is still starting", False)


def wait_for_both(
    clock: Clock, looks: Iterator[tuple[str, bool]], observe: Callable[[], Report], slice_: Slice = WHOLE
) -> Waited:
    """A wait of a minute for images and controller."""
    controller = looks.__next__
    return wait_until_cached(
        {"": observe}, timeout=60, slice_=slice_, controller=controller, clock=clock, sleep=clock.sleep
    )


def test_the_controller_is_waited_for_with_the_images_until_both_are_there() -> None:
    clock, healthy = Clock(), one_after_another(HEALTHY)
    looks = itertools.chain([STARTING] * 3, itertools.repeat(("", False)))
    assert wait_for_both(clock, looks, healthy).reports == {"": HEALTHY}
    assert 1 < clock.now < 5
    late = wait_for_both(Clock(), itertools.repeat(STARTING), healthy, Slice(5))
    assert late.progress == STARTING[0]
    with pytest.raises(NotCached, match=f"^Not cached after 60 s: {STARTING[0]}") as caught:
        wait_for_both(Clock(), itertools.repeat(STARTING), healthy)
    assert caught.value.timed_out
    with pytest.raises(NotCached, match=r"^Not cached after 60 s: 1 image is on its way\..* its pod is still starting"):
        wait_for_both(Clock(), itertools.repeat(STARTING), one_after_another(COMING))


def test_a_controller_that_can_not_run_ends_the_wait() -> None:
    clock = Clock()
    with pytest.raises(NotCached, match=r"^its image can't be pulled$") as caught:
        wait_for_both(clock, itertools.repeat(("its image can't be pulled", True)), one_after_another(COMING))
    assert (clock.now, caught.value.timed_out) == (0, False)


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
    with pytest.raises(NotCached, match=r"^Not cached after 100 s: java11 failed\. Remedy: raise wait_timeout"):
        wait(clock, main=one_after_another(failed("network")))
    assert clock.now == 100


def test_at_the_end_only_the_sets_that_lack_something_are_told() -> None:
    with pytest.raises(NotCached, match=r"^Not cached after 9 s: group gpu: 1 image is on its way\. Remedy: [^:]*$"):
        wait(Clock(), 9, main=one_after_another(HEALTHY), group_gpu=one_after_another(COMING))


def test_no_node_fails_it_unless_none_is_needed() -> None:
    nowhere = Report("NoMatchingNodes", ("no node matches",))
    with pytest.raises(NotCached, match=r"^no node matches. Remedy: change node_selector"):
        wait(Clock(), main=one_after_another(nowhere))
    assert wait(Clock(), min_nodes=0, main=one_after_another(nowhere)) == {"": nowhere}


def test_it_looks_again_soon_after_anything_has_moved_and_never_long_after() -> None:
    clock, seen = Clock(), []

    def look() -> Report:
        seen.append(clock.now)
        return COMING

    with pytest.raises(NotCached):
        wait(clock, 60, main=look)
    pauses = [after - before for before, after in itertools.pairwise(seen)]
    assert max(pauses) <= 1.01
    assert len(seen) < 70


def test_looking_at_a_large_cluster_takes_a_fifth_of_the_time() -> None:
    clock, looks = Clock(), []

    def look() -> Report:
        looks.append(clock.now)
        clock.now += 1
        return COMING

    with pytest.raises(NotCached):
        wait(clock, 100, main=look)
    assert 19 <= len(looks) <= 21


def in_slices(clock: Clock, observe: Callable[[], Report], timeout: float, lines: list[str]) -> None:
    """Wait as the action plugin does: each slice is told what the one before returned, as JSON."""
    slice_: Slice | None = Slice(5.0)
    while slice_:
        waited = wait_until_cached({"": observe}, timeout=timeout, slice_=slice_, clock=clock, sleep=clock.sleep)
        slice_ = waited.slice_ and Slice(**json.loads(json.dumps(dataclasses.asdict(waited.slice_))))
        lines.append(waited.progress)


def test_slices_of_a_wait_go_on_where_the_one_before_ended() -> None:
    clock, lines = Clock(), list[str]()
    with pytest.raises(NotCached, match="unknown_host"):
        in_slices(clock, one_after_another(failed("unknown_host")), 100, lines)
    assert lines == ["0 of 1 cached on 1 node; failing java11 (unknown_host)"] * 2
    assert SECOND_TRY <= clock.now < SECOND_TRY + 2


def test_all_slices_together_take_no_longer_than_the_whole_wait() -> None:
    clock = Clock()
    with pytest.raises(NotCached, match=r"^Not cached after 12 s") as ended:
        in_slices(clock, one_after_another(COMING), 12, [])
    assert ended.value.timed_out
    assert clock.now == 12


def test_the_last_slice_ends_when_everything_is_there() -> None:
    clock, lines = Clock(), list[str]()
    in_slices(clock, one_after_another(*[COMING] * 8, HEALTHY), 100, lines)
    assert len(lines) == 2
    assert lines[-1] == ""


def test_a_host_that_the_kubelet_has_not_found_twice_ends_it_at_the_first_look() -> None:
    row = Row("node-1", "java11", "r.io/java11:1", "failed", class_="unknown_host", message="no", tries=2)
    clock = Clock()
    with pytest.raises(NotCached, match="unknown_host"):
        wait(clock, main=one_after_another(Report("Degraded", ("failed",), rows=(row,), nodes=("node-1",))))
    assert clock.now == 0


AWAY = ApiError("could not list Pods: the API server does not answer (Connection refused)")


class Away:
    """A look at a set whose API server does not answer for some seconds."""

    def __init__(self, clock: Clock, since: float, until: float, error: ApiError = AWAY) -> None:
        self.clock, self.since, self.until, self.error = clock, since, until, error

    def __call__(self) -> Report:
        if self.since <= self.clock.now < self.until:
            raise self.error
        return HEALTHY if self.clock.now >= self.until else COMING


@pytest.mark.parametrize("since", [0, 3])
@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_an_api_server_that_starts_anew_ends_no_wait(since: float, status: int) -> None:
    clock = Clock()
    assert wait(clock, main=Away(clock, since, 30, ApiError("could not list Pods", status))) == {"": HEALTHY}
    assert 30 <= clock.now < 32


def test_an_api_server_that_stays_away_is_told_at_the_end() -> None:
    clock = Clock()
    with pytest.raises(ApiError, match="does not answer"):
        wait(clock, main=Away(clock, 3, 1000))
    assert clock.now == 100


def test_what_the_api_server_refuses_ends_a_wait_at_once() -> None:
    clock = Clock()
    with pytest.raises(ApiError, match="forbidden"):
        wait(clock, main=Away(clock, 0, 1000, ApiError("forbidden", 403)))
    assert clock.now == 0


@pytest.mark.parametrize("since", [0, 3])
def test_slices_go_on_while_the_api_server_is_away_with_what_was_seen_last(since: float) -> None:
    clock, lines = Clock(), list[str]()
    in_slices(clock, Away(clock, since, 18), 100, lines)
    assert 18 <= clock.now < 20
    assert lines[-1] == ""
    if since:
        assert lines[0].endswith(f"; {AWAY}")


def test_a_controller_that_can_not_be_looked_at_is_waited_for() -> None:
    clock = Clock()

    def controller() -> tuple[str, bool]:
        if clock.now < 9:
            raise AWAY
        return "", False

    sets = {"": one_after_another(HEALTHY)}
    wait_until_cached(sets, timeout=60, controller=controller, clock=clock, sleep=clock.sleep)
    assert 9 <= clock.now < 11
