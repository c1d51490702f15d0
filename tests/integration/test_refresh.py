# SPDX-License-Identifier: GPL-3.0-or-later
"""A tag that is moved in its registry reaches every node, and costs nothing while it stays where it is."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import strategy_of
from tests.cluster import Cluster
from tests.unit.registry_server import Handler, answer, make_certificate, serving

from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Kubectl,
    eventually,
    installer_of,
    modules_of,
    new_namespace,
    our_writes,
    until_all_is_told,
)
from .test_controller import ask

MOVING, STILL = "registry.example.com/refresh/moving:1", "registry.example.com/refresh/still:1"
PRIVATE = "registry.example.com/refresh-private/moving:1"
USER, PASSWORD = "reader", "se cret"
INTERVAL = 5.0  # Seconds


IMAGES = {"moving": MOVING, "still": STILL, "private": PRIVATE}


def options(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """Of the installation, besides its images."""
    return {
        "image_pull_secrets": "team",
        "caching_interval_hours": str(INTERVAL / 3600),
        "max_unavailable": "1",
        "registry_mirrors": {"registry.example.com": cluster.registry},
        "registry_insecure": [f"http://{cluster.registry}"],
        **more,
    }


def log(kubectl: Kubectl) -> str:
    """What the controller that runs now has said."""
    pods = kubectl.list("pod", "-l", "app.kubernetes.io/component=controller")
    (pod,) = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return kubectl.cluster.kubectl("logs", "-n", kubectl.namespace, pod["metadata"]["name"])


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Kubectl]:
    """A set of three moving tags, one of them private, whose registry is asked every five seconds."""
    for reference in (MOVING, STILL, PRIVATE):
        cluster.push(reference, files={"/version": "0"})
    cluster.registry_fault("refresh-private/", "auth", user=USER, password=PASSWORD)
    with new_namespace(cluster) as namespace:
        cluster.kubectl("create", "namespace", namespace)
        server = [
            "--docker-server=registry.example.com/refresh-private",
            f"--docker-username={USER}",
            f"--docker-password={PASSWORD}",
        ]
        cluster.kubectl("create", "secret", "docker-registry", "team", "-n", namespace, *server)
        module = modules_of(cluster, namespace)
        installer_of(module)(IMAGES, **options(cluster))
        yield Kubectl(cluster, namespace)
    cluster.registry_clear()


def told(cluster: Cluster, kubectl: Kubectl, name: str) -> dict[str, int]:
    """On how many nodes each digest of an image is, as image_puller_info tells."""
    (image,) = [i for i in modules_of(cluster, kubectl.namespace)("info")["images"] if i["name"] == name]
    return dict(image["digests"])


def holders(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The pods of the set's own DaemonSet."""
    return kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")


def digests(kubectl: Kubectl, name: str) -> set[str]:
    """What the set's pods hold of an image."""
    return {
        status["imageID"].rpartition("@")[2]
        for pod in holders(kubectl)
        for status in pod["status"].get("containerStatuses") or ()
        if status["name"] == name and "running" in status["state"]
    }


def on_nodes(cluster: Cluster, reference: str) -> set[str]:
    """What a tag stands for on the nodes, as their runtimes tell."""
    return {cluster.node(node).images()[reference] for node in cluster.nodes}


