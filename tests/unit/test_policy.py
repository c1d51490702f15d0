# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wait waits for, and what is said of a policy that can't be meant."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import PERMANENT, Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import run_here
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import Policy, read_policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.progress import progress, seconds_left
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings
from tests.running import module_arguments
from tests.unit import objects

NODES = ("a-1", "a-2", "spot-1", "spot-2")


def row(node: str, name: str = "java11", state: str = "cached", **more: Any) -> Row:
    return Row(node, name, f"r.io/{name}:1", state, held=state == "cached", **more)


def report(*rows: Row, verdict: str = "Degraded", **more: Any) -> Report:
    nodes = tuple(dict.fromkeys(each.node for each in rows))
    return Report(verdict, (), rows, nodes=nodes, **{"expected": len(nodes), **more})


def on(**states: str) -> Report:
    """One image on nodes, in these states; what failed was not found."""
    more = {"failed": {"class_": "not_found"}}
    return report(*(row(node.replace("_", "-"), state=state, **more.get(state, {})) for node, state in states.items()))


@pytest.mark.parametrize(
    ("wait_for", "policy"),
    [
        (None, Policy()),
        ("", Policy()),
        ({}, Policy()),
        ({"nodes": "95%"}, Policy("95%")),
        ({"nodes": 3}, Policy("3")),
        ('{"nodes": "3", "images": "all"}', Policy("3")),
        ("images: [java11, theia]", Policy(images=frozenset({"java11", "theia"}))),
        ({"images": "java11, theia"}, Policy(images=frozenset({"java11", "theia"}))),
        (
            {"excuse": ["spot-*", "no_space"]},
            Policy(excused_nodes=("spot-*",), excused_classes=frozenset({"no_space"})),
        ),
        ({"nodes": None, "images": None, "excuse": None}, Policy()),
    ],
)
def test_a_policy_is_read_from_what_people_write(wait_for: object, policy: Policy) -> None:
    assert read_policy(wait_for) == policy


@pytest.mark.parametrize(
    ("wait_for", "sentence"),
    [
        ({"nodes": "101%"}, "wait_for.nodes '101%': it is neither a number of nodes nor a percentage of them. "
         "Remedy: write 1 or more, or 1% to 100%."),
        ({"nodes": 0}, "wait_for.nodes '0': it is neither"),
        ({"nodes": "-1"}, "wait_for.nodes '-1': it is neither"),
        ({"nodes": 0.5}, "wait_for.nodes '0.5': it is neither"),
        ({"nodes": True}, "wait_for.nodes 'True': it is neither"),
        ({"images": []}, "wait_for.images '[]': it is no list of names. Remedy: write a list such as"),
        ({"images": {"a": 1}}, "wait_for.images \"{'a': 1}\": it is no list of names"),
        ({"images": [7]}, "wait_for.images '[7]': it is no list of names"),
        ({"excuse": ["no_spcae"]}, "wait_for.excuse 'no_spcae': it is neither a class of failures nor the name of a "
         "node. Remedy: write no_space, or a name such as spot-*."),
        ({"nods": 1}, "the field nods is unknown. Remedy: write nodes."),
        ("95%", "it is a text, not a JSON object. Remedy: write a JSON object such as"),
        ([1], "it is a JSON list, not a JSON object"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused_in_one_sentence(wait_for: object, sentence: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        read_policy(wait_for)
    (problem,) = refused.value.problems
    assert sentence in str(problem)


def test_numbers_below_0_are_refused_together() -> None:
    with pytest.raises(InvalidSettings, match=r"(?s)min_nodes '-1'.*wait_timeout '-5'"):
        read_policy(None, -1, -5)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"min_nodes": -1}, "min_nodes '-1': it is below 0. Remedy: write 0 or more."),
        ({"wait_timeout": -1}, "wait_timeout '-1': it is below 0. Remedy: write 0 or more."),
        ({"wait_for": {"nodes": 0}}, "wait_for.nodes '0': it is neither"),
        ({"on_timeout": "ignore"}, "value of on_timeout must be one of: fail, warn, got: ignore"),
    ],
)
def test_an_installation_refuses_it_before_it_looks_at_the_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: dict[str, Any], sentence: str
) -> None:
    code = importlib.import_module("ansible_collections.kubecache.image_puller.plugins.modules.image_puller_install")
    monkeypatch.setattr(code, "run", lambda module, work: run_here(module, lambda: work(object())))
    monkeypatch.setattr(code, "is_openshift", lambda _cluster: False)
    with module_arguments({"images": "java11=r.io/java11:1", **option}), pytest.raises(SystemExit):
        code.main()
    assert sentence in json.loads(capsys.readouterr().out)["msg"]


@pytest.mark.parametrize(
    ("wait_for", "min_nodes", "sentence"),
    [
        ({"nodes": 2}, 2, ""),
        ({"nodes": "100%"}, 1, ""),
        ({"nodes": 10}, 1, "wait_for asks for 10 nodes, and there are 2"),
        ({"nodes": 2, "excuse": ["a-*"]}, 1, "wait_for asks for 2 nodes, and there is 1"),
        ({}, 3, "min_nodes asks for 3 nodes, and there are 2"),
    ],
)
def test_more_nodes_than_there_are_is_said(wait_for: object, min_nodes: int, sentence: str) -> None:
    seen = on(a_1="cached", spot_1="waiting")
    assert read_policy(wait_for, min_nodes).short_of(seen) == sentence


def test_a_name_that_no_image_has_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InvalidSettings, match=r"'jav11': no image has this name. Remedy: write java11\."):
        read_policy({"images": ["jav11", "java11"]}).require_images_of([objects.settings(), None])
    with pytest.raises(InvalidSettings, match=r"Remedy: write java11 or theia\."):
        read_policy({"images": ["x"]}).require_images_of([objects.settings()])


