# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision about a DaemonSet: the least that helps, with its reasons, and never about somebody else's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import BUILDER_NUMBER, build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import (
    Decision,
    Observed,
    decide,
    is_adoptable,
    judged,
    made_from,
    unreadable,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_options, require
from tests.unit import objects
from tests.unit.objects import JAVA, THEIA, node, pod, running

WANTED = objects.desired()
NAME = "DaemonSet k8s-image-puller/kubernetes-image-puller"
NOW = datetime.fromisoformat(objects.NOW.replace("Z", "+00:00"))


def _ago(**time: float) -> str:
    return (NOW - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decide(live: Mapping[str, Any] | None, wanted: Mapping[str, Any] = WANTED, **more: Any) -> Decision:
    pods, nodes = more.pop("pods", ()), more.pop("nodes", [node()])
    complete = more.pop("complete", True)
    report = assess((JAVA, THEIA), live, pods, nodes, now=NOW)
    return decide(wanted, Observed(live, pods, report, complete), now=NOW, **more)


def _live(**metadata: Any) -> dict[str, Any]:
    live = objects.served(WANTED)
    live["metadata"] |= metadata
    return live


def _built_by(number: object) -> dict[str, Any]:
    live = _live()
    live["spec"]["template"]["metadata"]["annotations"]["kubecache.io/builder"] = str(number)
    return live


def _known() -> dict[str, Any]:
    """The DaemonSet that the known implementation makes: no label of its own, a selector of its own."""
    labels = {"test": "daemonset-test"}
    return {
        "kind": "DaemonSet",
        "metadata": {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
        },
    }


def _of_somebody_else() -> dict[str, Any]:
    return {**_known(), "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"spec": {"containers": []}}}}


@pytest.mark.parametrize(
    ("live", "recreate", "action"),
    [
        (None, "unhealthy", "create"),
        (None, "never", "create"),
        (None, "always", "create"),
        (_live(), "unhealthy", "none"),
        (_live(), "never", "none"),
        (_live(), "always", "recreate"),
        (_live(labels={"app.kubernetes.io/managed-by": "kubecache.image_puller"}), "unhealthy", "patch"),
        (_live(labels={"app.kubernetes.io/managed-by": "kubecache.image_puller"}), "never", "patch"),
        (_live(deletionTimestamp=objects.NOW), "unhealthy", "wait"),
        (_live(deletionTimestamp=objects.NOW), "always", "wait"),
        (_live(deletionTimestamp=objects.NOW), "never", "none"),
        (_built_by(BUILDER_NUMBER + 1), "unhealthy", "none"),
        (_built_by(BUILDER_NUMBER + 1), "always", "none"),
        (_built_by(0), "unhealthy", "patch"),
        (_built_by("x"), "unhealthy", "patch"),
        (_known(), "unhealthy", "patch"),
        (_known(), "always", "recreate"),
        (_of_somebody_else(), "unhealthy", "refuse"),
        (_of_somebody_else(), "always", "refuse"),
    ],
)
def test_the_decision_is_the_least_that_helps(live: Any, recreate: str, action: str) -> None:
    decision = _decide(live, recreate=recreate)
    assert decision.action == action
    assert decision.reasons or action == "none"


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (None, f"{NAME} does not exist"),
        (_live(deletionTimestamp=objects.NOW), f"{NAME} is being deleted"),
        (
            _of_somebody_else(),
            f"{NAME} was not made by the Image Puller and is left alone. "
            "Remedy: choose another daemonset_name, or delete it if nobody needs it",
        ),
        (
            _built_by(BUILDER_NUMBER + 1),
            f"{NAME} was built by a newer version (builder {BUILDER_NUMBER + 1}; this one is {BUILDER_NUMBER}) "
            "and is kept. Remedy: update this collection or controller",
        ),
        (
            _built_by(0),
            f"{NAME} differs in spec.template.metadata.annotations.kubecache.io/builder",
        ),
    ],
)
def test_a_decision_says_why(live: Any, reason: str) -> None:
    assert _decide(live).reasons == (reason,)


def test_a_live_status_or_foreign_label_is_no_reason_to_act() -> None:
    live = _live()
    live["metadata"]["labels"]["foreign"] = "1"
    live["status"] = {"numberReady": 0, "desiredNumberScheduled": 9, "numberUnavailable": 9}
    assert (_decide(live).action, _decide(live).reasons) == ("none", ())


@given(objects.good_options, st.sampled_from(["unhealthy", "never"]))
def test_what_was_just_applied_needs_nothing(options: dict[str, Any], recreate: str) -> None:
    (wanted,) = build_daemonsets(require(from_options(options)))
    decision = _decide(objects.served(wanted), wanted, recreate=recreate)
    assert (decision.action, decision.reasons) == ("none", ())