class Watcher:
    """Looks all the time at how many of the set's pods are away, and whether the short-lived ones are there."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.least, self.kubectl, self.seen, self._end = 99, kubectl, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._end.is_set():
            pods = holders(self.kubectl)
            self.least = min(self.least, sum(not p["metadata"].get("deletionTimestamp") for p in pods))
            self.seen |= {d["metadata"]["name"] for d in self.kubectl.list("daemonset")}
            time.sleep(0.1)


def is_quiet(kubectl: Kubectl) -> bool:
    """Whether no refresh is under way, and each pod runs."""
    pods = holders(kubectl)
    running = all(p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp") for p in pods)
    return len(kubectl.list("daemonset")) == 1 and len(pods) == len(kubectl.cluster.nodes) and running


def run_on_each_node(cluster: Cluster, kubectl: Kubectl, reference: str) -> set[str]:
    """The digests that pods with exactly this reference and IfNotPresent run, one on each node."""
    for node in cluster.nodes:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"user-{node}", "labels": {"test": "user"}},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": reference, "imagePullPolicy": "IfNotPresent"}],
            },
        }
        cluster.kubectl("apply", "-n", kubectl.namespace, "-f", "-", input=json.dumps(pod))

    def all_run() -> list[dict[str, Any]]:
        pods = kubectl.list("pod", "-l", "test=user")
        return pods if all(p["status"].get("phase") == "Running" for p in pods) else []

    try:
        pods = eventually(all_run, seconds=60)
        return {pod["status"]["containerStatuses"][0]["imageID"].rpartition("@")[2] for pod in pods}
    finally:
        cluster.kubectl("delete", "pod", "-n", kubectl.namespace, "-l", "test=user", "--wait=true")


def test_while_no_tag_moves_it_is_asked_for_once_an_interval_and_nothing_is_written(
    cluster: Cluster, installed: Kubectl
) -> None:
    until_all_is_told(cluster, installed.namespace)
    pods = {pod["metadata"]["uid"] for pod in holders(installed)}
    mark, since = cluster.audit_mark(), time.time()
    time.sleep(4 * INTERVAL)
    assert our_writes(cluster, mark, installed.namespace) == []
    assert {pod["metadata"]["uid"] for pod in holders(installed)} == pods
    asked = [r for r in cluster.registry_requests(since) if "/refresh/" in r["path"]]
    assert {request["method"] for request in asked} == {"HEAD"}
    assert 2 * 3 <= len(asked) <= 2 * 5, asked  # Two public tags, every five seconds more or less a tenth.


def test_a_moved_tag_reaches_every_node_and_is_run_with_the_registry_switched_off(
    cluster: Cluster, installed: Kubectl
) -> None:
    (old,), still = digests(installed, "moving"), digests(installed, "still")
    generation = installed.daemonset()["metadata"]["generation"]
    before = {pod["metadata"]["uid"] for pod in holders(installed)}
    with Watcher(installed) as watched:
        new = cluster.push(MOVING, files={"/version": "1"})
        assert new != old
        eventually(lambda: told(cluster, installed, "moving") == {old: 1, new: 1}, seconds=120)
        eventually(lambda: digests(installed, "moving") == {new}, seconds=120)
        eventually(lambda: is_quiet(installed), seconds=60)
    after = {pod["metadata"]["uid"] for pod in holders(installed)}
    assert watched.least >= len(cluster.nodes) - 1
    assert watched.seen == {DAEMONSET, f"{DAEMONSET}-refresh"}
    assert (len(after), after & before) == (len(cluster.nodes), set())  # As many pods restarted as there are nodes.
    assert installed.daemonset()["metadata"]["generation"] == generation
    assert digests(installed, "still") == still
    assert on_nodes(cluster, MOVING) == {new}
    cluster.registry_stop()
    try:
        assert run_on_each_node(cluster, installed, MOVING) == {new}
    finally:
        cluster.registry_start()


@pytest.mark.thorough
def test_the_controller_asks_with_the_pull_secret_which_is_all_that_it_may_read(
    cluster: Cluster, installed: Kubectl
) -> None:
    role = installed.get("role", "k8s-image-puller")
    assert role
    (secrets,) = [rule for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert (secrets["verbs"], secrets["resourceNames"]) == (["get"], ["team"])
    new = cluster.push(PRIVATE, files={"/version": "1"})
    eventually(lambda: digests(installed, "private") == {new}, seconds=120)
    eventually(lambda: is_quiet(installed), seconds=60)


@pytest.mark.thorough
def test_a_registry_that_goes_away_in_the_middle_leaves_the_old_image_in_use(
    cluster: Cluster, installed: Kubectl
) -> None:
    (old,) = digests(installed, "moving")
    cluster.registry_fault("refresh/", "slow", bytes_per_second=200_000)
    try:
        new = cluster.push(MOVING, size_mb=40, seed="middle", files={"/version": "2"})
        eventually(lambda: installed.get("daemonset", f"{DAEMONSET}-refresh"), seconds=60, pause=0.1)
    finally:
        cluster.registry_stop()
    try:
        refreshing = f"{DAEMONSET}-refresh"
        eventually(lambda: installed.get("daemonset", refreshing) is None, seconds=180)  # It is given up.
        assert digests(installed, "moving") == {old}
        assert run_on_each_node(cluster, installed, MOVING) == {old}
    finally:
        cluster.registry_clear()
        cluster.registry_fault("refresh-private/", "auth", user=USER, password=PASSWORD)
        cluster.registry_start()
    eventually(lambda: digests(installed, "moving") == {new}, seconds=180)


@pytest.mark.thorough
def test_a_registry_that_only_the_nodes_reach_is_said_once_and_only_a_restart_that_is_asked_for_brings_the_tag(
    cluster: Cluster, installed: Kubectl
) -> None:
    module = modules_of(cluster, installed.namespace)
    module("install", images=IMAGES, wait=True, **options(cluster, registry_insecure=[]))  # The controller asks by TLS.
    (old,), generation = digests(installed, "moving"), installed.daemonset()["metadata"]["generation"]
    pods = {pod["metadata"]["uid"] for pod in holders(installed)}
    new = cluster.push(MOVING, files={"/version": "unreached"})

    def said_why() -> bool:
        assert "what tags stand for could not be asked: " in log(installed)
        return True

    eventually(said_why, seconds=90)
    unknown = f'image_puller_tags_unknown{{image_set="{CONFIG_MAP}"}} '
    eventually(lambda: f"{unknown}{len(IMAGES)}.0" in ask(cluster, installed, "/metrics"), seconds=90)
    about = {event["involvedObject"]["name"] for event in installed.list("event") if event["reason"] == "TagsUnknown"}
    assert about == {DAEMONSET}
    time.sleep(4 * INTERVAL)
    assert log(installed).count("could not be asked") == 1
    assert (digests(installed, "moving"), on_nodes(cluster, MOVING)) == ({old}, {old})
    assert ({pod["metadata"]["uid"] for pod in holders(installed)}, len(installed.list("daemonset"))) == (pods, 1)
    installed.patch("configmap", CONFIG_MAP, {"data": {"REFRESH": "restart"}})
    with Watcher(installed) as watched:
        eventually(lambda: digests(installed, "moving") == {new}, seconds=120)
    assert watched.least >= len(cluster.nodes) - 1
    assert f"{unknown}0.0" in ask(cluster, installed, "/metrics"), "nobody asks any more"
    eventually(lambda: not pods & {pod["metadata"]["uid"] for pod in holders(installed)})
    assert installed.daemonset()["metadata"]["generation"] == generation
    installed.patch("configmap", CONFIG_MAP, {"data": {"REFRESH": "digest"}})
    eventually(lambda: is_quiet(installed), seconds=120)


@pytest.mark.thorough
def test_a_registry_whose_authority_is_ones_own_is_asked_in_spite_of_a_proxy_for_others(
    cluster: Cluster, installed: Kubectl, tmp_path: pathlib.Path
) -> None:
    """A mirror with TLS in the cluster's network hands on to the registry. The way to the API has no proxy."""
    address = cluster.registry.rpartition(":")[0]
    certificate = make_certificate(tmp_path, address)
    module = modules_of(cluster, installed.namespace)

    def hand_on(handler: Handler) -> bool:
        headers = {key: value for key in ("Accept", "Authorization") if (value := handler.headers.get(key))}
        connection = http.client.HTTPConnection(cluster.registry, timeout=10)
        with contextlib.closing(connection):
            connection.request(handler.command, handler.path, headers=headers)
            told = connection.getresponse()
            kept = {key: value for key, value in told.getheaders() if key.startswith(("Docker", "Content-Type", "WWW"))}
            return answer(handler, told.status, told.read(), **kept)

    with serving(certificate, address) as mirror:
        mirror.behave = hand_on
        given = options(
            cluster,
            registry_mirrors={"registry.example.com": mirror.host},
            registry_insecure="",
            registry_ca_config_map="authorities",
            registry_proxy={"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": address},
        )
        warned = module("install", images=IMAGES, check=True, **given)["warnings"]
        assert f"ConfigMap {installed.namespace}/authorities with the registries' authorities is not" in json.dumps(
            warned
        )
        cluster.kubectl(
            "create", "configmap", "authorities", "-n", installed.namespace, f"--from-file={certificate[0]}"
        )
        module("install", images=IMAGES, wait=True, **given)
        new = cluster.push(MOVING, files={"/version": "authority"})
        eventually(lambda: digests(installed, "moving") == {new}, seconds=120)
        assert "could not be asked" not in log(installed)
        assert {seen.method for seen in mirror.seen} >= {"HEAD"}
        eventually(lambda: is_quiet(installed), seconds=60)
    module("install", images=IMAGES, wait=True, **options(cluster))
    deployment = installed.get("deployment", DEPLOYMENT)
    assert deployment
    assert "volumes" not in deployment["spec"]["template"]["spec"]


