# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user reads when rights, the cluster, or an image are missing: one sentence with the remedy."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import MANIFESTS, OPERATOR
from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import rules
from tests.cluster import Cluster
from tests.running import ROOT, WRITES

from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Install,
    Kubectl,
    Module,
    Playbook,
    eventually,
    new_namespace,
)
from .test_controller import log
from .test_controller_quiet import annotation

JAVA = {"java11": "registry.example.com/team/java11:2.1"}
USER = "project-admin"


@pytest.fixture
def project(cluster: Cluster, namespace: str) -> str:
    """A namespace in which USER is an administrator, and nothing outside it."""
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "rolebinding", "project-admin", "--clusterrole=admin", f"--user={USER}", "-n", namespace)
    return namespace


def test_without_rights_outside_the_namespace_the_rest_is_installed_and_the_missing_rights_are_named(
    cluster: Cluster, project: str, module: Module, kubectl: Kubectl
) -> None:
    cluster.kubectl("delete", "priorityclass", "image-puller-cache", "--ignore-not-found")
    result = module("install", images=JAVA, impersonate_user=USER)
    warnings = "\n".join(w if isinstance(w, str) else w["event"]["msg"] for w in result["warnings"])
    assert "PriorityClass image-puller-cache was left out" in warnings
    assert (
        'Grant with a ClusterRole: apiGroups ["scheduling.k8s.io"], resources ["priorityclasses"], '
        'verbs ["get", "create", "patch"]' in warnings
    )
    assert "under pressure the cache does not give way before the users' pods" in warnings
    assert "ClusterRole kubecache-image-puller-nodes was left out" in warnings
    assert kubectl.get("deployment", DEPLOYMENT)
    config_map = kubectl.get("configmap", CONFIG_MAP)
    assert config_map
    assert "PRIORITY_CLASS" not in config_map["data"]
    assert module("install", images=JAVA, impersonate_user=USER)["changed"] is False


def test_what_was_asked_for_is_not_left_out(project: str, module: Module) -> None:
    told = module("install", images=JAVA, impersonate_user=USER, create_priority_class=True, ok=False)["msg"]
    assert "PriorityClass" in told
    assert 'Grant with a ClusterRole: apiGroups ["scheduling.k8s.io"]' in told


def test_without_the_right_to_read_nodes_the_report_says_that_it_inferred(
    cluster: Cluster, project: str, module: Module, install: Install
) -> None:
    cluster.push(JAVA["java11"])
    install(JAVA, controller=False, impersonate_user=USER)
    info = module("info", impersonate_user=USER)
    assert info["inferred"] is True
    assert info["verdict"] == "Healthy", info
    assert info["summary"]["nodes"] == 2
    assert module("info")["inferred"] is False


@pytest.mark.thorough
def test_where_nodes_are_not_to_be_read_nobody_gets_the_right_and_what_is_told_is_inferred(
    cluster: Cluster, playbook: Playbook, module: Module, kubectl: Kubectl
) -> None:
    cluster.push(JAVA["java11"])
    binding = f"kubecache-image-puller-nodes-{kubectl.namespace}"

    def bound() -> bool:
        return bool(cluster.kubectl("get", "clusterrolebinding", binding, "--ignore-not-found"))

    sentence = "The nodes were not read: what is said of them is inferred from the pods"
    first = " ".join(playbook("install", images=JAVA).stdout.split())
    assert bound()
    assert sentence not in first
    second = playbook("install", images=JAVA, read_nodes=False)
    assert second.changed == 1
    assert not bound()
    assert sentence in " ".join(second.stdout.split())
    assert playbook("install", images=JAVA, read_nodes=False).changed == 0
    told = " ".join(playbook("status", read_nodes=False).stdout.split())
    assert f"Healthy: DaemonSet {kubectl.namespace}/" in told
    assert sentence in told
    info = module("info", read_nodes=False)
    assert (info["verdict"], info["inferred"], info["summary"]["nodes"]) == ("Healthy", True, len(cluster.nodes))

    # A controller that may not read them does its work all the same.
    cluster.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=controller", "-n", kubectl.namespace)
    eventually(lambda: "Until then the nodes are inferred from the cache's pods" in log(cluster, kubectl), 60)
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", kubectl.namespace)
    eventually(lambda: kubectl.get("daemonset", DAEMONSET), 30)
    eventually(lambda: '"verdict": "Healthy"' in annotation(kubectl), 60)


