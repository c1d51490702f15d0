# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenShift has that other clusters have not, as far as an API server with minimal types of it goes.

Nothing here is OpenShift. What answers requests for projects is a stand-in: it makes the namespace, with the rights and
annotations that OpenShift's API server documents, and takes it away with the project. See docs/INSTALLING.md.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster

from .conftest import CONFIG_MAP, DAEMONSET, DEPLOYMENT, Kubectl, Module, eventually
from .test_preflight import crd

USER = "developer"
JAVA = {"java11": "registry.example.com/openshift/java11:2.1"}
TYPES = (
    ("route.openshift.io", "Route", "routes"),
    ("project.openshift.io", "Project", "projects"),
    ("project.openshift.io", "ProjectRequest", "projectrequests"),
)


def names(cluster: Cluster, kind: str) -> dict[str, dict[str, Any]]:
    told = json.loads(cluster.kubectl("get", kind, "-o", "json"))
    return {item["metadata"]["name"]: item for item in told["items"]}


def grant_project(cluster: Cluster, request: dict[str, Any]) -> None:
    """What a request for a project makes: a namespace, its administrator, and the project as its owner sees it."""
    name = request["metadata"]["name"]
    annotations = {"openshift.io/description": request.get("description", ""), "openshift.io/requester": USER}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    project = {"apiVersion": "project.openshift.io/v1", "kind": "Project", "metadata": {"name": name}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "admin", "namespace": name},
        "roleRef": role,
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }
    for obj in (namespace, binding, project):
        cluster.kubectl("apply", "-f", "-", input=json.dumps(obj))
    cluster.kubectl("delete", "projectrequest", name)


def serve_projects(cluster: Cluster, ended: threading.Event) -> None:
    """The stand-in, until it is told to end."""
    granted: set[str] = set()
    while not ended.wait(0.3):
        for name, request in names(cluster, "projectrequests").items():
            grant_project(cluster, request)
            granted.add(name)
        for name in granted - names(cluster, "projects").keys():
            cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
            granted.discard(name)


@contextlib.contextmanager
def bound(cluster: Cluster, name: str, *rules: dict[str, Any]) -> Iterator[None]:
    """USER has these rights in the whole cluster."""
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": list(rules)}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": USER}],
    }
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": [role, binding]})
    cluster.kubectl("apply", "-f", "-", input=bundle)
    try:
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", input=bundle)


@pytest.fixture(name="openshift")
def _openshift(cluster: Cluster) -> Iterator[None]:
    """The types, the stand-in, and a user with the rights that OpenShift gives to everybody."""
    bundle_items = [crd(*type_) for type_ in TYPES]
    for definition in bundle_items[1:]:
        definition["spec"]["scope"] = "Cluster"
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": bundle_items})
    own = {"apiGroups": ["project.openshift.io"], "resources": ["projects", "projectrequests"]}
    rights = {**own, "verbs": ["get", "list", "create", "delete"]}
    ended = threading.Event()
    server = threading.Thread(target=serve_projects, args=(cluster, ended), daemon=True)
    try:
        cluster.kubectl("apply", "-f", "-", input=bundle)
        for group, _kind, plural in TYPES:
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{plural}.{group}", "--timeout=30s")
        server.start()
        with bound(cluster, "self-provisioner", rights):
            yield
    finally:
        ended.set()
        if server.is_alive():
            server.join(30)
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=bundle)
        named = [f"{plural}.{group}" for group, _kind, plural in TYPES]
        conditions = "jsonpath={range .items[*]}{.metadata.name} {.status.conditions}{end}"

        def nothing_is_left() -> bool:  # An API server may take its time for the objects of a type that ends.
            told = cluster.kubectl("get", "crd", *named, "--ignore-not-found", "-o", conditions)
            assert told == "", told
            return True

        eventually(nothing_is_left, 240)


def warnings_of(result: dict[str, Any]) -> str:
    return "\n".join(w if isinstance(w, str) else w["event"]["msg"] for w in result["warnings"])


@pytest.mark.thorough
@pytest.mark.usefixtures("openshift")
def test_who_may_create_no_namespace_requests_a_project(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl
) -> None:
    def install(**options: Any) -> dict[str, Any]:
        return module("install", images=JAVA, daemonset=True, impersonate_user=USER, **options)

    refused = install(create_namespace=False, ok=False)["msg"]
    assert refused.startswith(f"Namespace {namespace} does not exist")
    rehearsed = install(check=True)
    assert {"kind": "ProjectRequest", "name": f"ProjectRequest {namespace}", "action": "created", "fields": []} in (
        rehearsed["objects"]
    )
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    made = install()
    assert [told["name"] for told in made["objects"]] == [told["name"] for told in rehearsed["objects"]]
    assert f"Project {namespace} has no annotation openshift.io/node-selector" in warnings_of(made)
    for kind, name in (("configmap", CONFIG_MAP), ("deployment", DEPLOYMENT), ("daemonset", DAEMONSET)):
        found = kubectl.get(kind, name)
        assert found, kind
        assert "runAsUser" not in json.dumps(found.get("spec", {}))
    assert not install()["changed"]

    # Who can't see all that is in a project does not delete it; a reader of the whole cluster can.
    module("config", state="absent", sets="all", impersonate_user=USER)
    module("daemonset", state="absent", sets="all", impersonate_user=USER)
    stays = module("install", state="absent", impersonate_user=USER)["left"]
    assert any(f"Namespace {namespace} stays: can't tell whether it is empty" in sentence for sentence in stays)
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}
    with bound(cluster, "cluster-reader", everything):
        removed = module("install", state="absent", impersonate_user=USER)
        assert f"Namespace {namespace}" in [told["name"] for told in removed["objects"]]
        eventually(lambda: cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == "")


@pytest.mark.usefixtures("openshift")
def test_a_namespace_that_is_made_keeps_the_clusters_node_selector_away(
    cluster: Cluster, namespace: str, module: Module
) -> None:
    module("install", images=JAVA)
    annotations = names(cluster, "namespaces")[namespace]["metadata"]["annotations"]
    assert annotations["openshift.io/node-selector"] == ""