@pytest.mark.thorough
def test_a_moved_tag_reaches_image_volumes_of_which_only_the_nodes_lists_tell(
    cluster: Cluster, installed: Kubectl
) -> None:
    installed.patch("configmap", CONFIG_MAP, {"data": {"STRATEGY": "image_volume"}})
    eventually(lambda: {strategy_of(pod["spec"]) for pod in holders(installed)} == {"image_volume"}, seconds=90)
    eventually(lambda: is_quiet(installed), seconds=60)
    before = {pod["metadata"]["uid"] for pod in holders(installed)}
    with Watcher(installed) as watched:
        new = cluster.push(MOVING, files={"/version": "3"})
        eventually(lambda: on_nodes(cluster, MOVING) == {new}, seconds=240)
        eventually(lambda: is_quiet(installed), seconds=120)
    assert not before & {pod["metadata"]["uid"] for pod in holders(installed)}
    assert watched.least >= len(cluster.nodes) - 1
    cluster.registry_stop()
    try:
        assert run_on_each_node(cluster, installed, MOVING) == {new}
    finally:
        cluster.registry_start()


@pytest.mark.thorough
def test_never_refreshes_nothing(cluster: Cluster, installed: Kubectl) -> None:
    eventually(lambda: is_quiet(installed), seconds=60)
    installed.patch("configmap", CONFIG_MAP, {"data": {"REFRESH": "never"}})
    time.sleep(2)
    since = time.time()
    cluster.push(STILL, files={"/version": "9"})
    time.sleep(2 * INTERVAL)
    assert not [r for r in cluster.registry_requests(since) if r["method"] == "HEAD" and "/refresh/" in r["path"]]
    assert len(installed.list("daemonset")) == 1
