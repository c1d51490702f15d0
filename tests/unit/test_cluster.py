# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said when a request fails: verb, kind, namespace/name, reason, and for a missing right the rule to grant."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import kubernetes
import pytest
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import MaxRetryError, NewConnectionError

from ansible_collections.kubecache.image_puller.plugins.module_utils import cluster as module
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import (
    ApiError,
    Cluster,
    as_api_error,
    grant,
)
from tests.unit.registry_server import Handler, Server, answer, serving

FORBIDDEN = (
    'configmaps "k8s-image-puller" is forbidden: User "jane" cannot patch resource "configmaps" in API group "" '
    'in the namespace "puller"'
)
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "k8s-image-puller", "namespace": "puller"},
    "data": {},
}


class HttpError(Exception):
    """An answer of an API server as the client library raises it."""

    def __init__(self, status: int, reason: str = "", message: str = "", body: str | None = None) -> None:
        super().__init__(f"({status})")
        self.status = status
        self.reason = reason
        self.body = json.dumps({"reason": reason, "message": message}) if body is None else body


class Refusing:
    """A connection on which each request (but reading, unless that is told, too) fails with one error."""

    def __init__(self, error: Exception, *verbs: str) -> None:
        self._error = error
        self._verbs = verbs

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        raise self._error if method in self._verbs else HttpError(404, "NotFound", f"{path} not found")


