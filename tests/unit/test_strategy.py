# SPDX-License-Identifier: GPL-3.0-or-later
"""Which strategy a set takes: what is asked for, what holds the images now, the nodes, and admission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    because_of,
    desired_daemonset,
    matching,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision, judged
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import (
    Admission,
    Choice,
    annotation,
    choose,
    unable,
)
from tests.unit import objects

NEW, OLD = ("v1.36.3", "containerd://2.3.7"), ("v1.33.1", "containerd://1.7.27")
YES, NO, UNKNOWN = Admission(True), Admission(False, "denied by policy"), Admission(None, "unknown (no right)")


def _node(name: str, versions: tuple[str, str]) -> dict[str, Any]:
    made = objects.node(name)
    made["status"]["nodeInfo"] = {"kubeletVersion": versions[0], "containerRuntimeVersion": versions[1]}
    return made


def _live(strategy: str, reason: str = "", **more: Any) -> dict[str, Any]:
    live = objects.served(objects.desired(strategy=strategy))
    live["metadata"].setdefault("annotations", {}).update(annotation(Choice(strategy, reason)) if reason else {})
    return {**live, "status": {"currentNumberScheduled": 2, "desiredNumberScheduled": 2, **more}}


def _choose(
    asked: str,
    nodes: Sequence[tuple[str, str]] | None = (NEW, NEW),
    admission: Admission = YES,
    live: Mapping[str, Any] | None = None,
) -> Choice:
    made = None if nodes is None else [_node(f"n{number}", versions) for number, versions in enumerate(nodes)]
    return choose(objects.settings(strategy=asked), live, lambda: made, lambda: admission)


@pytest.mark.parametrize(
    ("versions", "sure", "known"),
    [
        (NEW, "", ""),
        (("v1.35.0", "cri-o://1.31.0"), "", ""),
        (("v1.34.9+k3s1", "containerd://2.1.0-k3s1"), "kubelet v1.34.9+k3s1 (1.35 or later is needed)", ""),
        (("v1.32.0", "containerd://2.1.0"), "kubelet v1.32.0 (1.35 or", "kubelet v1.32.0 (1.33 or later is needed)"),
        (("v1.36.0", "containerd://2.0.5"), "containerd 2.0.5 (containerd 2.1 or cri-o 1.31 or later", "containerd 2"),
        (("v1.36.0", "cri-o://1.30.9"), "cri-o 1.30.9", "cri-o 1.30.9"),
        (("v1.36.0", "docker://28.0.1"), "docker 28.0.1", "docker 28.0.1"),
        (("kwok-v0.8.0", ""), "kubelet kwok-v0.8.0", ""),
        (("", ""), "kubelet of unknown version", ""),
    ],
)
def test_a_node_is_judged_by_what_it_says_of_itself(versions: tuple[str, str], sure: str, known: str) -> None:
    node = _node("n", versions)
    assert unable([node], certain=True).get("n", "").startswith(sure)
    assert unable([node]).get("n", "").startswith(known)
    assert bool(unable([node], certain=True)) == bool(sure)
    assert bool(unable([node])) == bool(known)


@pytest.mark.parametrize(
    ("nodes", "admission", "strategy", "why"),
    [
        ((NEW, NEW), YES, "image_volume", "every matching node can, and admission lets it in"),
        ((NEW, OLD), YES, "sleep", "node n1 has kubelet v1.33.1 (1.35 or later is needed) and containerd 1.7.27 ("),
        ((OLD,) * 5, YES, "sleep", "and 2 more nodes"),
        ((), YES, "sleep", "no node matches yet"),
        (None, YES, "sleep", "the nodes may not be read"),
        ((NEW,), NO, "sleep", "admission refuses it: denied by policy"),
        ((NEW,), UNKNOWN, "sleep", "what admission says is unknown (no right)"),
    ],
)
def test_auto_takes_image_volumes_only_where_all_is_sure(
    nodes: Sequence[tuple[str, str]] | None, admission: Admission, strategy: str, why: str
) -> None:
    choice = _choose("auto", nodes, admission)
    assert (choice.strategy, choice.refused) == (strategy, "")
    assert why in choice.why


@pytest.mark.parametrize(
    ("nodes", "admission", "refused"),
    [
        ((NEW, ("v1.34.0", "containerd://2.1.0")), YES, ""),
        (None, UNKNOWN, ""),
        ((), YES, ""),
        ((NEW, OLD), YES, "node n1 has containerd 1.7.27 (containerd 2.1 or cri-o 1.31 or later is needed)"),
        ((("v1.30.1", NEW[1]),), YES, "node n0 has kubelet v1.30.1 (1.33 or later is needed)"),
        ((NEW,), NO, "admission refuses it: denied by policy"),
    ],
)
def test_image_volumes_that_are_asked_for_are_refused_only_where_they_can_not_be(
    nodes: Sequence[tuple[str, str]] | None, admission: Admission, refused: str
) -> None:
    choice = _choose("image_volume", nodes, admission)
    assert refused in choice.refused
    assert bool(choice.refused) == bool(refused)
    assert (choice.strategy == "image_volume") == (not refused)
    decision = because_of(choice, Decision("create"), objects.settings(strategy="image_volume"))
    assert decision.action == ("refuse" if refused else "create")
    if refused:
        report = judged(assess([objects.JAVA], None, [], []), decision)
        assert (report.verdict, report.reasons[0]) == ("Degraded", choice.refused)


@pytest.mark.parametrize("asked", ["auto", "image_volume"])
@given(nodes=st.none() | st.lists(st.sampled_from([NEW, OLD, ("", "")])), pods_are_missing=st.booleans())
def test_what_holds_the_images_stays_whatever_node_joins(
    asked: str, nodes: list[tuple[str, str]] | None, pods_are_missing: bool
) -> None:
    live = _live("image_volume", "every node can", currentNumberScheduled=2 - pods_are_missing)
    choice = _choose(asked, nodes, live=live)
    assert (choice.strategy, choice.refused, choice.pod_resources) == ("image_volume", "", True)
    if asked == "auto":
        assert annotation(choice) == annotation(Choice("image_volume", "every node can")), "nothing is written anew"


def test_a_pod_asks_for_resources_as_a_whole_where_the_server_has_them() -> None:
    older = ("v1.33.4", NEW[1])
    assert _choose("image_volume", (NEW, older), Admission(True, pod_resources=True)).pod_resources
    assert not _choose("image_volume", (NEW,), Admission(True, pod_resources=False)).pod_resources
    assert _choose("image_volume", (NEW,), UNKNOWN).pod_resources, "the server is not older than the nodes"
    assert not _choose("image_volume", (NEW, older), UNKNOWN).pod_resources
    assert not _choose("image_volume", None, UNKNOWN).pod_resources


def test_auto_gives_image_volumes_up_where_admission_lets_no_more_pods_in() -> None:
    missing = _live("image_volume", currentNumberScheduled=1)
    assert _choose("auto", admission=NO, live=missing).why == "admission refuses it: denied by policy"
    assert _choose("auto", admission=NO, live=_live("image_volume")).strategy == "image_volume", "all pods are there"
    assert _choose("auto", admission=UNKNOWN, live=missing).strategy == "image_volume", "it may be a webhook's outage"


def test_auto_goes_on_to_image_volumes_once_the_last_node_can() -> None:
    assert _choose("auto", (NEW, OLD), live=_live("sleep")).strategy == "sleep"
    assert _choose("auto", (NEW, NEW), live=_live("sleep")).strategy == "image_volume"


def test_sleep_asks_nobody() -> None:
    def nobody() -> Any:
        raise AssertionError("asked")

    assert choose(objects.settings(), _live("image_volume"), nobody, nobody).strategy == "sleep"


def test_only_nodes_that_the_set_is_for_count() -> None:
    settings = objects.settings(strategy="auto", node_selector={"gpu": "yes"})
    new, old = _node("new", NEW), _node("old", OLD)
    new["metadata"]["labels"]["gpu"] = "yes"
    assert matching(settings, [new, old]) == [new]
    assert matching(settings, None) is None


def test_the_choice_is_built_and_why_is_written_only_where_it_was_a_choice() -> None:
    def made(asked: str, choice: Choice) -> dict[str, Any]:
        settings = objects.settings(strategy=asked)
        names = ImageSet("k8s-image-puller")
        return desired_daemonset(
            settings, names, None, config_map=None, deployment=None, openshift=False, choice=choice
        )

    by_choice, asked_for = (
        made("auto", Choice("image_volume", "all can")),
        made("image_volume", Choice("image_volume", "")),
    )
    assert by_choice["metadata"]["annotations"] == {"kubecache.io/strategy": "image_volume: all can"}
    assert "annotations" not in asked_for["metadata"]
    assert by_choice["spec"] == asked_for["spec"]
    assert made("sleep", Choice("sleep", "")) == made("sleep", Choice("sleep", "other"))


def test_a_node_that_can_not_hold_is_named_and_the_others_are_not() -> None:
    settings = objects.settings(strategy="image_volume")
    (daemonset,) = build_daemonsets(settings)
    live = {**objects.served(daemonset), "status": {"observedGeneration": 1, "desiredNumberScheduled": 2}}
    running = [objects.running(image.name) for image in settings.images]
    pods = [objects.pod("new", running, daemonset=live), objects.pod("old", daemonset=live)]
    nodes = [_node("new", NEW), _node("old", OLD)]
    nodes[1]["status"]["images"] = [{"names": [objects.JAVA.image]}]
    report = assess(settings.images, live, pods, nodes)
    assert {(row.node, row.state, row.held, row.reason) for row in report.rows} == {
        ("new", "cached", True, None),
        ("old", "failed", False, "NoImageVolumes"),
    }
    assert "old" in report.reasons[0]
    assert "containerd 1.7.27" in report.reasons[0]
    sleeping = replace(settings, strategy="sleep")
    live = {**objects.served(build_daemonsets(sleeping)[0]), "status": live["status"]}
    assert "failed" not in {row.state for row in assess(settings.images, live, [], nodes).rows}
