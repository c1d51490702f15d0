# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks, called by name with nothing but variables, as a user or a job template calls them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.running import ROOT, ansible_environment

from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Kubectl,
    Module,
    Playbook,
    eventually,
    our_writes,
    until_all_is_told,
)

IMAGE = "registry.example.com/playbooks/java11:2.1"
IMAGES = {"java11": IMAGE}


def unanswered() -> dict[str, Any]:
    """Every question that a survey may ask, left unanswered: all variables of role and playbooks but the namespace."""
    defaults = yaml.safe_load((ROOT / "roles/image_puller/defaults/main.yml").read_text())
    return dict.fromkeys({name.removeprefix("image_puller_") for name in defaults} - {"namespace"} | {"hosts"}, "")


def warnings_of(result: dict[str, Any]) -> list[str]:
    """The warnings of a module's result, in whichever shape this version of Ansible has them."""
    return [told if isinstance(told, str) else told["event"]["msg"] for told in result["warnings"]]


@pytest.fixture(autouse=True)
def image(cluster: Cluster) -> None:
    cluster.push(IMAGE)


@pytest.mark.thorough
def test_a_second_installation_changes_nothing(cluster: Cluster, namespace: str, playbook: Playbook) -> None:
    first = playbook("install", images=IMAGES, refresh="never")  # Else it tells at some time what it knows of tags.
    assert first.changed >= 1
    assert "1 of 1 image cached on both nodes" in first.stdout
    until_all_is_told(cluster, namespace)
    mark = cluster.audit_mark()
    second = playbook("install", images=IMAGES, refresh="never")
    assert second.changed == 0
    assert our_writes(cluster, mark, "admin", namespace) == []


def test_check_mode_on_an_empty_cluster_names_every_object_and_makes_none(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl
) -> None:
    mark = cluster.audit_mark()
    told = playbook("install", "--check", "--diff", images=IMAGES).stdout
    for name in (
        f"Namespace {namespace}",
        f"ServiceAccount {namespace}/k8s-image-puller",
        f"ServiceAccount {namespace}/image-puller-cache",
        f"Role {namespace}/k8s-image-puller",
        f"RoleBinding {namespace}/k8s-image-puller",
        f"ClusterRoleBinding kubecache-image-puller-nodes-{namespace}",
        f"ConfigMap {namespace}/{CONFIG_MAP}",
        f"Deployment {namespace}/{DEPLOYMENT}",
        f"DaemonSet {namespace}/{DAEMONSET}",
    ):
        assert f"+++ after: {name} (created)" in told
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    written = [request for request in cluster.audit(mark) if request["verb"] in ("create", "patch", "update", "delete")]
    ours = [request for request in written if "admin" in request["user"]]
    assert [request["uri"] for request in ours if "dryRun=All" not in request["uri"]] == []
    assert ours, "the audit does not see our dry runs"


def test_the_health_check_mends_a_deleted_daemonset_once(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl
) -> None:
    playbook("install", images=IMAGES, controller=False)
    assert kubectl.get("deployment", DEPLOYMENT) is None
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", namespace)
    assert playbook("health_check").changed == 1
    assert kubectl.daemonset()
    again = playbook("health_check", health_check_fail=True)
    assert again.changed == 0
    assert "Healthy: DaemonSet" in again.stdout


def test_a_health_check_of_a_healthy_cache_changes_nothing_with_the_controller_at_work(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl
) -> None:
    """Both build the same, so that the generation stays, whoever of them looks."""
    playbook("install", images=IMAGES)
    before, mark = kubectl.daemonset()["metadata"], cluster.audit_mark()
    for _ in range(2):
        checked = playbook("health_check", health_check_fail=True)
        assert checked.rc == checked.changed == 0
        assert "Healthy: DaemonSet" in checked.stdout
    after = kubectl.daemonset()["metadata"]
    assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])
    assert our_writes(cluster, mark, "admin") == []


