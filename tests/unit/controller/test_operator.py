# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator keeps of objects, and what wakes it; what it does is tested on real clusters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Client, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STATUS
from controller import operator as module
from controller.operator import Operator, watched
from tests.unit.controller.scripted import Hands, HttpError, Server


@pytest.mark.parametrize(
    ("text", "namespaces"),
    [("", (None,)), (" ", (None,)), (",", (None,)), ("a", ("a",)), ("a,b", ("a", "b")), (" a , b,a", ("a", "b"))],
)
def test_the_namespaces_are_one_or_several_or_all(text: str, namespaces: Any) -> None:
    assert watched(text) == namespaces


def deployment(**more: Any) -> dict[str, Any]:
    owner = {"kind": "KubernetesImagePuller", "uid": "uid-puller"}
    data = {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "1", "ownerReferences": [owner]}
    return {"kind": "Deployment", "metadata": data, "spec": {"replicas": 1}, **more}


def test_little_is_kept_of_an_object_and_each_change_is_seen() -> None:
    kept = module._slim(deployment())
    assert kept["owners"] == ["uid-puller"]
    assert len(str(kept)) < 200
    later = deployment()
    later["metadata"] |= {"resourceVersion": "2", "managedFields": [{"manager": "m"}]}
    assert module._slim(later) == kept
    for change in ({"spec": {"replicas": 2}}, {"status": {"availableReplicas": 1}}, {"data": {"a": "b"}}):
        assert module._slim(deployment(**change)) != kept


def test_of_a_daemonset_the_verdict_is_kept() -> None:
    annotations = {STATUS: "{}", "other": "x" * 1000}
    data = {"name": "d", "namespace": "n", "uid": "u", "generation": 2, "annotations": annotations}
    kept = module._slim_daemonset({"metadata": data, "spec": {"template": "x" * 1000}})
    assert kept["metadata"]["annotations"] == {STATUS: "{}"}
    assert len(str(kept)) < 200


@pytest.mark.parametrize(
    ("kind", "change", "keep", "tell"),
    [
        ("DaemonSet", {}, False, True),
        ("Deployment", {}, True, False),
        ("ConfigMap", {}, True, False),
        ("KubernetesImagePuller", {"metadata": {"uid": "u", "generation": 2}}, True, False),
        ("KubernetesImagePuller", {"status": {"images": 1}}, False, True),
    ],
)
def test_a_verdict_wakes_only_the_telling(kind: str, change: Any, keep: bool, tell: bool) -> None:
    before = {"metadata": {"uid": "u", "generation": 1}}
    state = module._Served(keep_at=100.0, tell_at=100.0)
    module._due(state, 10.0, kind, before, {**before, **change})
    assert (state.keep_at == 10.0, state.tell_at == 10.0) == (keep, tell)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("ConfigMap", "spec.configMapName"),
        ("Deployment", "spec.deploymentName"),
        ("ServiceAccount", "spec.serviceAccountName"),
        ("Role", "delete it"),
    ],
)
def test_what_is_somebody_elses_is_named_with_what_helps(kind: str, remedy: str) -> None:
    refusal = module._foreign({"kind": kind, "metadata": {"name": "x", "namespace": "n"}})
    assert f"{kind} n/x was made by somebody else" in refusal.message
    assert remedy in refusal.message
    assert f"kubectl label -n n {kind.lower()} x app.kubernetes.io/managed-by=kubecache.image_puller" in refusal.message


class ConfigMaps(Cluster):
    """A cluster with these ConfigMaps: name -> the Deployment that keeps it, and its pull secrets."""

    def __init__(self, found: dict[str, tuple[str, str]]) -> None:
        super().__init__(cast(Client, None))
        self.found = found
        self.asked: list[tuple[str, str | None, str]] = []

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "", **_: Any) -> Any:
        self.asked.append((kind, namespace, labels))
        made = []
        for name, (keeper, secrets) in self.found.items():
            told = {"kubecache.io/image-set": name, "kubecache.io/deployment": keeper}
            data = {"IMAGES": "a=r.io/a:1", "IMAGE_PULL_SECRETS": secrets}
            made.append({"metadata": {"name": name, "labels": told}, "data": data})
        return made, "1"