GROUPS = {
    "apps": ("deployments", "daemonsets"),
    "rbac.authorization.k8s.io": ("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
    "scheduling.k8s.io": ("priorityclasses",),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "che.eclipse.org": ("kubernetesimagepullers",),
}


def documented_rights() -> dict[bool, list[dict[str, Any]]]:
    """The rules of a ClusterRole (True) and of a Role that the README lists for whoever installs."""
    text = (ROOT / "README.md").read_text().partition("### The rights that the installer needs")[2]
    namespaced, _head, rest = text.partition("The rest is left out")
    verbs = r"((?:`\w+`(?:,| and)?\s+)+)"
    named = re.findall(rf"{verbs}on ((?:[A-Z]\w+s|pods|events)(?:(?:,| and)\s+[A-Z]\w+s)*)", namespaced)
    wide = [(told, names) for names, told in re.findall(r"^\| ([a-z, ]+): ((?:`\w+`,? ?)+)\|", rest, re.MULTILINE)]
    both = rf"all rights of.*?given to it; {verbs}on\s+the CustomResourceDefinition .*? and {verbs}on"
    operator = re.search(both, rest, re.DOTALL)
    assert operator
    wide.append((operator.group(1), "customresourcedefinitions"))
    named.append((operator.group(2), "kubernetesimagepullers"))

    def read(found: list[tuple[str, str]]) -> list[dict[str, Any]]:
        return [
            {"apiGroups": [next((g for g, kinds in GROUPS.items() if kind in kinds), "")]}
            | {"resources": [kind], "verbs": re.findall(r"`(\w+)`", told)}
            for told, names in found
            for kind in re.findall(r"\w+", names.replace(" and ", " ").lower())
        ]

    return {True: read(wide), False: read(named)}


@pytest.mark.thorough
@pytest.mark.parametrize("method", [MANIFESTS, OPERATOR])
def test_the_rights_that_the_readme_lists_are_enough(
    cluster: Cluster, namespace: str, module: Module, method: str
) -> None:
    rights = documented_rights()
    assert [len(found) for found in rights.values()] == [6, 9]
    user, name = "installer", f"installer-{namespace}"
    metadata = {"name": name, "namespace": namespace}
    role: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata}
    role["rules"] = [*rights[False], *(rules() if method == OPERATOR else ())]
    cluster.kubectl("create", "namespace", namespace)
    cluster_role = role | {"kind": "ClusterRole", "metadata": {"name": name}, "rules": rights[True]}
    for made in (role, cluster_role):
        cluster.kubectl("create", "-f", "-", input=json.dumps(made))
    cluster.kubectl("create", "rolebinding", name, f"--role={name}", f"--user={user}", "-n", namespace)
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={user}")
    try:
        cluster.push(JAVA["java11"])
        more: dict[str, Any] = {"install_method": method, "impersonate_user": user}
        made = module("install", images=JAVA, create_priority_class=True, read_nodes=True, wait=True, **more)
        assert {"PriorityClass", "ClusterRole", "ClusterRoleBinding"} <= {kept["kind"] for kept in made["objects"]}
        module("daemonset", wait=True, wait_timeout=120, impersonate_user=user)
        assert not module("install", images=JAVA, wait=True, **more)["changed"]
        for what in ("config", "daemonset"):
            module(what, state="absent", sets="all", impersonate_user=user)
        module("install", state="absent", impersonate_user=user)
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", name)


