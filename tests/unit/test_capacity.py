# SPDX-License-Identifier: GPL-3.0-or-later
"""What pods cost, as the scheduler and the quotas of the API server count it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import (
    Cost,
    cost_of,
    limit_breaches,
    quotas_for,
    with_defaults,
)

from . import objects

MEBIBYTE = 1 << 20


def container(cpu: str = "0", memory: str = "0", **more: Any) -> dict[str, Any]:
    """A container with these requests, and limits of the same."""
    return {"resources": {kind: {"cpu": cpu, "memory": memory} for kind in ("requests", "limits")}, **more}


def quota(spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "q"}, "spec": spec or {}, "status": status}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("1"), container("250m")]}, "1.25"),
        ({"containers": [container("1")], "initContainers": [container("3"), container("2")]}, "3"),
        ({"containers": [container("1")], "initContainers": [container("2", restartPolicy="Always")]}, "3"),
        # A sidecar runs on while the init containers behind it have their turn.
        (
            {
                "containers": [container("1")],
                "initContainers": [container("2", restartPolicy="Always"), container("3")],
            },
            "5",
        ),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "5m"}}}, "0.005"),
        ({"containers": [container("1")], "overhead": {"cpu": "10m"}}, "1.01"),
        ({"containers": [{}]}, "0"),
    ],
)
def test_a_pod_counts_as_the_scheduler_counts_it(spec: dict[str, Any], cpu: str) -> None:
    assert cost_of([spec]).cpu_requests == Decimal(cpu)


@given(st.lists(st.integers(0, 5000), max_size=5), st.integers(0, 20))
def test_costs_add_up(sizes: list[int], count: int) -> None:
    specs = [{"containers": [container(f"{size}m", f"{size}Mi")]} for size in sizes]
    whole = cost_of(specs)
    assert whole == sum((cost_of([spec]) for spec in specs), Cost())
    assert (whole * count).memory_limits == sum(sizes) * count * MEBIBYTE
    assert (whole * count).pods == len(sizes) * count


def test_a_quota_counts_what_is_there_once() -> None:
    spec = objects.desired()["spec"]["template"]["spec"]
    status = {"hard": {"requests.memory": "100Mi", "pods": "5", "secrets": "1"}, "used": {"requests.memory": "70Mi"}}
    found = {q.resource: q for q in quotas_for([quota(**status)], [(spec, 3)], [spec, spec])}
    assert set(found) == {"requests.memory", "pods"}
    memory = found["requests.memory"].as_dict()
    assert memory == {
        "name": "q",
        "resource": "requests.memory",
        "hard": "100Mi",
        "used": "30Mi",
        "needed": "60Mi",
        "missing": "0",
    }
    assert found["pods"].used == 0  # Its controller has not counted yet.


def test_what_is_missing_of_a_quota() -> None:
    spec = objects.desired()["spec"]["template"]["spec"]
    (found,) = quotas_for([quota({"hard": {"limits.cpu": "1"}})], [(spec, 3)], [])
    assert found.as_dict() | {"name": "", "resource": ""} == {
        "name": "",
        "resource": "",
        "hard": "1",
        "used": "0",
        "needed": "1200m",
        "missing": "200m",
    }


def test_a_quota_counts_objects_as_it_counts_pods() -> None:
    status = {"hard": {"count/daemonsets.apps": "5", "secrets": "1"}, "used": {"count/daemonsets.apps": "5"}}
    (found,) = quotas_for([quota(**status)], [], [], {"count/daemonsets.apps": (2, 1), "secrets": (0, 0)})
    assert found.as_dict() == {
        "name": "q",
        "resource": "count/daemonsets.apps",
        "hard": "5",
        "used": "4",
        "needed": "2",
        "missing": "1",
    }


def test_what_pods_say_nothing_of_counts_where_a_limit_range_gives_it() -> None:
    spec = objects.desired()["spec"]["template"]["spec"]
    status = {"hard": {"requests.ephemeral-storage": "1Gi", "limits.ephemeral-storage": "1Gi", "memory": "1Gi"}}
    assert [q.resource for q in quotas_for([quota(**status)], [(spec, 3)], [])] == ["memory"]
    item = {"type": "Container", "default": {"ephemeral-storage": "200Mi", "memory": "1Gi"}}
    item["defaultRequest"] = {"ephemeral-storage": "50Mi", "memory": "1Gi"}
    given = with_defaults(spec, [{"spec": {"limits": [item, {"type": "Pod", "max": {"memory": "4Gi"}}]}}])
    found = {q.resource: q.as_dict()["needed"] for q in quotas_for([quota(**status)], [(given, 3)], [])}
    assert found == {
        "requests.ephemeral-storage": "300Mi",
        "limits.ephemeral-storage": "1200Mi",
        "memory": "60Mi",
    }
    assert spec == objects.desired()["spec"]["template"]["spec"], "what is applied does not change"


def scoped(operator: str, *values: str, name: str = "PriorityClass") -> dict[str, Any]:
    expression = {"scopeName": name, "operator": operator, "values": list(values)}
    return {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [expression]}}


def test_a_quota_counts_pods_that_look_at_other_namespaces() -> None:
    spec = {"hard": {"pods": "1"}, "scopes": ["CrossNamespacePodAffinity"]}
    term = {"topologyKey": "zone", "labelSelector": {}}
    for affinity, counts in (
        ({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}, False),
        (
            {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{**term, "namespaces": ["a"]}]}},
            True,
        ),
        (
            {
                "podAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "podAffinityTerm": {**term, "namespaceSelector": {}}}
                    ]
                }
            },
            True,
        ),
    ):
        pod = objects.desired(affinity=affinity)["spec"]["template"]["spec"]
        assert bool(quotas_for([quota(spec)], [(pod, 2)], [])) is counts


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"hard": {"pods": "1"}, "scopes": ["NotTerminating", "NotBestEffort"]}, True),
        ({"hard": {"pods": "1"}, "scopes": ["Terminating"]}, False),
        ({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}, False),
        ({"hard": {"pods": "1"}, "scopes": ["CrossNamespacePodAffinity"]}, False),
        (scoped("In", "image-puller-cache"), True),
        (scoped("In", "high"), False),
        (scoped("NotIn", "high"), True),
        (scoped("Exists"), True),
        (scoped("DoesNotExist"), False),
        (scoped("Exists", name="NotBestEffort"), True),
    ],
)
def test_a_quota_counts_the_pods_of_its_scopes(spec: dict[str, Any], counts: bool) -> None:
    pod = objects.desired(priority_class_name="image-puller-cache")["spec"]["template"]["spec"]
    assert bool(quotas_for([quota(spec)], [(pod, 2)], [])) is counts


@pytest.mark.parametrize(
    ("item", "breaches"),
    [
        ({"type": "Container", "min": {"memory": "10Mi"}, "max": {"memory": "20Mi", "cpu": "200m"}}, []),
        ({"type": "Container", "min": {"memory": "11Mi"}}, [("min", "memory", "11Mi", "10Mi")]),
        ({"type": "Container", "max": {"cpu": ".1"}}, [("max", "cpu", ".1", "200m")]),
        ({"type": "Container", "maxLimitRequestRatio": {"cpu": "3"}}, [("maxLimitRequestRatio", "cpu", "3", "4")]),
        ({"type": "Pod", "max": {"cpu": "300m"}}, [("max", "cpu", "300m", "400m")]),
        ({"type": "Pod", "min": {"memory": "20Mi"}}, []),
        ({"type": "Pod", "max": {"ephemeral-storage": "1Gi"}}, [("max", "ephemeral-storage", "1Gi", "")]),
        ({"type": "Pod", "min": {"ephemeral-storage": "1Mi"}}, [("min", "ephemeral-storage", "1Mi", "")]),
        ({"type": "Pod", "maxLimitRequestRatio": {"memory": "1.5"}}, [("maxLimitRequestRatio", "memory", "1.5", "2")]),
        ({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}, []),
    ],
)
def test_a_limit_range_bounds_containers_and_pods(item: dict[str, Any], breaches: list[tuple[str, ...]]) -> None:
    limit_range = {"metadata": {"name": "l"}, "spec": {"limits": [item]}}
    found = limit_breaches([limit_range], objects.desired()["spec"]["template"]["spec"])
    assert [(b.bound, b.resource, b.allowed, b.asked) for b in found] == breaches
