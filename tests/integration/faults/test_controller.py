# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's process is killed, or is there twice."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.cluster import Cluster

from ..conftest import DAEMONSET, eventually, installer_of, our_writes, stays
from ..test_controller import runs
from .conftest import IMAGES, PATIENCE, Cache, installed

HOLD = "example.com/hold"


def deny_creating(cluster: Cluster, namespace: str) -> None:
    """Let nobody make a DaemonSet in the namespace, and wait until that counts."""
    version = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["daemonsets"]}
    policy = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "false"}]}
    within = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {"policyName": "no-daemonset", "validationActions": ["Deny"], "matchResources": within}
    name = {"metadata": {"name": "no-daemonset"}}
    items = [
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", **name, "spec": policy},
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", **name, "spec": binding},
    ]
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    probe = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }

    def denied() -> bool:
        command = ["kubectl", "create", "--dry-run=server", "-f", "-"]
        return "denied request" in cluster.run(command, input=json.dumps(probe), check=False).stderr

    eventually(denied, 30)


def allow_creating(cluster: Cluster) -> None:
    kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy"
    cluster.kubectl("delete", kinds, "no-daemonset", "--ignore-not-found")


@pytest.mark.thorough
def test_killed_in_the_middle_of_a_recreate(cluster: Cluster) -> None:
    """Its DaemonSet is stuck in deletion, so it deletes it for good; creating is held up until it was killed."""
    with installed(cluster) as cache:
        before = cache.held()
        pod = cache.pods()[0]["metadata"]["name"]
        cache.patch("pod", pod, {"metadata": {"finalizers": [HOLD]}})
        deny_creating(cluster, cache.namespace)
        try:
            remove = ["delete", "daemonset", DAEMONSET, "-n", cache.namespace, "--wait=false"]
            cluster.kubectl(*remove, "--cascade=foreground")
            eventually(lambda: cache.get("daemonset", DAEMONSET) is None, 60)
            eventually(lambda: "denied request" in cache.log(), 30)
            cache.signal_controller(signal.SIGKILL, cache.controller())
            eventually(lambda: cache.restarts() == 1, 30)
            assert cache.get("daemonset", DAEMONSET) is None
        finally:
            allow_creating(cluster)
        assert eventually(lambda: cache.get("daemonset", DAEMONSET), PATIENCE)
        cache.patch("pod", pod, {"metadata": {"finalizers": None}})
        cache.healthy()
        assert cache.daemonset()["metadata"]["uid"] != before.daemonset
        assert cache.on_nodes() == before.images
        assert len(cache.list("daemonset")) == 1


def test_killed_at_any_time_takes_nothing_away(cluster: Cluster, cache: Cache) -> None:
    before, restarts = cache.held(), cache.restarts()
    cache.signal_controller(signal.SIGKILL, cache.controller())
    eventually(lambda: cache.restarts() == restarts + 1, 60)
    cache.obeys()
    assert cache.held() == before


@pytest.mark.thorough
def test_sigterm_while_the_api_server_is_away(cluster: Cluster, cache: Cache) -> None:
    """It ends at once, and the process after it starts without an API server."""
    before, restarts, pod = cache.held(), cache.restarts(), cache.controller()
    cluster.component_stop("kube-apiserver")
    try:
        cache.signal_controller(signal.SIGTERM, pod)
        eventually(lambda: not runs(cluster, pod), seconds=5, pause=0.05)
        time.sleep(10)
    finally:
        cluster.component_start("kube-apiserver")
    cache.obeys()
    assert cache.held() == before
    eventually(lambda: cache.restarts() > restarts)


@pytest.mark.thorough
def test_controller_and_playbook_at_once_while_the_list_changes(cluster: Cluster, cache: Cache) -> None:
    """Both hear of the new list at the same moment, and both may write it."""
    before, later = cache.held(), "registry.example.com/faults/later:1"
    cluster.push(later)
    lists = [{**IMAGES, "later": later}, {"later": later, **IMAGES}, IMAGES]
    for number, images in enumerate(lists, start=1):
        installer_of(cache.module)(images)
        cache.healthy()
        assert cache.images() == list(images.values())
        stays(lambda: cache.daemonset()["metadata"]["generation"], seconds=5)
        after = cache.held()
        assert (after.daemonset, after.generation) == (before.daemonset, before.generation + number)
    assert "is paused until" not in cache.log()
    assert cache.on_nodes() >= before.images


@pytest.mark.thorough
def test_two_controllers_at_once(cluster: Cluster, cache: Cache) -> None:
    before = cache.held()
    cache.scale(2)
    try:
        for _ in range(3):
            cache.obeys()

        def at_peace() -> bool:
            mark = cluster.audit_mark()
            time.sleep(5)
            return our_writes(cluster, mark, cache.namespace) == []

        eventually(at_peace, 30)
        assert cache.held() == before
        cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", cache.namespace)
        eventually(lambda: cache.get("daemonset", DAEMONSET), 30)
        uid = cache.daemonset()["metadata"]["uid"]
        cache.healthy()
        stays(lambda: cache.daemonset()["metadata"]["uid"], seconds=3)
        assert cache.daemonset()["metadata"]["uid"] == uid, "one took away what the other had made"
    finally:
        cache.scale(1)
