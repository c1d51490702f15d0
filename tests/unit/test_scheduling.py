# SPDX-License-Identifier: GPL-3.0-or-later
"""On which nodes a DaemonSet's pod runs: the rules of the DaemonSet controller, case by case."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import (
    is_tainted_by_state,
    selects,
    toleration_for,
    untolerated,
)
from tests.unit import objects


def _affinity(*terms: Any) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        ({}, True),
        ({"nodeSelector": {"disk": "ssd"}}, True),
        ({"nodeSelector": {"disk": "hdd"}}, False),
        ({"nodeSelector": {"absent": ""}}, False),
        ({"affinity": {}}, True),
        ({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}}, True),
        (_affinity(_expression("disk", "In", "ssd", "nvme")), True),
        (_affinity(_expression("disk", "In", "hdd")), False),
        (_affinity(_expression("absent", "In", "x")), False),
        (_affinity(_expression("disk", "NotIn", "hdd")), True),
        (_affinity(_expression("disk", "NotIn", "ssd")), False),
        (_affinity(_expression("absent", "NotIn", "x")), True),
        (_affinity(_expression("disk", "Exists")), True),
        (_affinity(_expression("absent", "Exists")), False),
        (_affinity(_expression("absent", "DoesNotExist")), True),
        (_affinity(_expression("disk", "DoesNotExist")), False),
        (_affinity(_expression("cores", "Gt", "7")), True),
        (_affinity(_expression("cores", "Gt", "8")), False),
        (_affinity(_expression("cores", "Lt", "9")), True),
        (_affinity(_expression("disk", "Gt", "1")), False),
        (_affinity(_expression("absent", "Lt", "1")), False),
        (_affinity(_expression("disk", "Unheard", "ssd")), False),
        (_affinity({}), False),
        (_affinity(), False),
        (_affinity({}, _expression("disk", "Exists")), True),
        (_affinity(_expression("disk", "In", "hdd"), _expression("cores", "In", "8")), True),
        (_affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}), True),
        (_affinity({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]}), False),
        (
            _affinity(
                _expression("disk", "Exists")
                | {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-2"]}]}
            ),
            False,
        ),
        ({"nodeSelector": {"disk": "hdd"}, **_affinity(_expression("disk", "Exists"))}, False),
    ],
)
def test_node_selector_and_required_affinity_choose_a_node(spec: dict[str, Any], chosen: bool) -> None:
    assert selects(spec, objects.node(labels={"disk": "ssd", "cores": "8"})) is chosen


@given(objects.affinities)
def test_any_good_affinity_can_be_asked_for_any_node(affinity: dict[str, Any]) -> None:
    assert selects({"affinity": affinity}, {"metadata": {"name": "bare"}}) in (True, False)


SLA = {"key": "sla", "value": "95", "effect": "NoExecute"}
GPU = {"key": "gpu", "value": "a100", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("tolerations", "taint", "kept_away"),
    [
        ([], GPU, True),
        ([{"key": "gpu", "operator": "Exists"}], GPU, False),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], GPU, True),
        ([{"key": "gpu", "value": "a100"}], GPU, False),
        ([{"key": "gpu", "operator": "Equal", "value": "v100"}], GPU, True),
        ([{"operator": "Exists"}], GPU, False),
        ([{"operator": "Exists", "effect": "NoSchedule"}], GPU, False),
        ([{"key": "other", "operator": "Exists"}], GPU, True),
        ([{"key": "gpu"}], {"key": "gpu", "effect": "NoSchedule"}, False),
        (
            [{"key": "sla", "operator": "Gt", "value": "90"}],
            SLA,
            False,
        ),
        (
            [{"key": "sla", "operator": "Lt", "value": "90"}],
            SLA,
            True,
        ),
        ([], {"key": "gpu", "effect": "PreferNoSchedule"}, False),
        ([], {"key": "gpu", "effect": "NoExecute"}, True),
        ([], {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, False),
        ([], {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}, False),
        ([], {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}, False),
        ([], {"key": "node.kubernetes.io/pid-pressure", "effect": "NoSchedule"}, False),
        ([], {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, False),
        ([], {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, False),
        ([], {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, True),
        ([], {"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}, True),
    ],
)
def test_a_taint_keeps_pods_away_unless_they_or_the_controller_tolerate_it(
    tolerations: list[Any], taint: dict[str, str], kept_away: bool
) -> None:
    assert untolerated({"tolerations": tolerations}, objects.node(taints=[taint])) == ([taint] if kept_away else [])


@given(
    st.fixed_dictionaries(
        {"key": st.sampled_from(["gpu", "a/b"]), "effect": st.sampled_from(["NoSchedule", "NoExecute"])},
        optional={"value": st.sampled_from(["", "x"])},
    )
)
def test_the_toleration_that_is_told_is_the_one_that_helps(taint: dict[str, str]) -> None:
    assert untolerated({"tolerations": [toleration_for(taint)]}, objects.node(taints=[taint])) == []


@pytest.mark.parametrize(
    ("key", "by_state"),
    [
        ("node.kubernetes.io/not-ready", True),
        ("node.cloudprovider.kubernetes.io/uninitialized", True),
        ("node-role.kubernetes.io/control-plane", False),
        ("gpu", False),
    ],
)
def test_taints_of_the_nodes_state_are_told_from_those_of_people(key: str, by_state: bool) -> None:
    assert is_tainted_by_state({"key": key, "effect": "NoSchedule"}) is by_state
