# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left out of the caches changes no judgement, and what is shared takes no memory of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import next_step
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Shared, node_slimmer, pod_slimmer
from controller.slim import ToldEvents
from tests.unit.objects import JAVA, NOW, THEIA, desired, event, node, pod, running, served, waiting

IMAGES = (JAVA, THEIA)
MOMENT = datetime(2026, 11, 20, 12, 5, tzinfo=timezone.utc)
OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "cache", "uid": "daemonset", "controller": True}
DAEMONSET = {**served(desired()), "status": {"observedGeneration": 1, "desiredNumberScheduled": 3}}


def _ended(name: str) -> dict[str, Any]:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": NOW, "containerID": "containerd://1"}}
    return {**waiting(name, "CrashLoopBackOff", "back-off", "x@sha256:" + "b" * 64), "lastState": last}


def _restarted(name: str) -> dict[str, Any]:
    return {**running(name), "restartCount": 3, "state": {"running": {"startedAt": "2026-11-20T12:04:00Z"}}}


def _statuses(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(
        [
            {**running(name), "containerID": "containerd://2", "resources": {"limits": {"cpu": "1"}}},
            _restarted(name),
            waiting(name, "ContainerCreating"),
            waiting(name, "ErrImagePull", "x: not found"),
            waiting(name, "SomethingNew", "that nobody has seen"),
            _ended(name),
        ]
    )


def _owned(made: dict[str, Any], generation: str) -> dict[str, Any]:
    labels = {"pod-template-generation": generation, "team": "platform"}
    managed = [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]
    made["metadata"] |= {"namespace": "cache", "ownerReferences": [OWNER], "labels": labels, "managedFields": managed}
    made["metadata"]["creationTimestamp"] = NOW
    return made


_pods = st.builds(
    lambda number, statuses, generation, status: _owned(pod(f"node-{number}", statuses, status=status), generation),
    st.integers(1, 3),
    st.tuples(_statuses(JAVA.name), _statuses(THEIA.name)),
    st.sampled_from(["1", "0"]),
    st.sampled_from(
        [
            {},
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource"},
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}]},
            {"initContainerStatuses": [waiting("copy-sleep", "ErrImagePull", "not found")], "containerStatuses": []},
        ]
    ),
)
_nodes = st.builds(
    lambda number, ready, taints, images: node(f"node-{number}", ready=ready, taints=taints, images=images),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([(), ({"key": "gpu", "value": "yes", "effect": "NoSchedule", "timeAdded": NOW},)]),
    st.sampled_from([(), (JAVA.image,)]),
)


def _untimed(report: Report) -> Report:
    """Without the times of single containers, of which only the last is kept."""
    return replace(report, rows=tuple(row._replace(since=None) for row in report.rows))


@given(pods=st.lists(_pods, max_size=4), nodes=st.lists(_nodes, max_size=3), later=st.integers(0, 2000))
def test_what_is_left_out_changes_no_judgement_and_no_step(
    pods: list[dict[str, Any]], nodes: list[dict[str, Any]], later: int
) -> None:
    share, now = Shared(), MOMENT + timedelta(seconds=later)
    slim_pods = [kept for kept in map(pod_slimmer(share), pods) if kept]
    slim_nodes = [kept for kept in map(node_slimmer(share), nodes) if kept]
    whole = assess(IMAGES, DAEMONSET, pods, nodes, now=now)
    kept = assess(IMAGES, DAEMONSET, slim_pods, slim_nodes, now=now)
    assert _untimed(kept) == _untimed(whole)
    assert next_step(DAEMONSET, slim_pods, kept, "1", now) == next_step(DAEMONSET, pods, whole, "1", now)


_MESSAGES = [
    f'Pulling image "{JAVA.image}"',
    f'Successfully pulled image "{JAVA.image}" in 33ms (61ms including waiting). Image size: 1185181 bytes.',
    f'Container image "{JAVA.image}" already present on machine and can be accessed by the pod',
    f'Failed to pull image "{JAVA.image}": {JAVA.image}: not found',
    f'Failed to pull image "{THEIA.image}": dial tcp: lookup registry.example.com: no such host',
    "Error: ErrImagePull",
    "exceeded quota: pods",
]
_events = st.builds(
    lambda message, about, at: {
        **event(message, f"uid-{about}", f"2026-11-20T12:00:{at:02d}Z"),
        "involvedObject": {"kind": "Pod", "uid": f"uid-{about}"},
    },
    st.sampled_from(_MESSAGES),
    st.sampled_from(["node-1", "node-2", "of-somebody-else"]),
    st.integers(0, 59),
)


@given(events=st.lists(_events, max_size=8, unique_by=lambda told: str(told["lastTimestamp"])))
def test_of_events_the_last_of_each_image_is_enough(events: list[dict[str, Any]]) -> None:
    pods, nodes = [_owned(pod(f"node-{number}"), "1") for number in (1, 2)], [node("node-1"), node("node-2")]
    told = ToldEvents()
    for one in events:
        told.take(one)
    of_pods = [pod["metadata"]["uid"] for pod in pods]
    told.forget_others([], of_pods)
    kept = told.of("daemonset", of_pods)
    assert len(kept) <= len(pods) * len(IMAGES)
    few, all_of_them = (assess(IMAGES, DAEMONSET, pods, nodes, given, now=MOMENT) for given in (kept, events))
    rows = [(row.node, row.name, row.state, row.class_, row.message) for row in few.rows]
    assert rows == [(row.node, row.name, row.state, row.class_, row.message) for row in all_of_them.rows]


def test_that_pods_can_not_be_created_is_kept_for_the_daemonset_and_dropped_with_it() -> None:
    told = ToldEvents()
    refused = {**event("exceeded quota", "daemonset", reason="FailedCreate")}
    assert told.take({**refused, "involvedObject": {"kind": "DaemonSet", "uid": "daemonset"}})
    assert [one["message"] for one in told.of("daemonset", [])] == ["exceeded quota"]
    told.forget_others([], [])
    assert not told.of("daemonset", [])


def test_pods_of_others_are_not_kept() -> None:
    made = _owned(pod(), "1")
    made["metadata"]["ownerReferences"] = [{**OWNER, "kind": "ReplicaSet"}]
    assert pod_slimmer(Shared())(made) is None


def test_a_pod_that_is_not_bound_yet_is_known_by_its_affinity() -> None:
    made = _owned(pod(), "1")
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    made["spec"] |= {"nodeName": "", "affinity": {"nodeAffinity": required}}
    kept = pod_slimmer(Shared())(made)
    assert kept
    report = assess(IMAGES, DAEMONSET, [kept], [node()], now=MOMENT)
    assert {row.reason for row in report.rows} == {"Untold"}


_json = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(values=st.lists(_json, max_size=6))
def test_equal_values_are_one_and_others_are_not(values: list[Any]) -> None:
    share = Shared()
    for value in values:
        shared = share(value)
        assert json.dumps(shared) == json.dumps(value)
        assert share(json.loads(json.dumps(value))) is shared


def test_the_table_does_not_grow_without_an_end() -> None:
    share = Shared(limit=10)
    values = [share({"number": number}) for number in range(25)]
    assert [value["number"] for value in values] == list(range(25))
    assert share({"number": 24}) is values[24]
    assert share({"number": 0}) is not values[0]
