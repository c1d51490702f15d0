# SPDX-License-Identifier: GPL-3.0-or-later
"""The roll: a canary, then a few nodes at a time; nothing stalls it but what it would make worse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import is_current
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision, judged
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import Step, next_step
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from tests.unit import objects
from tests.unit.objects import JAVA, THEIA, node, pod, running, waiting

NOW = datetime.fromisoformat(objects.NOW.replace("Z", "+00:00"))
NEW = CachedImage("new", "registry.example.com/team/new:1")
OTHER = CachedImage("other", "registry.example.com/team/other:1")
ABSENT = "failed to resolve image: registry.example.com/team/new:1: not found"
NEW_IMAGES = (JAVA, THEIA, NEW)
Statuses = Sequence[Mapping[str, Any]]


def daemonset_of(images: Sequence[CachedImage]) -> dict[str, Any]:
    """The DaemonSet after the change to these images."""
    made = objects.served(objects.desired(images={i.name: i.image for i in images}))
    made["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = "2"
    made["status"] = {"observedGeneration": 1, "desiredNumberScheduled": 2}
    return made


DAEMONSET = daemonset_of(NEW_IMAGES)
MORE_IMAGES = (*NEW_IMAGES, OTHER)
MORE = daemonset_of(MORE_IMAGES)


def _at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def old(name: str, statuses: Statuses | None = None) -> dict[str, Any]:
    """A pod of the former list, which holds its two images."""
    held = [running("java11"), running("theia")]
    return pod(name, held if statuses is None else statuses, metadata={"labels": {"pod-template-generation": "1"}})


def new(
    name: str, statuses: Statuses = (), age: float = 10, daemonset: Mapping[str, Any] = DAEMONSET, **more: Any
) -> dict[str, Any]:
    """A pod of the new list."""
    data = {"labels": {"pod-template-generation": "2"}, "creationTimestamp": _at(-age)}
    return pod(name, statuses, daemonset=daemonset, metadata={**data, **more})


ALL = [running(image.name) for image in NEW_IMAGES]
NEW_FAILED = [running("java11"), running("theia"), waiting("new", "ErrImagePull", ABSENT)]


def _report(pods: Statuses, nodes: Statuses, now: datetime = NOW, images: Sequence[CachedImage] = NEW_IMAGES) -> Report:
    return assess(images, DAEMONSET if images == NEW_IMAGES else daemonset_of(images), pods, nodes, now=now)


def _step(
    pods: Statuses,
    nodes: Statuses | None = None,
    max_unavailable: str = "1",
    now: datetime = NOW,
    images: Sequence[CachedImage] = NEW_IMAGES,
) -> Step:
    there = [node(pod["spec"]["nodeName"]) for pod in pods] if nodes is None else nodes
    daemonset = DAEMONSET if images == NEW_IMAGES else daemonset_of(images)
    return next_step(daemonset, pods, _report(pods, there, now, images), max_unavailable, now)


def _going(step: Step) -> list[str]:
    return [ref.node for ref in step.delete]


def test_a_canary_goes_alone_however_many_may_go() -> None:
    step = _step([old("n1"), old("n2"), old("n3")], max_unavailable="100%")
    assert _going(step) == ["n1"]
    assert (step.old, step.updated, step.sentence) == (3, 0, "the change has reached 0 of 3 nodes")
    assert step.delete[0].uid == "uid-n1"


def test_the_canary_is_the_node_that_is_best_off() -> None:
    assert _going(_step([old("n1", [running("java11")]), old("n2")])) == ["n2"]


@pytest.mark.parametrize(
    ("max_unavailable", "going"), [("1", 1), ("2", 2), ("10%", 1), ("50%", 3), ("51%", 4), ("100%", 5), ("9", 5)]
)
def test_after_the_canary_as_many_go_as_may(max_unavailable: str, going: int) -> None:
    pods = [new("n0", ALL), *(old(f"n{number}") for number in range(1, 6))]
    assert len(_step(pods, max_unavailable=max_unavailable).delete) == going


@pytest.mark.parametrize(
    "in_flight",
    [
        new("n1"),
        new("n1", [running("java11"), running("theia"), waiting("new", "ContainerCreating")]),
        new("n1", ALL, deletionTimestamp=objects.NOW),
        None,
    ],
)
def test_nobody_goes_while_as_many_as_may_are_on_their_way(in_flight: dict[str, Any] | None) -> None:
    pods = [new("n0", ALL), *([in_flight] if in_flight else []), old("n2")]
    step = _step(pods, [node("n0"), node("n1"), node("n2")])
    assert (step.delete, step.in_flight) == ((), ("n1",))


def test_an_image_that_is_only_listed_by_its_node_is_not_held_yet() -> None:
    starting = new("n0", [waiting(image.name, "ContainerCreating") for image in NEW_IMAGES])
    nodes = [node("n0", images=[image.image for image in NEW_IMAGES]), node("n1")]
    assert _step([starting, old("n1")], nodes).in_flight == ("n0",)


def test_a_new_image_that_does_not_exist_keeps_no_other_new_one_from_any_node() -> None:
    pods = [new("n0", [*NEW_FAILED, running("other")], daemonset=MORE), old("n1"), old("n2")]
    assert _going(_step(pods, images=MORE_IMAGES)) == ["n1"]


def test_a_change_that_brings_only_what_does_not_exist_stays_on_the_first_node() -> None:
    pods = [new("n0", NEW_FAILED), old("n1"), old("n2")]
    step = _step(pods, max_unavailable="100%")
    assert (step.delete, step.waits) == ((), True)
    assert step.sentence == (
        "the roll waits, the change has reached 1 of 3 nodes: new (registry.example.com/team/new:1) can't be pulled on "
        f"n0: {ABSENT}. The other nodes keep their pods. It goes on by itself as soon as a new image arrives. "
        "Remedy: correct the tag or the repository, or push the image, or take the change back"
    )
    report = judged(_report(pods, [node("n0"), node("n1"), node("n2")]), Decision("none", step=step))
    assert (report.verdict, report.reasons[0]) == ("Degraded", step.sentence)


def test_it_goes_on_as_soon_as_a_new_image_arrives() -> None:
    assert _going(_step([new("n0", ALL), old("n1")])) == ["n1"]
    both_fail = [*NEW_FAILED, waiting("other", "ErrImagePull", "other:1: not found")]
    step = _step([new("n0", both_fail, daemonset=MORE), old("n1")], images=MORE_IMAGES)
    assert "new (registry.example.com/team/new:1) and 1 more new image can't be pulled on n0: " in step.sentence
    on_another = [new("n0", both_fail, daemonset=MORE), new("n1", [*NEW_FAILED, running("other")], daemonset=MORE)]
    assert _going(_step([*on_another, old("n2")], images=MORE_IMAGES)) == ["n2"]


def test_a_replaced_image_that_does_not_exist_stays_on_the_first_node() -> None:
    images = (JAVA, CachedImage("theia", "registry.example.com/team/theia:9"))
    lost = [running("java11"), waiting("theia", "ErrImagePull", "theia:9: not found")]
    step = _step([new("n0", lost, daemonset=daemonset_of(images)), old("n1")], images=images)
    assert (step.delete, step.waits) == ((), True)


def test_an_image_that_the_old_pods_lacked_on_some_nodes_only_is_new() -> None:
    """Changed again in the middle of a roll: some of the old pods have asked for it, the others never did."""
    before = new("n1", NEW_FAILED)
    before["metadata"]["labels"] = {"pod-template-generation": "1"}
    assert _step([new("n0", NEW_FAILED), before, old("n2")]).waits
    assert _going(_step([new("n0", NEW_FAILED), before])) == ["n1"], "it is not this change that brings it"


def test_what_does_not_apply_to_the_canary_may_to_others() -> None:
    foreign = [*NEW_FAILED[:2], waiting("new", "ErrImagePull", "no match for platform in manifest")]
    assert _going(_step([new("n0", foreign), old("n1")])) == ["n1"]


def test_a_node_that_does_not_count_tells_nothing_of_a_new_image() -> None:
    pods = [new("n0", NEW_FAILED), old("n1"), old("n2")]
    step = _step(pods, [node("n0", ready=False), node("n1"), node("n2")])
    assert (_going(step), step.waits) == (["n1"], False), "another canary"


def test_a_pull_that_may_still_succeed_is_waited_for_a_while() -> None:
    timeout = [*NEW_FAILED[:2], waiting("new", "ErrImagePull", "dial tcp 10.0.0.9:443: i/o timeout")]
    assert _step([new("n0", timeout, age=30), old("n1")]).delete == ()
    assert _going(_step([new("n0", timeout, age=70), old("n1")])) == ["n1"]
    assert _going(_step([new("n0", timeout, age=70), new("n1", timeout, age=5), old("n2")])) == ["n2"], "only once"
    other = [*NEW_FAILED[:2], waiting("new", "ErrImagePull", "429 Too Many Requests")]
    assert _step([new("n0", timeout, age=70), new("n1", other, age=5), old("n2")]).in_flight == ("n1",)


@pytest.mark.parametrize(
    "dead",
    [
        node("n0", ready=False),
        node("n0", deleted=True),
        node("n0", unschedulable=True),
        node("n0", taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]),
    ],
)
@pytest.mark.parametrize("its_pod", [None, old("n0"), new("n0", deletionTimestamp=objects.NOW)])
def test_a_node_that_does_not_count_neither_stalls_nor_is_touched(dead: Any, its_pod: Any) -> None:
    if "unschedulable" in dead["spec"] and its_pod is not None:
        return  # A cordoned node that has its pod counts.
    pods = [*([its_pod] if its_pod else []), new("n1", ALL), old("n2")]
    assert _going(_step(pods, [dead, node("n1"), node("n2")])) == ["n2"]


def test_a_pod_that_does_not_come_up_is_given_up_and_then_it_stops() -> None:
    pods = [
        new(
            "n0",
            [],
            age=800,
        ),
        old("n1"),
    ]
    assert _step(pods).in_flight == ("n0",)
    step = _step([new("n0", [], age=1000), old("n1")])
    assert step.delete == ()
    assert "is held by the old pods and not by the new one on n0" in step.stopped


def test_it_stops_when_an_image_that_was_held_is_so_no_more() -> None:
    lost = [waiting("java11", "ErrImagePull", "java11:2.1: not found"), *ALL[1:]]
    step = _step([new("n0", lost), old("n1"), old("n2")], max_unavailable="2")
    assert step.delete == ()
    assert step.sentence == (
        "the roll is stopped, the change has reached 1 of 3 nodes: java11 (registry.example.com/team/java11:2.1) is "
        "held by the old pods and not by the new one on n0 (java11:2.1: not found). The other nodes keep their pods. "
        "Remedy: take the change back, or mend what the message says"
    )
    report = judged(_report([new("n0", lost), old("n1")], [node("n0"), node("n1")]), Decision("none", step=step))
    assert (report.verdict, report.reasons[0]) == ("Degraded", step.sentence)


def test_one_node_among_many_that_is_worse_off_stops_nothing() -> None:
    lost = [waiting("java11", "ErrImagePull", "java11:2.1: not found"), *ALL[1:]]
    pods = [new("n00", lost), *(new(f"n{number:02}", ALL) for number in range(1, 11)), old("n99")]
    assert _going(_step(pods)) == ["n99"]


def test_a_change_that_moves_no_image_is_told_until_it_is_everywhere() -> None:
    pods, nodes = [new("n0", ALL), old("n1", ALL)], [node("n0"), node("n1")]
    pods[1]["spec"] = copy.deepcopy(pods[0]["spec"]) | {"nodeName": "n1"}
    pods[1]["metadata"]["annotations"] = {"kubecache.io/revision": "another"}
    report = _report(pods, nodes)
    assert report.verdict == "Healthy"
    step = next_step(DAEMONSET, pods, report, "1", NOW)
    told = judged(report, Decision("roll", step=step))
    assert (told.verdict, told.reasons) == ("Progressing", ("the change has reached 1 of 2 nodes",))


def test_the_last_node_of_a_roll_has_to_be_back_before_all_is_well() -> None:
    pods, nodes = [new("n0", ALL), new("n1", ALL, deletionTimestamp=objects.NOW)], [node("n0"), node("n1")]
    report = _report(pods, nodes)
    step = next_step(DAEMONSET, pods, report, "1", NOW)
    told = judged(report, Decision("none", step=step))
    assert (told.verdict, told.reasons) == ("Progressing", ("the pod on 1 node is being exchanged",))


def test_without_old_pods_there_is_no_roll() -> None:
    step = _step([new("n0"), new("n1", ALL)])
    assert (step.delete, step.sentence) == ((), "")


# --- which pods are old ----------------------------------------------------------------------------------------------


def test_a_template_that_was_changed_and_changed_back_makes_no_pod_old() -> None:
    it = pod(daemonset=DAEMONSET, metadata={"labels": {"pod-template-generation": "1"}})
    it["metadata"]["annotations"] = dict(DAEMONSET["spec"]["template"]["metadata"]["annotations"])
    assert is_current(DAEMONSET, it)
    it["spec"]["containers"][0]["image"] = "registry.example.com/other:1"
    assert not is_current(DAEMONSET, it)


def test_admission_may_rewrite_the_images_of_a_pod() -> None:
    it = new("n0", ALL)
    for container in it["spec"]["containers"]:
        container["image"] = container["image"].replace("registry.example.com", "mirror.example.com")
    report = _report([it], [node("n0")])
    assert {row.state for row in report.rows} == {"cached"}
    assert report.verdict == "Healthy"


# --- a whole roll ----------------------------------------------------------------------------------------------------


class Fleet:
    """Nodes whose pods are made again from the new list when they are deleted; ``slow`` seconds to come up.

    One of the two new images is ``absent`` from the registry, or both are.
    """

    def __init__(self, size: int, slow: Callable[[int], int], dead: set[int], absent: int = 1) -> None:
        self.now = NOW
        other = running("other") if absent == 1 else waiting("other", "ImagePullBackOff", "other:1: not found")
        self.statuses = [*NEW_FAILED, other]
        self.slow, self.dead = slow, {f"n{number:02}" for number in dead}
        self.nodes = [node(f"n{number:02}", ready=number not in dead) for number in range(size)]
        self.pods = {it["metadata"]["name"]: old(it["metadata"]["name"]) for it in self.nodes}

    def settle(self) -> None:
        """Let the kubelets work until now."""
        for name, it in self.pods.items():
            made = it["metadata"].get("creationTimestamp")
            if made and name not in self.dead:
                age = (self.now - datetime.fromisoformat(made.replace("Z", "+00:00"))).total_seconds()
                ready = age >= self.slow(int(name[1:]))
                it["status"]["containerStatuses"] = copy.deepcopy(self.statuses) if ready else []

    def step(self, max_unavailable: str) -> Step:
        """What a controller that knows nothing of what was before decides now."""
        self.settle()
        return _step(list(self.pods.values()), self.nodes, max_unavailable, self.now, MORE_IMAGES)

    def delete(self, step: Step) -> None:
        """The pods of the step are gone, and made again at once."""
        for ref in step.delete:
            made = new(ref.node, [], daemonset=MORE)
            made["metadata"]["creationTimestamp"] = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            self.pods[ref.node] = made


_fleets = (
    st.integers(1, 7),
    st.sampled_from(["1", "3", "10%", "30%", "100%"]),
    st.lists(st.integers(0, 8), min_size=7, max_size=7),
    st.sets(st.integers(0, 6), max_size=3),
)


@given(*_fleets)
def test_a_roll_reaches_every_node_and_never_takes_more_than_it_may(
    size: int, max_unavailable: str, slow: list[int], dead: set[int]
) -> None:
    fleet = Fleet(size, lambda number: slow[number], dead)
    alive = size - len({number for number in dead if number < size})
    may = int(max_unavailable) if max_unavailable[-1] != "%" else -(-alive * int(max_unavailable[:-1]) // 100)
    step = Step()
    for _ in range(size * 10 + 2):
        step = fleet.step(max_unavailable)
        assert not step.stopped
        assert len(step.in_flight) + len(step.delete) <= max(1, may)
        assert not {ref.node for ref in step.delete} & fleet.dead
        if not step.old and not step.in_flight:
            break
        fleet.delete(step)
        fleet.now += timedelta(seconds=1)
    assert (step.old, step.in_flight) == (0, ())


@given(*_fleets)
def test_what_does_not_exist_is_asked_for_on_one_node_until_it_does(
    size: int, max_unavailable: str, slow: list[int], dead: set[int]
) -> None:
    fleet = Fleet(size, lambda number: slow[number], dead, absent=2)
    alive, step = size - len({number for number in dead if number < size}), Step()
    for _ in range(20):
        step = fleet.step(max_unavailable)
        assert step.updated <= 1
        fleet.delete(step)
        fleet.now += timedelta(seconds=1)
    assert (step.old, step.waits) == (max(0, alive - 1), alive > 1)
    fleet.statuses[-1] = running("other")
    for _ in range(size * 10):
        fleet.delete(step := fleet.step(max_unavailable))
        fleet.now += timedelta(seconds=1)
    assert (step.old, step.in_flight) == (0, ())
