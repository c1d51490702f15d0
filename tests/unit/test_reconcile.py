# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision about a DaemonSet: the least that helps, with its reasons, and never about somebody else's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import BUILDER_NUMBER, build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision, decide, is_adoptable
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_options, require
from tests.unit import objects

WANTED = objects.desired()
NAME = "DaemonSet k8s-image-puller/kubernetes-image-puller"


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
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {}}},
    }


def _of_somebody_else() -> dict[str, Any]:
    return {**_known(), "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {}}}


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
    decision = decide(WANTED, live, recreate=recreate)
    assert decision.action == action
    assert bool(decision.reasons) == (decision != Decision("none"))


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
    assert decide(WANTED, live).reasons == (reason,)


def test_a_live_status_or_foreign_label_is_no_reason_to_act() -> None:
    live = _live()
    live["metadata"]["labels"]["foreign"] = "1"
    live["status"] = {"numberReady": 0, "desiredNumberScheduled": 9, "numberUnavailable": 9}
    assert decide(WANTED, live) == Decision("none")


@given(objects.good_options, st.sampled_from(["unhealthy", "never"]))
def test_what_was_just_applied_needs_nothing(options: dict[str, Any], recreate: str) -> None:
    (wanted,) = build_daemonsets(require(from_options(options)))
    assert decide(wanted, objects.served(wanted), recreate=recreate) == Decision("none")


def test_ours_and_the_known_ones_are_adoptable_and_no_others() -> None:
    assert is_adoptable(_live())
    assert is_adoptable(_known())
    assert not is_adoptable(_of_somebody_else())
    assert not is_adoptable({"metadata": {}, "spec": {"selector": {}}})
