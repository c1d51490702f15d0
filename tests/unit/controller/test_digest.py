# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a report: the same numbers, and a sentence where something changed, however many nodes there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES, Report, Row
from controller.digest import Digest, transitions
from tests.unit.objects import JAVA, THEIA

IMAGES = (JAVA, THEIA)


def _report(verdict: str, states: dict[str, dict[str, str]], class_: str = "not_found") -> Report:
    """``states``: node -> name of the image -> state."""
    rows = tuple(
        Row(node, image.name, image.image, told[image.name], class_ if told[image.name] == "failed" else None)
        for node, told in states.items()
        for image in IMAGES
    )
    return Report(verdict, ("why",), rows, IMAGES, tuple(states))


def _everywhere(verdict: str, state: str, nodes: int = 3, class_: str = "not_found") -> Digest:
    states = {f"node-{number}": {JAVA.name: "cached", THEIA.name: state} for number in range(nodes)}
    return Digest.of(_report(verdict, states, class_))


@given(states=st.lists(st.tuples(*[st.sampled_from(STATES)] * len(IMAGES)), max_size=5), excused=st.integers(0, 5))
def test_the_numbers_are_those_of_the_report(states: list[tuple[str, str]], excused: int) -> None:
    told = {f"node-{n}": dict(zip((JAVA.name, THEIA.name), pair, strict=True)) for n, pair in enumerate(states)}
    made = _report("Progressing", told)
    report = Report(
        made.verdict, made.reasons, made.rows, made.images, made.nodes, dict.fromkeys(made.nodes[:excused], "away")
    )
    digest = Digest.of(report)
    assert {state: digest.states[state] for state in STATES} == {state: report.summary[state] for state in STATES}
    assert digest.nodes["complete"] + digest.nodes["incomplete"] == report.summary["nodes"]
    assert digest.nodes["excused"] == report.summary["excused_nodes"]
    assert sum(sum(classes.values()) for classes in digest.failed.values()) == report.summary["failed"]


def test_one_sentence_tells_of_an_image_however_many_nodes_it_fails_on() -> None:
    before, after = _everywhere("Healthy", "cached", 5000), _everywhere("Degraded", "failed", 5000)
    told = list(transitions(before, after))
    assert [(one.type, one.reason) for one in told] == [("Warning", "Degraded"), ("Warning", "ImageFailed")]
    assert "failed on 5000 nodes" in told[1].message
    assert len(told[1].message) < 1000


def test_an_image_that_fails_on_more_nodes_is_no_news_and_one_that_fails_otherwise_is() -> None:
    failing = _everywhere("Degraded", "failed", 2)
    assert not list(transitions(failing, _everywhere("Degraded", "failed", 3)))
    other = transitions(failing, _everywhere("Degraded", "failed", 2, "network"))
    assert [one.reason for one in other] == ["ImageFailed"]


def test_an_image_that_does_not_fail_any_more_is_told() -> None:
    told = list(transitions(_everywhere("Degraded", "failed"), _everywhere("Healthy", "cached")))
    assert [(one.type, one.reason) for one in told] == [("Normal", "Healthy"), ("Normal", "ImageRecovered")]


def test_a_controller_that_starts_anew_repeats_nothing_that_was_told_before() -> None:
    assert not list(transitions(None, _everywhere("Degraded", "failed"), published="Degraded"))
    assert [one.reason for one in transitions(None, _everywhere("Healthy", "cached"))] == ["Healthy"]
