# SPDX-License-Identifier: GPL-3.0-or-later
"""The API server is away, forgets, refuses, or can't be reached: nothing is lost, and the controller goes on after."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster import Cluster, ClusterError

from ..conftest import CONFIG_MAP, Kubectl, Playbook, eventually
from .conftest import JAVA, PATIENCE, THEIA, Cache, Held, installed

STOPPED, CUT = 60, 120  # seconds
ROLE = "k8s-image-puller"


@dataclass(frozen=True)
class Outage:
    """What two minutes did. `near` lost the API server for one of them; `far` was cut off all the time, with
    connections that nobody closed."""

    near: Cache
    far: Cache
    near_before: Held
    near_after: Held
    near_restarts: int
    far_before: Held
    far_during: Held
    meanwhile: frozenset[tuple[str, str, str]]  # on the nodes, with the API server away


@pytest.fixture(scope="module")
def outage(cluster: Cluster, cache: Cache) -> Iterator[Outage]:
    """Two faults side by side, because they consist of waiting."""
    with installed(cluster, {"java11": JAVA}) as far:
        near_before, near_restarts, far_before = cache.held(), cache.restarts(), far.held()
        end = time.monotonic() + CUT
        with cluster.cut_off(far.controller()["status"]["podIP"]):
            far.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={THEIA}"}})
            cluster.component_stop("kube-apiserver")
            time.sleep(STOPPED)
            meanwhile = cache.on_nodes()
            cluster.component_start("kube-apiserver")
            near_after = cache.held()
            time.sleep(max(0.0, end - time.monotonic()))
            far_during = far.held()
        yield Outage(cache, far, near_before, near_after, near_restarts, far_before, far_during, meanwhile)


@pytest.mark.thorough
def test_api_server_stopped_for_a_minute(outage: Outage) -> None:
    assert outage.meanwhile == outage.near_before.images
    assert outage.near_after == outage.near_before
    outage.near.obeys()
    assert outage.near.held() == outage.near_before
    assert outage.near.restarts() == outage.near_restarts


@pytest.mark.thorough
def test_controller_cut_off_for_two_minutes_with_half_open_connections(outage: Outage) -> None:
    """The API server that its connections led to is gone, too, and it was never told."""
    assert outage.far_during == outage.far_before
    eventually(lambda: outage.far.images() == [JAVA, THEIA], PATIENCE)
    outage.far.healthy(PATIENCE)
    assert outage.far.daemonset()["metadata"]["uid"] == outage.far_before.daemonset
    assert outage.far.on_nodes() >= outage.far_before.images


@pytest.mark.thorough
def test_api_server_away_while_an_installation_waits(cluster: Cluster, namespace: str, playbook: Playbook) -> None:
    image, kubectl = "registry.example.com/slow-faults/image:1", Kubectl(cluster, namespace)
    cluster.push(image, size_mb=40)
    cluster.registry_fault("slow-faults/", "slow", bytes_per_second=1_000_000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        play = pool.submit(playbook, "install", images={"slow": image}, controller=False)
        try:
            eventually(lambda: len(kubectl.list("pod")) == len(cluster.nodes), 60)
            time.sleep(10)  # The play waits by now, and has told of it.
            cluster.component_stop("kube-apiserver")
            time.sleep(15)
            cluster.component_start("kube-apiserver")
        finally:
            cluster.registry_clear()
        run = play.result()
    assert re.search(r"^\[localhost\] \d+ s: .*does not answer", run.stdout, re.MULTILINE), run.stdout
    assert "1 of 1 image cached on both nodes" in run.stdout


@pytest.mark.thorough
def test_watch_history_gone(cluster: Cluster, cache: Cache) -> None:
    before, restarts = cache.held(), cache.restarts()
    path = f"/api/v1/namespaces/{cache.namespace}/configmaps"
    version = json.loads(cluster.kubectl("get", "--raw", path))["metadata"]["resourceVersion"]
    cluster.kubectl("create", "configmap", "later", "-n", cache.namespace)
    cluster.forget_history()
    watch = f"{path}?watch=1&timeoutSeconds=5&resourceVersion={version}"
    told = cluster.run(["kubectl", "get", "--raw", watch], check=False)
    assert "too old resource version" in told.stdout + told.stderr, "the history is still there"
    cache.obeys()
    assert cache.held() == before
    assert cache.restarts() == restarts


def codes(cluster: Cluster, cache: Cache, mark: int) -> set[int]:
    """What the API server has answered the controller since the mark."""
    user = f"system:serviceaccount:{cache.namespace}:k8s-image-puller"
    return {entry["code"] for entry in cluster.audit(mark) if entry["user"] == user}


def apply(cluster: Cluster, *objects: dict[str, object]) -> None:
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


@contextlib.contextmanager
def no_end(cluster: Cluster, cache: Cache) -> Iterator[None]:
    """Requests of the controller's account that hang in admission, one after another: whoever asks is never alone."""
    token = cluster.kubectl("create", "token", "k8s-image-puller", "-n", cache.namespace).strip()
    host = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    address, ended = urllib.parse.urlsplit(host).netloc, threading.Event()
    namespace = {"namespace": cache.namespace}
    event = {
        "metadata": {"name": "no-end", **namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Namespace", "name": cache.namespace, **namespace},
    }
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def ask() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPSConnection(address, timeout=40, context=context)
                with contextlib.closing(connection):
                    path = f"/api/v1/namespaces/{cache.namespace}/events?dryRun=All"
                    connection.request("POST", path, json.dumps(event), headers)
                    connection.getresponse().read()
            ended.wait(0.05)

    # It takes connections, and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent, concurrent.futures.ThreadPoolExecutor(4) as pool:
        webhook = {
            "name": "silent.example.com",
            "clientConfig": {"url": f"https://127.0.0.1:{silent.getsockname()[1]}/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["events"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cache.namespace}},
            "matchConditions": [{"name": "ours", "expression": "request.name == 'no-end'"}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 20,
        }
        configuration = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        try:
            apply(cluster, {**configuration, "metadata": {"name": "silent"}, "webhooks": [webhook]})
            for _ in range(4):
                pool.submit(ask)
            yield
        finally:
            ended.set()
            cluster.kubectl("delete", "validatingwebhookconfiguration", "silent", "--ignore-not-found")


@pytest.mark.thorough
def test_api_server_answers_429_for_a_while(cluster: Cluster, cache: Cache) -> None:
    """The API server's own flow control gives the controller no seat; a request that is alone gets in all the same."""
    before, restarts = cache.held(), cache.restarts()
    version, name = "flowcontrol.apiserver.k8s.io/v1", {"metadata": {"name": "no-seat"}}
    seats = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0}
    level = {"type": "Limited", "limited": {**seats, "limitResponse": {"type": "Reject"}}}
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": "k8s-image-puller", "namespace": cache.namespace}}
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "namespaces": ["*"], "clusterScope": True}
    rule = {"subjects": [subject], "resourceRules": [everything]}
    flow = {"priorityLevelConfiguration": {"name": "no-seat"}, "matchingPrecedence": 2, "rules": [rule]}
    try:
        apply(
            cluster,
            {
                "apiVersion": version,
                "kind": "PriorityLevelConfiguration",
                **name,
                "spec": level,
            },
            {"apiVersion": version, "kind": "FlowSchema", **name, "spec": flow},
        )

        def refused() -> bool:
            done = cache.wish()
            time.sleep(2)
            return not done() and bool(re.search("Too Many Requests|too many 429", cache.log()))

        with no_end(cluster, cache):
            eventually(refused, 90)
            time.sleep(10)
    finally:
        cluster.kubectl("delete", "flowschema,prioritylevelconfiguration", "no-seat", "--ignore-not-found")
    cache.obeys()
    assert cache.held() == before
    assert cache.restarts() == restarts


@pytest.mark.thorough
def test_api_server_answers_500_for_a_while(cluster: Cluster, cache: Cache) -> None:
    """An admission webhook that is not there makes the API server answer so to every change."""
    before, restarts, mark = cache.held(), cache.restarts(), cluster.audit_mark()
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["daemonsets"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": cache.namespace}}
    webhook = {
        "name": "nobody.example.com",
        "clientConfig": {"service": {"namespace": cache.namespace, "name": "nobody"}},
        "rules": [rule],
        "namespaceSelector": selector,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    configuration = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    try:
        apply(cluster, {**configuration, "metadata": {"name": "nobody"}, "webhooks": [webhook]})

        def refused() -> bool:
            done = cache.wish()
            time.sleep(2)
            return not done() and 500 in codes(cluster, cache, mark)

        eventually(refused, 60)
        time.sleep(10)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", "nobody", "--ignore-not-found")
    cache.obeys()
    assert cache.held() == before
    assert cache.restarts() == restarts


def test_role_taken_away_and_given_back(cluster: Cluster, cache: Cache) -> None:
    before = cache.held()
    rules = (cache.get("role", ROLE) or {})["rules"]
    try:
        cache.patch("role", ROLE, {"rules": []})
        eventually(lambda: cannot(cluster, cache), 20)
        done = cache.wish()
        cluster.kubectl("delete", "pod", "-n", cache.namespace, "-l", "app.kubernetes.io/component=controller")
        eventually(lambda: "Grant with a Role" in cache.log(), 60)
        assert not done()
    finally:
        cache.patch("role", ROLE, {"rules": rules})
    eventually(done, PATIENCE)
    assert cache.held() == before
    assert cache.restarts() == 0


@pytest.mark.thorough
def test_role_taken_away_from_a_running_controller(cluster: Cluster, cache: Cache) -> None:
    """Its process goes on, says what it lacks, and does what was asked for meanwhile once it may."""
    before, pod, restarts = cache.held(), cache.controller()["metadata"]["uid"], cache.restarts()
    rules = (cache.get("role", ROLE) or {})["rules"]
    said = cache.log().count("Grant with a Role")
    try:
        cache.patch("role", ROLE, {"rules": []})
        eventually(lambda: cannot(cluster, cache), 20)
        done = cache.wish()
        eventually(lambda: cache.log().count("Grant with a Role") > said, 60)
        time.sleep(10)
        assert not done()
        assert cache.held() == before
    finally:
        cache.patch("role", ROLE, {"rules": rules})
    eventually(done, 2 * PATIENCE)  # It asks again after at most twice the time that it was without.
    cache.obeys()
    assert cache.held() == before
    assert (cache.controller()["metadata"]["uid"], cache.restarts()) == (pod, restarts)


def cannot(cluster: Cluster, cache: Cache) -> bool:
    account = f"--as=system:serviceaccount:{cache.namespace}:k8s-image-puller"
    try:
        cluster.kubectl("get", "daemonsets", "-n", cache.namespace, account)
    except ClusterError as error:
        return "forbidden" in str(error)
    return False