class Answering:
    """A connection on which each request is answered by what was sent, which has to be text as in `apply`."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, str]] = []

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        self.sent.append((body, params["content_type"]))
        return SimpleNamespace(data=body)


def test_what_is_applied_goes_as_text_which_every_client_library_takes() -> None:
    client = Answering()
    assert Cluster(client).apply(CONFIG_MAP) == CONFIG_MAP
    assert client.sent == [(json.dumps(CONFIG_MAP), "application/apply-patch+yaml")]


ACTIONS: list[tuple[str, Callable[[Cluster], Any], str, str]] = [
    (
        "PATCH",
        lambda cluster: cluster.keep(CONFIG_MAP, live=None),
        "could not patch ConfigMap puller/k8s-image-puller",
        'Grant with a Role in namespace puller: apiGroups [""], resources ["configmaps"], verbs ["create", "patch"]',
    ),
    (
        "GET",
        lambda cluster: cluster.get("DaemonSet", "cache", "puller"),
        "could not get DaemonSet puller/cache",
        'Grant with a Role in namespace puller: apiGroups ["apps"], resources ["daemonsets"], verbs ["get"]',
    ),
    (
        "GET",
        lambda cluster: cluster.list("Node"),
        "could not list Nodes",
        'Grant with a ClusterRole: apiGroups [""], resources ["nodes"], verbs ["list"]',
    ),
    (
        "GET",
        lambda cluster: cluster.list("Pod", "puller"),
        "could not list Pods in puller",
        'Grant with a Role in namespace puller: apiGroups [""], resources ["pods"], verbs ["list"]',
    ),
    (
        "GET",
        lambda cluster: next(cluster.watch("ConfigMap", "puller", "1")),
        "could not watch ConfigMaps in puller",
        'Grant with a Role in namespace puller: apiGroups [""], resources ["configmaps"], verbs ["watch"]',
    ),
    (
        "DELETE",
        lambda cluster: cluster.delete("PriorityClass", "image-puller-cache"),
        "could not delete PriorityClass image-puller-cache",
        'Grant with a ClusterRole: apiGroups ["scheduling.k8s.io"], resources ["priorityclasses"], verbs ["delete"]',
    ),
]


@pytest.mark.parametrize(("method", "act", "target", "rule"), ACTIONS)
def test_a_missing_right_is_told_with_the_rule_to_grant(
    method: str, act: Callable[[Cluster], Any], target: str, rule: str
) -> None:
    with pytest.raises(ApiError) as failed:
        act(Cluster(Refusing(HttpError(403, "Forbidden", FORBIDDEN), method)))
    assert str(failed.value) == f"{target}: Forbidden: {FORBIDDEN}. {rule}"
    assert (failed.value.status, failed.value.reason, failed.value.forbidden) == (403, "Forbidden", True)


@pytest.mark.parametrize(
    "message",
    [
        'pods "x" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=5, limited: pods=5',
        'configmaps "x" is forbidden: unable to create new content in namespace puller because it is being terminated',
        'admission webhook "policy.example.com" denied the request: no label "team"',
    ],
)
def test_other_refusals_with_403_are_no_missing_right(message: str) -> None:
    with pytest.raises(ApiError) as failed:
        Cluster(Refusing(HttpError(403, "Forbidden", message), "PATCH")).keep(CONFIG_MAP, live=None)
    assert str(failed.value) == f"could not patch ConfigMap puller/k8s-image-puller: Forbidden: {message}"
    assert not failed.value.forbidden


def test_who_may_not_give_a_right_away_lacks_a_right_that_no_single_rule_grants() -> None:
    message = 'roles "x" is forbidden: user "jane" is attempting to grant RBAC permissions not currently held: {...}'
    error = as_api_error(HttpError(403, "Forbidden", message), "patch Role puller/x")
    assert error.forbidden
    assert str(error) == f"could not patch Role puller/x: Forbidden: {message}"


@pytest.mark.parametrize(
    ("error", "sentence", "transient"),
    [
        (
            HttpError(422, "Invalid", 'DaemonSet.apps "x" is invalid: spec.selector: field is immutable'),
            'could not act: Invalid: DaemonSet.apps "x" is invalid: spec.selector: field is immutable',
            False,
        ),
        (
            HttpError(401, "Unauthorized", "Unauthorized"),
            "could not act: the credentials are not accepted (expired?). Log in again",
            False,
        ),
        (HttpError(503, "Service Unavailable", body="<html>down</html>"), "could not act: Service Unavailable", True),
        (HttpError(500, body="[]"), "could not act: HTTP status 500", True),
        (HttpError(429, "TooManyRequests", "slow down"), "could not act: TooManyRequests: slow down", True),
        (
            ConnectionRefusedError(111, "Connection refused"),
            "could not act: the API server does not answer ([Errno 111] Connection refused). "
            "Check the kubeconfig, context or host, and the network",
            True,
        ),
        (
            MaxRetryError(
                HTTPSConnectionPool("127.0.0.1", 6443),
                "/api",
                NewConnectionError(HTTPSConnection("127.0.0.1", 6443), "Failed to establish a new connection: refused"),
            ),
            "could not act: the API server does not answer (Failed to establish a new connection: refused). "
            "Check the kubeconfig, context or host, and the network",
            True,
        ),
    ],
)
def test_every_failure_is_one_sentence(error: Exception, sentence: str, transient: bool) -> None:
    told = as_api_error(error, "act")
    assert (str(told), told.transient) == (sentence, transient)


def test_an_error_that_was_told_is_not_told_again() -> None:
    error = ApiError("could not act")
    assert as_api_error(error, "do something else") is error


def test_what_is_not_there_is_no_error() -> None:
    cluster = Cluster(Refusing(AssertionError()))
    assert cluster.get("ConfigMap", "x", "puller") is None
    assert cluster.delete("ConfigMap", "x", "puller") is False


def test_a_dry_run_in_a_namespace_that_would_be_made_first_says_created() -> None:
    change = Cluster(Refusing(AssertionError())).keep(CONFIG_MAP, live=None, dry_run=True)
    assert (change.action, change.name) == ("created", "ConfigMap puller/k8s-image-puller")


def test_the_namespace_decides_between_role_and_cluster_role() -> None:
    assert grant("Namespace", "patch", "puller").startswith("Grant with a ClusterRole: ")
    assert grant("Pod", "list", None).startswith("Grant with a ClusterRole: ")


@pytest.fixture
def served() -> Iterator[tuple[Cluster, Server]]:
    """A client as the controller has it, and the server that it asks."""
    with serving() as server:
        client = kubernetes.client.ApiClient(kubernetes.client.Configuration(host=f"http://{server.host}"))
        yield Cluster(kubernetes.dynamic.DynamicClient(client, discoverer=lambda *_: None)), server


def cut(handler: Handler) -> bool:
    handler.close_connection = True
    return answer(handler, 200, b'{"metadata": {"res', **{"Content-Length": "1000"})


def hang(handler: Handler) -> bool:
    cut(handler)
    handler.wfile.flush()
    time.sleep(0.5)
    return True


def page(handler: Handler) -> bool:
    return answer(handler, 200, b"<html>Log in to the proxy</html>", Content_Type="text/html")


def text(handler: Handler) -> bool:
    return answer(handler, 200, b'"ok"')


def binary(handler: Handler) -> bool:
    return answer(handler, 200, b"\xff\xfe\x00")


READS: list[tuple[Callable[[Cluster], Any], str, str]] = [
    (lambda cluster: cluster.get("Node", "node-1"), "could not get Node node-1: ", "get"),
    (lambda cluster: cluster.list("Pod", "puller"), "could not list Pods in puller: ", "list"),
    (lambda cluster: cluster.create(CONFIG_MAP), "could not create ConfigMaps in puller: ", "create"),
    (lambda cluster: cluster.raw("/version"), "could not read /version: ", "get"),
    (lambda cluster: list(cluster.watch("Pod", "puller", "1")), "could not watch Pods in puller: ", "watch"),
]


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (cut, "the API server does not answer"),
        (hang, "the API server does not answer"),
        (page, "the answer is no JSON object"),
        (text, "the answer is no JSON object"),
        (binary, "the answer is no JSON object"),
    ],
)
@pytest.mark.parametrize("asked", READS)
def test_a_body_that_is_cut_hangs_or_is_no_api_servers_is_an_error_of_the_request(
    served: tuple[Cluster, Server],
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[Callable[[Cluster], Any], str, str],
    behave: Callable[[Handler], bool],
    why: str,
) -> None:
    cluster, server = served
    read, target, verb = asked
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.2))
    server.behave = behave
    with pytest.raises(ApiError) as failed:
        read(cluster)
    assert str(failed.value).startswith(target + why)
    assert (failed.value.verb, failed.value.status, failed.value.transient) == (verb, 0, True)


def test_what_a_watch_told_before_it_was_cut_counts(served: tuple[Cluster, Server]) -> None:
    cluster, server = served
    event = json.dumps({"type": "ADDED", "object": CONFIG_MAP}).encode()

    def cut_off(handler: Handler) -> bool:
        handler.close_connection = True
        return answer(handler, 200, event + b"\n" + event[:20])

    server.behave = cut_off
    told = cluster.watch("ConfigMap", "puller", "1")
    assert next(told) == ("ADDED", CONFIG_MAP)
    with pytest.raises(ApiError, match="could not watch ConfigMaps in puller"):
        next(told)
    server.behave = lambda handler: answer(handler, 200, event + b"\n")
    assert [type_ for type_, _object in cluster.watch("ConfigMap", "puller", "1")] == ["ADDED"]
