# SPDX-License-Identifier: GPL-3.0-or-later
"""What can't be read in time, or may not be, is unknown: the plan never takes a part for the whole."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import survey
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.preflight import Survey, plan
from tests.unit import objects

NAMESPACE = "cache"
FORBIDDEN = 'pods is forbidden: User "plan" cannot list resource "pods" in API group ""'
QUOTA = {"metadata": {"name": "small"}, "status": {"hard": {"pods": "4", "count/secrets": "1"}, "used": {"pods": "3"}}}


def _own(number: int) -> dict[str, Any]:
    made: dict[str, Any] = objects.pod(f"node-{number}")
    owner = {"kind": "DaemonSet", "name": "kubernetes-image-puller"}
    made["metadata"] |= {"namespace": NAMESPACE, "ownerReferences": [owner]}
    return made


class _Cluster:
    """Three of our pods, each on a page of its own; reading a page takes so many seconds."""

    def __init__(self, everywhere: float | None, here: float | None) -> None:
        """None for what may not be read."""
        self.seconds = {None: everywhere, NAMESPACE: here}
        self.clock = 0.0
        self.asked: list[str | None] = []

    def pages(self, kind: str, namespace: str | None, **_more: Any) -> Iterator[tuple[list[dict[str, Any]], str]]:
        assert kind == "Pod"
        self.asked.append(namespace)
        for number in range(1, 4):
            seconds = self.seconds[namespace]
            if seconds is None:
                raise ApiError(FORBIDDEN, 403)
            self.clock += seconds
            yield [_own(number)], "1"


def _planned(cluster: _Cluster, monkeypatch: pytest.MonkeyPatch, *quotas: dict[str, Any]) -> dict[str, Any]:
    monkeypatch.setattr(survey, "time", SimpleNamespace(monotonic=lambda: cluster.clock))
    reader = survey._Reader(cast(Cluster, cluster), NAMESPACE)
    taken, own = reader.pods({"kubernetes-image-puller"}, set(), own=bool(quotas))
    nodes = [objects.node(f"node-{number}") for number in range(1, 4)]
    found = Survey({"metadata": {}}, nodes, taken, own, {"count/secrets": (1, 0)}, quotas, unread=reader.unread)
    return plan([objects.settings()], found)


def _told(planned: dict[str, Any], about: str) -> list[str]:
    return [finding["message"] for finding in planned["findings"] if finding["about"] == about]


@pytest.mark.parametrize("everywhere", [21.0, None])
def test_where_not_all_pods_can_be_read_the_own_ones_are_read_by_themselves(
    everywhere: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _Cluster(everywhere, 1.0)
    planned = _planned(cluster, monkeypatch, QUOTA)
    assert cluster.asked == [None, NAMESPACE]
    assert [(row["resource"], row["used"]) for row in planned["quotas"]] == [("pods", "0"), ("count/secrets", "0")]
    assert _told(planned, "quota") == []
    (sentence,) = _told(planned, "unread")
    assert sentence.startswith("what the nodes have free is unknown: ")


@pytest.mark.parametrize("here", [21.0, None])
def test_a_quota_of_which_nobody_knows_the_own_part_is_not_judged(
    here: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = _planned(_Cluster(21.0, here), monkeypatch, QUOTA)
    assert [row["resource"] for row in planned["quotas"]] == ["count/secrets"]
    assert _told(planned, "quota") == []
    why = FORBIDDEN if here is None else "reading the pods of the namespace takes more than 20 s"
    assert _told(planned, "unread") == [
        "what the nodes have free is unknown: reading all pods takes more than 20 s",
        f"whether the ResourceQuotas leave enough for the pods is unknown: {why}",
    ]


def test_without_a_quota_nobody_looks_for_the_own_pods_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(21.0, 1.0)
    planned = _planned(cluster, monkeypatch)
    assert (cluster.asked, len(_told(planned, "unread"))) == ([None], 1)


def test_what_is_read_in_time_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(1.0, None)
    planned = _planned(cluster, monkeypatch, QUOTA)
    assert (cluster.asked, planned["verdict"]) == ([None], "Fits")