@pytest.mark.parametrize(
    ("wait_for", "states", "met"),
    [
        ({"nodes": "50%"}, {"a_1": "cached", "a_2": "waiting"}, True),
        ({"nodes": "51%"}, {"a_1": "cached", "a_2": "waiting"}, False),
        ({"nodes": 1}, {"a_1": "cached", "a_2": "failed"}, True),
        ({"nodes": 3}, {"a_1": "cached", "a_2": "cached"}, False),
        ({"excuse": ["spot-*"]}, {"a_1": "cached", "spot_1": "waiting"}, True),
        ({"excuse": ["spot-?"]}, {"a_1": "waiting", "spot_1": "cached"}, False),
        ({"excuse": ["not_found"]}, {"a_1": "cached", "a_2": "failed"}, True),
        ({"excuse": ["a-*"]}, {"a_1": "cached"}, False),
        ({"nodes": "1%"}, {"a_1": "not_applicable", "a_2": "waiting"}, True),
    ],
)
def test_a_policy_is_met_on_enough_nodes(wait_for: object, states: dict[str, str], met: bool) -> None:
    assert read_policy(wait_for).is_met(on(**states)) is met


def test_only_the_images_that_are_named_are_waited_for() -> None:
    seen = report(row("a-1"), row("a-1", "theia", "failed", class_="not_found"))
    assert read_policy({"images": ["java11"]}).is_met(seen)
    assert not read_policy({"images": ["theia"]}).is_met(seen)


def test_an_image_that_is_there_and_not_held_is_not_there_yet() -> None:
    assert not read_policy({"nodes": 1}).is_met(report(row("a-1")._replace(held=False)))


def test_nodes_that_are_inferred_count_before_they_have_a_pod() -> None:
    seen = report(row("a-1"), inferred=True, expected=4)
    assert not read_policy({"nodes": "50%"}).is_met(seen)
    assert read_policy({"nodes": "25%"}).is_met(seen)


def test_a_pool_may_be_empty_only_where_no_node_is_needed() -> None:
    nowhere = Report("NoMatchingNodes", ())
    assert read_policy(None, 0).is_met(nowhere)
    assert not read_policy(None, 1).is_met(nowhere)
    assert not read_policy(None, 3).is_met(report(row("a-1"), verdict="Healthy"))
    assert read_policy(None, 1).is_met(report(row("a-1"), verdict="Healthy"))


@pytest.mark.parametrize(
    ("wait_for", "states", "final"),
    [
        (None, {"a_1": "failed", "a_2": "waiting"}, True),
        ({"nodes": "50%"}, {"a_1": "failed", "a_2": "waiting"}, False),
        ({"nodes": "50%"}, {"a_1": "failed", "a_2": "failed"}, True),
        ({"nodes": 2}, {"a_1": "failed", "a_2": "waiting", "spot_1": "cached"}, False),
        ({"excuse": ["a-1"]}, {"a_1": "failed", "a_2": "waiting"}, False),
        ({"excuse": ["not_found"]}, {"a_1": "failed", "a_2": "waiting"}, False),
    ],
)
def test_a_failure_ends_the_wait_only_where_it_can_not_be_met_any_more(
    wait_for: object, states: dict[str, str], final: bool
) -> None:
    assert bool(read_policy(wait_for).final(on(**states), PERMANENT)) is final


@given(
    st.dictionaries(st.sampled_from(NODES), st.sampled_from(["cached", "waiting", "failed"]), min_size=1),
    st.integers(1, 100).map("{}%".format) | st.integers(1, 5).map(str),
    st.sets(st.sampled_from(["spot-*", "a-1", "not_found"])),
)
def test_a_policy_that_is_met_is_never_hopeless_and_stays_met_when_more_arrives(
    states: dict[str, str], nodes: str, excuse: set[str]
) -> None:
    policy = read_policy({"nodes": nodes, "excuse": sorted(excuse)})
    seen = on(**{node.replace("-", "_"): state for node, state in states.items()})
    better = on(**{node.replace("-", "_"): "cached" if state == "waiting" else state for node, state in states.items()})
    if policy.is_met(seen):
        assert not policy.final(seen, PERMANENT)
        assert policy.is_met(better)
    if policy.final(seen, PERMANENT):
        assert not policy.is_met(better)


# --- how far it is ---------------------------------------------------------------------------------------------------


def test_progress_is_one_line() -> None:
    rows = [
        row("a-1", "java11", pull_seconds=4.0, size=100),
        row("a-1", "theia", "pulling"),
        row("a-2", "java11", "waiting"),
        row("a-2", "theia", "pulling"),
        row("a-2", "broker", "failed", class_="network"),
    ]
    assert progress({"": report(*rows)}) == (
        "1 of 5 cached on 2 nodes; pulling theia on 2; 1 waiting; failing broker (network); time left unknown"
    )
    known = [each._replace(size=200) if each.name == "theia" else each for each in rows]
    assert progress({"": report(*known)}).endswith("; about 12 s left")


def test_nobody_knows_how_long_a_roll_takes() -> None:
    rows = [row("a-1", pull_seconds=4.0), row("a-2", state="waiting", reason="OldRevision")]
    assert seconds_left(rows) is None


def test_what_is_left_is_what_the_slowest_node_has_to_pull() -> None:
    took = [row("a-1", "java11", pull_seconds=4.0), row("a-1", "theia", pull_seconds=6.0)]
    left = [row("a-2", "java11", "waiting"), row("a-2", "theia", "pulling"), row("a-3", "theia", "waiting")]
    assert seconds_left([*took, *left]) == 10.0
    assert seconds_left(took) == 0.0