@pytest.mark.thorough
def test_an_image_that_breaks_is_reported_and_the_daemonset_is_not_made_again(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl
) -> None:
    playbook("install", images=IMAGES, controller=False)
    absent = "registry.example.com/playbooks/broken:absent"
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={IMAGE};broken={absent}"}})
    uid = kubectl.daemonset()["metadata"]["uid"]
    assert playbook("health_check").changed == 1  # The list in the ConfigMap is a new one.
    eventually(lambda: "not_found" in playbook("health_check").stdout)
    reported = playbook("health_check")
    assert reported.rc == reported.changed == 0
    assert f"broken ({absent}) failed on " in " ".join(reported.stdout.split())
    assert playbook("health_check", ok=False, health_check_fail=True).rc == 2
    assert kubectl.daemonset()["metadata"]["uid"] == uid


def test_a_daemonset_that_is_asked_for_anew_is_made_once_and_then_guarded(module: Module, kubectl: Kubectl) -> None:
    module("install", images=IMAGES, controller=False, daemonset=True)
    uid = kubectl.daemonset()["metadata"]["uid"]
    made = module("daemonset", recreate="always")
    assert made["action"] == "recreated"
    assert made["reasons"] == ["asked for by recreate=always"]
    second = kubectl.daemonset()["metadata"]["uid"]
    assert second != uid
    paused = module("daemonset", recreate="always")
    assert paused["action"] == "none"
    (warning,) = (warning for warning in warnings_of(paused) if warning.startswith("recreating is paused until "))
    assert "because it was recreated once, last at " in warning
    assert warning in paused["verdict_reasons"]
    assert kubectl.daemonset()["metadata"]["uid"] == second
    assert module("daemonset")["changed"] is False


@pytest.mark.thorough
def test_a_roll_that_waits_for_a_controller_that_does_not_run_is_told(
    cluster: Cluster, playbook: Playbook, module: Module, kubectl: Kubectl
) -> None:
    playbook("install", images=IMAGES)
    nowhere = {
        "strategy": {"type": "Recreate", "rollingUpdate": None},
        "template": {"spec": {"nodeSelector": {"x": "y"}}},
    }
    kubectl.patch("deployment", DEPLOYMENT, {"spec": nowhere})

    def available() -> int:
        found = kubectl.get("deployment", DEPLOYMENT)
        assert found
        return int(found["status"].get("availableReplicas", 0))

    def placed() -> list[str]:
        """One that is being ended is on its node still, and may exchange a pod."""
        pods = kubectl.list("pod", "-l", "app.kubernetes.io/component=controller")
        return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]

    eventually(lambda: available() == 0 and not placed())
    kubectl.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={IMAGE};again={IMAGE}"}})
    assert module("daemonset")["action"] == "patched"
    told = module("daemonset")
    assert told["changed"] is False
    assert told["verdict"] == "Progressing"
    assert (
        "the change has reached 0 of 2 nodes, and goes on only with the controller, but Deployment "
        f"{kubectl.namespace}/{DEPLOYMENT} is not available. Remedy: look at its pod, or install with controller=false"
    ) in warnings_of(told)


@pytest.mark.thorough
def test_a_health_check_that_may_fail_says_why(playbook: Playbook) -> None:
    absent = "registry.example.com/playbooks/java11:absent"
    told = playbook("install", images={"java11": absent}, controller=False, wait=False)
    assert "0 of 1 image cached on both nodes" in told.stdout
    failed = playbook("health_check", ok=False, health_check_fail=True)
    assert failed.rc == 2
    assert f"java11 ({absent}) failed on " in failed.stdout
    assert "not_found" in failed.stdout
    eventually(lambda: "Degraded: DaemonSet" in playbook("health_check").stdout)


def test_the_status_changes_nothing(cluster: Cluster, namespace: str, playbook: Playbook) -> None:
    playbook("install", images=IMAGES, controller=False)
    mark = cluster.audit_mark()
    told = playbook("status")
    assert told.changed == 0
    assert "java11     2      2       -       -      -" in told.stdout
    assert our_writes(cluster, mark, "admin", namespace) == []