def test_ours_and_the_known_ones_are_adoptable_and_no_others() -> None:
    assert is_adoptable(_live())
    assert is_adoptable(_known())
    newer = _known()
    newer["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "image-puller"
    assert is_adoptable(newer)
    newer["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "another"
    assert not is_adoptable(newer)
    assert not is_adoptable(_of_somebody_else())
    assert not is_adoptable({"metadata": {}, "spec": {"selector": {}}})


# --- without the right to patch ---------------------------------------------------------------------------------------


@given(objects.good_options, objects.good_options)
def test_without_patch_a_daemonset_is_recreated_when_and_only_when_something_else_is_wanted(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    before, after = objects.desired(**one), objects.desired(**other)
    template = _revision(before) == _revision(after)
    annotations = before["metadata"].get("annotations") == after["metadata"].get("annotations")
    live = {**_known(), **objects.served(made_from(before))}
    decision = _decide(live, after, may_patch=False)
    assert (decision.action == "recreate") == (not (template and annotations))


def _revision(daemonset: Mapping[str, Any]) -> str:
    return str(daemonset["spec"]["template"]["metadata"]["annotations"]["kubecache.io/revision"])


def test_without_patch_drift_is_told_and_stays() -> None:
    live = objects.served(made_from(WANTED))
    del live["metadata"]["managedFields"]  # It was made by POST, not applied.
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example.com/other:1"
    decision = _decide(live, may_patch=False)
    path = "spec.template.spec.containers[java11].image"
    assert (decision.action, decision.reasons) == (
        "none",
        (f"{NAME} differs in {path}, may not be patched, and stays",),
    )


def test_without_patch_what_was_made_by_who_may_patch_is_told_by_its_template() -> None:
    assert _decide(_live(), may_patch=False).action == "none"
    assert _decide(_known(), may_patch=False).action == "recreate"
    assert _decide(_live(), objects.desired(images="a=b/c:1"), may_patch=False).action == "recreate"


@pytest.mark.parametrize(
    "tampered",
    [
        lambda told: "x",
        lambda told: told[:-1],
        lambda told: told.upper(),
        lambda told: told.replace(told[3], "0" if told[3] != "0" else "1", 1),
        lambda told: f".{told.rpartition('.')[2]}",
        lambda told: "{" * 100_000,
    ],
)
def test_what_it_was_made_from_is_believed_only_if_its_seal_is_whole(tampered: Callable[[str], str]) -> None:
    """Else a slip of somebody's hand would cost the DaemonSet, where it can't be patched."""
    live = objects.served(made_from(WANTED))
    annotations = live["metadata"]["annotations"]
    told = annotations["kubecache.io/made-from"]
    annotations["kubecache.io/made-from"] = tampered(told)
    assert _decide(live, may_patch=False).action == "none"
    assert _decide(live, objects.desired(images="a=b/c:1"), may_patch=False).action == "recreate"
    said = unreadable(live)
    assert said.startswith(f"annotations of {NAME} can't be read and are ignored: kubecache.io/made-from (")
    assert len(said) < 300


def test_annotations_that_can_be_ours_are_read() -> None:
    assert unreadable(objects.served(made_from(WANTED))) == unreadable(_live()) == unreadable(_known()) == ""


@pytest.mark.parametrize("text", ["x", "-1", "1.0", " 1", "\u0663", "9" * 5000, "1234567"])
def test_a_builder_that_is_no_number_is_warned_of_and_written_anew(text: str) -> None:
    live = _built_by(text)
    assert unreadable(live) == (
        f"annotations of {NAME} can't be read and are ignored: kubecache.io/builder ({text[:80]})"
    )
    assert _decide(live).action == "patch"


def test_without_patch_a_fight_is_no_loop() -> None:
    first = _decide(_known(), may_patch=False)
    assert first.guard
    again = _decide(_known(), may_patch=False, guard=first.guard)
    assert (again.action, again.again) == ("none", 60.0)
    assert "recreating is paused until" in again.paused


# --- what is in the way of a deletion --------------------------------------------------------------------------------


def _deleted(finalizers: list[str], **ago: float) -> dict[str, Any]:
    return _live(deletionTimestamp=_ago(**ago), finalizers=finalizers)


def test_a_deletion_is_waited_for_and_then_finished_by_a_second_one() -> None:
    assert _decide(_deleted(["foregroundDeletion"], seconds=10)).action == "wait"
    assert _decide(_deleted(["foregroundDeletion"], seconds=10)).again == 0.5
    decision = _decide(_deleted(["foregroundDeletion"], seconds=40))
    assert decision.action == "finish_deletion"
    assert decision.reasons == (
        f"{NAME} has been in deletion for 40 s: its deletion is finished without waiting for its pods",
    )
    assert decision.guard is not None
    assert decision.guard.recreate.count == 1


def test_a_foreign_finalizer_is_named_and_left_to_its_owner() -> None:
    decision = _decide(_deleted(["example.com/backup", "foregroundDeletion"], minutes=10))
    assert decision.action == "none"
    assert decision.reasons == (
        f"{NAME} has been in deletion for 600 s and is kept there by the finalizer example.com/backup. "
        "Remedy: look at the controller that should take it off",
    )


# --- pods that do not go ---------------------------------------------------------------------------------------------


def _ending(grace: int, **ago: float) -> dict[str, Any]:
    return pod(metadata={"deletionTimestamp": _ago(**ago), "deletionGracePeriodSeconds": grace})


def test_a_pod_that_does_not_end_is_ended_by_force_and_only_on_a_node_that_is_ready() -> None:
    assert _decide(_live(), pods=[_ending(1, seconds=200)]).action == "none"
    decision = _decide(_live(), pods=[_ending(1, seconds=400)])
    assert (decision.action, [ref.uid for ref in decision.pods]) == ("delete_pods", ["uid-node-1"])
    assert decision.reasons == ("the pod on node-1 has been ending for 5 min",)
    assert _decide(_live(), pods=[_ending(1, seconds=400)], nodes=[node(ready=False)]).action == "none"
    assert _decide(_live(), pods=[_ending(1, seconds=400)], nodes=None).action == "none"


def test_the_daemonset_is_made_anew_when_not_even_force_moves_a_pod() -> None:
    decision = _decide(_live(), pods=[_ending(0, seconds=400)])
    assert decision.action == "recreate"
    assert decision.guard is not None
    assert _decide(_live(), pods=[_ending(0, seconds=400)], recreate="never").action == "none"


# --- the guard -------------------------------------------------------------------------------------------------------


def test_recreating_pauses_and_says_until_when_and_why() -> None:
    once = Guard().after("recreate", NOW - timedelta(seconds=20))
    decision = _decide(_live(), recreate="always", guard=once)
    assert decision.action == "none"
    paused = (
        "recreating is paused until 2026-11-20T12:00:40Z, because it was recreated once, last at 2026-11-20T11:59:40Z"
    )
    assert decision.reasons == ("asked for by recreate=always", paused)
    assert (decision.paused, decision.again) == (paused, 40.0)
    report = assess((JAVA, THEIA), _live(), [], [node()], now=NOW)
    assert judged(report, decision).verdict == "Degraded"
    assert paused in judged(report, decision).reasons


def test_a_patch_that_is_undone_again_and_again_is_no_fight_without_an_end() -> None:
    guard, moment, actions, decision = Guard(), NOW - timedelta(seconds=10), list[str](), Decision("none")
    for _ in range(8):
        decision = decide(WANTED, Observed(_built_by(0), (), assess((), None, [], None)), now=moment, guard=guard)
        actions.append(decision.action)
        guard = decision.guard or guard
        moment += timedelta(seconds=1)
    assert actions == ["patch"] * 6 + ["none"] * 2
    assert "somebody undoes it" in decision.paused
    for wish in ({"caching_memory_limit": "30Mi"}, {"daemonset_annotations": {"a": "b"}}):
        other = objects.desired(**wish)
        assert _decide(_built_by(0), other, guard=guard).action == "patch", "another wish is another matter"


def test_nothing_is_deleted_when_not_all_could_be_read() -> None:
    assert _decide(None, complete=False).action == "none"
    assert _decide(_live(), complete=False, recreate="always").action == "none"
    assert _decide(_live(), complete=False, pods=[_ending(1, seconds=400)]).action == "none"
    assert _decide(_live(), complete=False, pods=[_ending(0, seconds=400)]).action == "none"


# --- any state of a model cluster ------------------------------------------------------------------------------------

_ages = st.integers(0, 2000)
_states = st.fixed_dictionaries(
    {
        "live": st.sampled_from(["absent", "same", "drifted", "foreign", "newer"]),
        "deleted": st.none() | _ages,
        "finalizers": st.lists(st.sampled_from(["foregroundDeletion", "orphan", "example.com/x"]), max_size=2),
        "pods": st.lists(st.sampled_from(["current", "old", "none", "ending", "forced"]), min_size=1, max_size=4),
        "complete": st.booleans(),
        "recreate": st.sampled_from(["unhealthy", "always", "never"]),
    }
)


class Model:
    """A cluster of one DaemonSet, which does what a real one does after each action."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.now = NOW
        self.complete: bool = state["complete"]
        self.live = self._made(state)
        made = [self._pod(f"n{number}", kind) for number, kind in enumerate(state["pods"])]
        self.pods = [pod for pod in made if pod and self.live]
        self.nodes = [node(f"n{number}") for number in range(len(state["pods"]))]
        self.guard = Guard()
        self.recreated: list[datetime] = []

    @staticmethod
    def _made(state: Mapping[str, Any]) -> dict[str, Any] | None:
        kinds = {"same": _live, "drifted": lambda: _built_by(0), "foreign": _of_somebody_else}
        if state["live"] == "absent":
            return None
        live: dict[str, Any] = kinds.get(state["live"], lambda: _built_by(BUILDER_NUMBER + 1))()
        live["spec"].setdefault("updateStrategy", {})["type"] = "OnDelete"
        if state["deleted"] is not None:
            live["metadata"] |= {"deletionTimestamp": _ago(seconds=state["deleted"]), "finalizers": state["finalizers"]}
        return live

    @staticmethod
    def _pod(name: str, kind: str) -> dict[str, Any] | None:
        if kind == "none":
            return None
        labels = {"pod-template-generation": "0" if kind == "old" else "1"}
        made = pod(name, [running("java11"), running("theia")], metadata={"labels": labels})
        if kind == "old":
            made["spec"]["containers"] = made["spec"]["containers"][:1]
        if kind in ("ending", "forced"):
            made["metadata"] |= {
                "deletionTimestamp": _ago(seconds=1000),
                "deletionGracePeriodSeconds": int(kind == "ending"),
            }
        return made

    def decide(self, recreate: str) -> Decision:
        report = assess((JAVA, THEIA), self.live, self.pods, self.nodes, now=self.now)
        wanted = copy.deepcopy(WANTED)
        wanted["spec"]["updateStrategy"] = {"type": "OnDelete"}
        observed = Observed(self.live, self.pods, report, self.complete)
        return decide(wanted, observed, now=self.now, recreate=recreate, guard=self.guard)

    def carry_out(self, decision: Decision) -> None:
        self.guard = decision.guard or self.guard
        if decision.action in ("recreate", "finish_deletion"):
            self.recreated.append(self.now)
        if decision.action in ("recreate", "finish_deletion", "create", "wait"):
            self.live, self.pods = self._served(), []  # The old one's pods are nobody's now, and are collected.
        if decision.action == "patch":
            generation = self.live["metadata"] if self.live else {}
            self.live = self._served()
            self.live["metadata"]["uid"] = generation.get("uid", "uid")
        gone = {ref.uid for ref in decision.pods}
        self.pods = [pod for pod in self.pods if pod["metadata"]["uid"] not in gone]
        there = {pod["spec"]["nodeName"] for pod in self.pods}
        names = [node["metadata"]["name"] for node in self.nodes]
        self.pods += [made for name in names if name not in there and (made := self._pod(name, "current"))]

    @staticmethod
    def _served() -> dict[str, Any]:
        wanted = copy.deepcopy(WANTED)
        wanted["spec"]["updateStrategy"] = {"type": "OnDelete"}
        return objects.served(wanted)


@given(_states)
def test_the_actions_lead_to_nothing_to_do_or_to_a_reason(state: dict[str, Any]) -> None:
    model = Model(state)
    recreate = state["recreate"]
    decision = model.decide(recreate)
    for _ in range(30):
        if decision.action in ("none", "refuse"):
            break
        model.carry_out(decision)
        recreate = "unhealthy" if recreate == "always" else recreate  # A person asks once.
        decision = model.decide(recreate)
    assert decision.action in ("none", "refuse")
    again = model.decide(recreate)
    assert again == decision, "what needs nothing needs nothing a second time"


@given(_states, st.lists(st.integers(0, 900), max_size=30))
def test_never_recreated_twice_within_the_guards_pause(state: dict[str, Any], pauses: list[int]) -> None:
    model = Model(state)
    for pause in pauses:
        model.now += timedelta(seconds=pause)
        decision = model.decide("always")
        until = model.guard.paused_until("recreate", model.now)
        assert until is None or decision.action not in ("recreate", "finish_deletion")
        model.carry_out(decision)
    gaps = [
        (later - sooner).total_seconds() for sooner, later in zip(model.recreated, model.recreated[1:], strict=False)
    ]
    assert all(gap >= min(60 * 2**number, 3600) for number, gap in enumerate(gaps))


@given(_states)
def test_an_incomplete_answer_deletes_nothing(state: dict[str, Any]) -> None:
    model = Model({**state, "complete": False, "deleted": None})
    assert model.decide(state["recreate"]).action in ("none", "patch", "refuse")