def test_the_controller_may_read_the_pull_secrets_of_groups_too() -> None:
    """Those of the resource are in its spec, which may be newer than its ConfigMap."""
    puller = Installation()
    ours = puller.deployment_name
    cluster = ConfigMaps(
        {
            puller.config_map_name: (ours, "former"),
            f"{puller.config_map_name}-gpu": (ours, "gpu;team"),
            "of-another-installation": ("other", "foreign"),
        }
    )
    operator = Operator(cluster, (None,), own_namespace="operators", identity="one")
    resource = {"metadata": {"name": "puller", "namespace": "cache"}}
    assert operator._secrets(resource, puller) == ("gpu", "team")
    assert cluster.asked == [("ConfigMap", "cache", "kubecache.io/image-set")]


QUOTA = (
    'deployments.apps "kubernetes-image-puller" is forbidden: exceeded quota: few, requested: count/deployments.apps=1'
)


class Served:
    """An operator with one resource, and an API server that has nothing else."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.refuses: dict[str, Exception] = {}
        self.meanwhile: Callable[[], None] | None = None
        self.status: dict[str, Any] = {}
        data = {"name": "puller", "namespace": "cache", "uid": "u", "generation": 1, "resourceVersion": "1"}
        self.resource = {"kind": "KubernetesImagePuller", "metadata": data, "spec": {"images": "a=r.io/a:1"}}
        self.operator = Operator(
            Cluster(Server(self._answer)), (None,), own_namespace="operators", identity="one", clock=self.clock
        )
        self.operator._resources[0]._objects = {"cache/puller": self.resource}
        self.state = module._Served()

    def _answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        if method == "PATCH" and "/deployments/" in path and self.meanwhile:
            self.meanwhile()
        for part, error in self.refuses.items():
            if method == "PATCH" and part in path:
                raise error
        if method == "PATCH" and path.endswith("/status"):
            self.status = body["status"]
            self.resource = {**self.resource, **body}
            return self.resource
        if method == "PATCH":
            return cast(dict[str, Any], json.loads(body))
        if path.endswith("/configmaps"):
            return {"items": [], "metadata": {}}
        raise HttpError(404)

    def passes(self, times: int = 1) -> None:
        for _ in range(times):
            self.state.keep_at = 0.0
            self.operator._serve("cache", self.state)
            self.clock.time += 100

    def condition(self, type_: str) -> tuple[str, str, str]:
        found = {c["type"]: (c["status"], c["reason"], c["message"]) for c in self.status.get("conditions", ())}
        return found.get(type_, ("", "", ""))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HttpError(403, QUOTA), QUOTA),
        (HttpError(500, "failed calling webhook"), "failed calling webhook"),
        (HttpError(409, "the object has been modified"), "the object has been modified"),
        (RuntimeError("DaemonSet cache/x would go along"), "DaemonSet cache/x would go along"),
        (KeyError("x"), "unexpected error"),
    ],
)
def test_an_error_that_lasts_is_in_the_status_until_it_is_over(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served()
    if isinstance(error, HttpError):
        served.refuses = {"/deployments/": error}
    else:

        def fail(*_: Any) -> float:
            raise error

        monkeypatch.setattr(served.operator, "_look_at_controller", fail)
    served.passes(2)
    assert served.status == {}, "it may pass"
    served.passes()
    status, reason, message = served.condition("Degraded")
    assert (status, reason) == ("True", "ReconcileError")
    assert words in message
    assert served.condition("Ready")[:2] == ("False", "ReconcileError")
    served.refuses = {}
    monkeypatch.undo()
    served.passes()
    assert served.condition("Ready")[:2] == ("False", "Reconciling")
    assert served.condition("Degraded")[0] == "False"
    assert served.state.failures == 0


def test_a_verdict_that_is_told_meanwhile_makes_nothing_of_the_error() -> None:
    served = Served()
    served.refuses = {"/deployments/": HttpError(403, QUOTA)}
    for _ in range(3):
        served.passes()
        served.state.keep_at = float("inf")
        served.operator._serve("cache", served.state)
    assert served.condition("Degraded")[:2] == ("True", "ReconcileError")


def test_a_status_that_can_not_be_written_keeps_nothing_from_being_done() -> None:
    served = Served()
    served.refuses = {"/status": HttpError(403, "denied"), "/deployments/": HttpError(403, QUOTA)}
    served.passes(4)
    assert served.state.failures == 4
    served.refuses = {}
    served.passes()
    assert served.state.failures == 0


def test_an_error_is_said_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    served = Served()

    def said() -> int:
        return sum("(tried again with growing pauses)" in record.message for record in caplog.records)

    for times in (1, 2):
        served.refuses = {"/deployments/": HttpError(403, QUOTA)}
        served.passes(3)
        assert said() == times
        served.refuses = {}
        served.passes()
    served.refuses = {"/deployments/": HttpError(403, QUOTA)}
    served.passes()
    served.operator._resources[0]._objects = {}
    served.passes()
    served.operator._resources[0]._objects = {"cache/puller": served.resource}
    served.passes()
    assert said() == 4, "the resource that had it is gone, and this is another one"


@pytest.mark.parametrize("error", [None, HttpError(403, QUOTA)])
def test_what_changes_during_a_pass_is_seen_by_the_next(error: Exception | None) -> None:
    served = Served()
    served.operator._served = {"cache": served.state}
    served.passes(4)
    changed = {**served.resource, "metadata": {"namespace": "cache", "generation": 2}}

    def while_it_keeps() -> None:
        served.operator._woken("KubernetesImagePuller", served.resource, changed)
        served.meanwhile = None

    served.meanwhile = while_it_keeps
    served.refuses = {"/deployments/": error} if error else {}
    now = served.clock.time
    served.passes()
    assert served.meanwhile is None
    assert served.state.keep_at == now


def test_a_resource_that_is_back_is_served_though_it_was_gone_when_the_pass_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Served()
    served.operator._served = {"cache": served.state}
    for found, kept in (([served.resource], True), ([], False)):
        answers = [[], found]
        monkeypatch.setattr(served.operator, "_resources_of", lambda _namespace, left=answers: left.pop(0))
        served.passes()
        assert ("cache" in served.operator._served) is kept


@pytest.mark.parametrize(("owners", "added"), [(["old", "older"], True), (["old", "other"], False), ([], False)])
def test_a_daemonset_whose_owners_all_go_is_given_one_that_stays(owners: list[str], added: bool) -> None:
    """Their names were changed in the resource, and the controller of the new ones is still to start."""
    patches: list[tuple[str, Any]] = []

    def answer(method: str, path: str, body: Any) -> dict[str, Any]:
        if method == "PATCH":
            patches.append((path, body))
            return {}
        if path.endswith("/configmaps/new"):
            named = {"name": "new", "namespace": "cache", "uid": "uid-new"}
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named}
        assert path.endswith("/daemonsets")
        references = [{"kind": "X", "name": name, "uid": name} for name in owners]
        data = {"name": "d", "namespace": "cache", "uid": "uid-d", "ownerReferences": references}
        return {"items": [{"metadata": data}], "metadata": {}}

    operator = Operator(Cluster(Server(answer)), (None,), own_namespace="operators", identity="one", clock=Hands())
    operator._hand_over("cache", "new", {"old", "older"})
    assert len(patches) == added
    for path, patch in patches:
        assert path.endswith("/daemonsets/d")
        assert patch["metadata"]["uid"] == "uid-d"
        assert [each["uid"] for each in patch["metadata"]["ownerReferences"]] == [*owners, "uid-new"]
        assert patch["metadata"]["ownerReferences"][-1]["kind"] == "ConfigMap"


def test_where_verdicts_may_not_be_read_the_missing_right_is_told() -> None:
    served = Served()
    served.operator._daemonsets[0].denied = ApiError("may not list DaemonSets", 403, verb="list")
    served.passes()
    assert served.condition("Degraded")[:2] == ("True", "MissingRight")
    assert "may not list DaemonSets" in served.condition("Ready")[2]


def test_a_right_that_is_missing_in_one_namespace_leaves_others_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    served, asked = Served(), []

    def other_csv(_cluster: Cluster, namespace: str) -> None:
        asked.append(namespace)
        status = 404 if namespace == "c" else 403
        raise ApiError('User "u" cannot list resource "x" in API group', status, verb="list")

    monkeypatch.setattr(module, "other_csv", other_csv)
    for namespace in ("a", "a", "b", "c", "b", "d"):
        served.operator._other_csv(namespace)
    assert asked == ["a", "b", "c"]