def test_a_missing_right_is_told_with_the_rule_to_grant_and_nothing_is_half_done_silently(
    cluster: Cluster, namespace: str, module: Module
) -> None:
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "role", "r", "--verb=get,list", "--resource=configmaps,serviceaccounts", "-n", namespace)
    cluster.kubectl("create", "rolebinding", "r", "--role=r", "--user=reader", "-n", namespace)
    # All is read before the first is written.
    unread = module("install", images=JAVA, impersonate_user="reader", ok=False)
    assert unread["msg"].startswith(f"could not get Deployment {namespace}/kubecache-image-puller-operator: ")
    assert unread["msg"].endswith('resources ["deployments"], verbs ["get"]')
    others = "roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io,deployments.apps"
    cluster.kubectl("create", "role", "others", "--verb=get", f"--resource={others}", "-n", namespace)
    cluster.kubectl("create", "rolebinding", "others", "--role=others", "--user=reader", "-n", namespace)
    result = module("install", images=JAVA, impersonate_user="reader", ok=False)
    assert result["msg"].startswith(f"could not patch ServiceAccount {namespace}/image-puller-cache: ")
    assert result["msg"].endswith(
        f'Grant with a Role in namespace {namespace}: apiGroups [""], resources ["serviceaccounts"], '
        'verbs ["get", "create", "patch"]'
    )
    assert result["objects"] == []


def test_a_namespace_that_is_not_to_be_created(module: Module, namespace: str) -> None:
    told = module("install", images=JAVA, create_namespace=False, ok=False)["msg"]
    assert told == f"Namespace {namespace} does not exist. Create it, or let create_namespace be true"


def test_check_mode_in_a_namespace_that_does_not_exist_tells_all_and_makes_nothing(
    cluster: Cluster, module: Module, namespace: str
) -> None:
    for kind, name in (
        ("clusterrole", "kubecache-image-puller-nodes"),
        ("priorityclass", "image-puller-cache"),
    ):
        cluster.kubectl("delete", kind, name, "--ignore-not-found")
    mark = cluster.audit_mark()
    installed = module("install", images=JAVA, check=True)
    kept = module("daemonset", settings=installed["settings"], check=True)
    assert {o["kind"]: o["action"] for o in installed["objects"]} == dict.fromkeys(
        (
            "Namespace",
            "PriorityClass",
            "ServiceAccount",
            "ConfigMap",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "Deployment",
        ),
        "created",
    )
    assert len(installed["diff"]) == len(installed["objects"]) == 10
    assert kept["action"] == "created"
    assert kept["verdict"] == "Absent"
    events = [e for e in cluster.audit(mark) if e["verb"] in WRITES and "admin" in e["user"]]
    assert events, "the dry runs are not in the audit"
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    assert cluster.kubectl("get", "clusterrole", "kubecache-image-puller-nodes", "--ignore-not-found") == ""
    assert cluster.kubectl("get", "priorityclass", "image-puller-cache", "--ignore-not-found") == ""


def test_bad_settings_are_told_all_at_once_and_nothing_is_asked_of_the_cluster(
    cluster: Cluster, module: Module
) -> None:
    mark = cluster.audit_mark()
    told = module("install", images="a;Foo=x/Y:1", caching_memory_request="30Mi", deployment_name="Bad_Name", ok=False)[
        "msg"
    ]
    assert told.startswith("The settings have 5 problems; nothing was changed.\n- deployment_name 'Bad_Name': ")
    assert "- images, entry 1 'a': there is no '='" in told
    assert "- caching_memory_request '30Mi': it is above the limit caching_memory_limit (20Mi, " in told
    assert [event for event in cluster.audit(mark) if "admin" in event["user"]] == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"wait": "ture"}, "image_puller_wait 'ture': it is neither true nor false. Remedy: write true or false."),
        (
            {"report": "state.htm"},
            "image_puller_report: the form of state.htm is not known; its name must end in .html",
        ),
        ({"wait_timeout": -1}, "wait_timeout '-1': it is below 0. Remedy: write 0 or more."),
        ({"min_nodes": -1}, "min_nodes '-1': it is below 0. Remedy: write 0 or more."),
        ({"on_timeout": "ignore"}, "value of on_timeout must be one of: fail, warn, got: ignore"),
    ],
)
def test_what_can_not_be_waited_for_or_written_is_refused_before_anything_is_changed(
    cluster: Cluster, playbook: Playbook, given: dict[str, Any], sentence: str
) -> None:
    mark = cluster.audit_mark()
    assert sentence in " ".join(playbook("install", images=JAVA, ok=False, **given).stdout.split())
    writes = [event["uri"] for event in cluster.audit(mark) if "admin" in event["user"] and event["verb"] in WRITES]
    assert writes == []