@pytest.mark.thorough
def test_without_an_installation_one_sentence_says_so(playbook: Playbook, namespace: str) -> None:
    assert f"ConfigMap {namespace}/{CONFIG_MAP} does not exist" in playbook("status").stdout
    health = playbook("health_check", ok=False)
    assert f"ConfigMap {namespace}/{CONFIG_MAP} does not exist. There is no Image Puller." in health.stdout
    assert "IMAGE " not in health.stdout


@pytest.mark.thorough
def test_the_uninstallation_leaves_nothing(cluster: Cluster, namespace: str, playbook: Playbook) -> None:
    playbook("install", images=IMAGES)
    rehearsal = playbook("uninstall", "--check")
    assert "Nothing of the installation stays" in rehearsal.stdout
    assert rehearsal.changed == 3
    done = playbook("uninstall")
    assert "Nothing of the installation stays" in done.stdout
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    for kind in ("clusterrolebinding", "clusterrole", "priorityclass"):
        told = cluster.kubectl("get", kind, "-l", "app.kubernetes.io/managed-by=kubecache.image_puller", "-o", "name")
        assert namespace not in told
    assert playbook("uninstall").changed == 0


def test_the_uninstallation_keeps_a_namespace_with_something_else_in_it(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl
) -> None:
    playbook("install", images=IMAGES, wait=False)
    cluster.kubectl("create", "configmap", "foreign", "-n", namespace)
    told = playbook("uninstall").stdout
    assert f"Namespace {namespace} stays: it has ConfigMap {namespace}/foreign" in " ".join(told.split())
    assert kubectl.get("configmap", "foreign")
    assert kubectl.get("configmap", CONFIG_MAP) is None
    assert kubectl.get("daemonset", DAEMONSET) is None
    assert kubectl.get("deployment", DEPLOYMENT) is None


@pytest.mark.thorough
def test_unanswered_questions_of_a_survey_mean_the_defaults(playbook: Playbook, kubectl: Kubectl) -> None:
    playbook("install", **{**unanswered(), "images": f"java11={IMAGE};\n"})
    before = kubectl.get("configmap", CONFIG_MAP)
    assert before
    assert before["data"]["CACHING_MEMORY_LIMIT"] == "20Mi"
    assert kubectl.get("deployment", DEPLOYMENT)
    again = playbook("install", **{**unanswered(), "images": ""})
    assert again.changed == 0
    assert f"the list of ConfigMap {kubectl.namespace}/{CONFIG_MAP} is kept" in " ".join(again.stdout.split())
    assert playbook("health_check", **unanswered()).changed == 0
    assert playbook("status", **unanswered()).changed == 0
    assert "Nothing of the installation stays" in playbook("uninstall", **unanswered()).stdout


@pytest.mark.thorough
def test_answers_of_a_survey_are_text(playbook: Playbook, kubectl: Kubectl) -> None:
    playbook(
        "install",
        images=f"java11={IMAGE};\n",
        node_selector='{"kubernetes.io/os": "linux"}',
        tolerations="- operator: Exists",
        controller="false",
        wait="true",
        wait_timeout="120",
        max_unavailable="1",
    )
    assert kubectl.get("deployment", DEPLOYMENT) is None
    spec = kubectl.daemonset()["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1
    assert spec["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]


@pytest.mark.thorough
def test_a_play_of_the_users_own_imports_the_playbook(cluster: Cluster, namespace: str, tmp_path: pathlib.Path) -> None:
    site = tmp_path / "site.yml"
    variables = {"image_puller_namespace": namespace, "image_puller_images": IMAGES}
    site.write_text(
        json.dumps([{"ansible.builtin.import_playbook": "kubecache.image_puller.install", "vars": variables}])
    )
    inventory = tmp_path / "hosts"  # Names localhost, so that it is not Ansible's implicit one.
    inventory.write_text("[control]\nlocalhost\n")
    done = cluster.run(
        ["ansible-playbook", "-i", inventory, site],
        env=ansible_environment(cluster),
    )
    assert "1 of 1 image cached on both nodes" in done.stdout