def test_a_controller_image_that_cannot_be_pulled_is_told_with_the_remedy(module: Module) -> None:
    missing = "ghcr.io/kubecache/no-such-image:9"
    told = module("install", images=JAVA, image=missing, wait=True, wait_timeout=60, ok=False)["msg"]
    assert f"its image {missing} can't be pulled (not_found). The kubelet says: " in told
    assert "Build and push the controller's image as the README says (make image)" in told


def test_an_image_that_cannot_be_pulled_ends_the_wait_with_image_nodes_class_and_remedy(
    cluster: Cluster, module: Module, install: Install
) -> None:
    cluster.push(JAVA["java11"])
    images = {**JAVA, "gone": "registry.example.com/team/gone:1"}
    settings = install(images, wait=False, controller=False)[0]["settings"]
    result = module("daemonset", settings=settings, wait=True, wait_timeout=60, ok=False)
    assert result["msg"].startswith("gone (registry.example.com/team/gone:1) failed on ")
    assert "not_found. The kubelet says: " in result["msg"]
    assert "Remedy: correct the tag or the repository, or push the image." in result["msg"]
    assert result["verdict"] == "Degraded"


def test_no_connection_is_one_sentence(module: Module, tmp_path: pathlib.Path, cluster: Cluster) -> None:
    nowhere = tmp_path / "kubeconfig"
    text = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    text["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere.write_text(json.dumps(text), encoding="utf-8")
    told = module("info", kubeconfig=str(nowhere), ok=False)["msg"]
    assert "127.0.0.1" in told
    assert "\n" not in told
    assert "Traceback" not in told


def test_credentials_that_are_not_accepted_are_one_sentence(
    module: Module, tmp_path: pathlib.Path, cluster: Cluster
) -> None:
    expired = tmp_path / "kubeconfig"
    text = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    text["users"][0]["user"] = {"token": "s3cret-of-somebody"}
    expired.write_text(json.dumps(text), encoding="utf-8")
    told = module("info", kubeconfig=str(expired), ok=False)["msg"]
    assert "credentials" in told
    assert "\n" not in told
    assert "s3cret-of-somebody" not in told


def test_what_others_use_stays_until_they_are_going(cluster: Cluster, namespace: str, module: Module) -> None:
    """A DaemonSet elsewhere keeps the PriorityClass, and one whose namespace is just being deleted does not."""
    labels = {"app": "guest"}
    guest = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "guest", "finalizers": ["example.com/hold"]},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "priorityClassName": "image-puller-cache",
                    "nodeSelector": {"nowhere": "at-all"},
                    "containers": [{"name": "guest", "image": "example.com/guest:1"}],
                },
            },
        },
    }
    with new_namespace(cluster) as elsewhere:
        cluster.kubectl("create", "namespace", elsewhere)
        cluster.kubectl("apply", "-n", elsewhere, "-f", "-", input=json.dumps(guest))
        try:
            module("install", images=JAVA, controller=False)
            kept = [told for told in module("install", state="absent")["left"] if "PriorityClass" in told]
            assert kept
            assert f"{elsewhere}/guest" in kept[0]
            eventually(lambda: cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == "")
            module("install", images=JAVA, controller=False)
            cluster.kubectl("delete", "namespace", elsewhere, "--wait=false")
            left = module("install", state="absent")["left"]
            assert f"{elsewhere}/guest" not in " ".join(left)
        finally:
            freed = '{"metadata": {"finalizers": null}}'
            cluster.kubectl("patch", "daemonset", "guest", "-n", elsewhere, "--type=merge", "-p", freed)
