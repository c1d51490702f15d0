# SPDX-License-Identifier: GPL-3.0-or-later
"""In the place of the known Go implementation, and beside it: with its objects, under its Role, and after it.

What stands in for the known controller here is a stand-in (stand_in.py) with its documented behaviour.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import IMAGE
from tests.cluster import Cluster

from . import known
from .conftest import CONFIG_MAP, DAEMONSET, DEPLOYMENT, Kubectl, Module, Playbook, eventually, new_namespace, stays

JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"
KNOWN_LABELS = {"test": "daemonset-test", "app.kubernetes.io/name": "image-puller"}


@pytest.fixture(scope="module", autouse=True)
def pushed(cluster: Cluster) -> None:
    """The images that are cached, and the stand-in's."""
    for reference in (JAVA, THEIA):
        cluster.push(reference)
    known.push_stand_in(cluster)


def images(kubectl: Kubectl) -> list[str]:
    return sorted(c["image"] for c in kubectl.daemonset()["spec"]["template"]["spec"]["containers"])


def uid(kubectl: Kubectl) -> str:
    return str(kubectl.daemonset()["metadata"]["uid"])


def holds(kubectl: Kubectl, *references: str) -> bool:
    """Assert that the DaemonSet has these images, and a pod on each node all of whose containers run."""
    assert images(kubectl) == sorted(references)
    status = kubectl.daemonset()["status"]
    assert status.get("observedGeneration") == kubectl.daemonset()["metadata"]["generation"]
    assert status.get("numberReady") == status["desiredNumberScheduled"] == 2
    assert status.get("updatedNumberScheduled") == 2
    return True


def log(cluster: Cluster, kubectl: Kubectl) -> str:
    return cluster.kubectl("logs", "-n", kubectl.namespace, f"deployment/{DEPLOYMENT}", "--tail=-1")


def restart(cluster: Cluster, kubectl: Kubectl) -> None:
    """As somebody does who changed the ConfigMap of the known implementation."""
    cluster.kubectl("rollout", "restart", f"deployment/{DEPLOYMENT}", "-n", kubectl.namespace)
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", kubectl.namespace, "--timeout=60s")


# --- our image in its Deployment, under its Role ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(cluster: Cluster, pushed: None) -> Iterator[Kubectl]:
    """What the known project's chart makes, with nothing but the image replaced by ours."""
    with new_namespace(cluster) as namespace:
        data = known.config_map(namespace, IMAGES=f"java11={JAVA};")
        known.apply(cluster, namespace, *known.rights(), data, known.deployment(IMAGE))
        kubectl = Kubectl(cluster, namespace)
        eventually(lambda: kubectl.get("daemonset", DAEMONSET), 60)
        eventually(lambda: holds(kubectl, JAVA), 60)
        yield kubectl


def test_under_the_known_role_it_says_once_what_is_missing_and_what_that_costs(
    cluster: Cluster, narrow: Kubectl
) -> None:
    told = log(cluster, narrow)
    for sentence in (
        "The settings are taken from the environment of the process",
        f"the right to patch DaemonSets in {narrow.namespace} is missing: a change of the settings deletes the "
        "DaemonSet and creates it anew",
        'apiGroups ["apps"], resources ["daemonsets"], verbs ["patch"]',
        "nothing is known of the images on the nodes",
        "the nodes are inferred from the cache's pods",
    ):
        assert told.count(sentence) == 1, sentence


def test_under_the_known_role_a_deleted_daemonset_is_back_at_once(cluster: Cluster, narrow: Kubectl) -> None:
    before = uid(narrow)
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", narrow.namespace, "--wait=false")
    eventually(
        lambda: (narrow.get("daemonset", DAEMONSET) or {"metadata": {"uid": before}})["metadata"]["uid"] != before
    )
    eventually(lambda: holds(narrow, JAVA))


def test_under_the_known_role_nothing_is_recreated_while_the_settings_stay_the_same(
    cluster: Cluster, narrow: Kubectl
) -> None:
    before = uid(narrow)
    restart(cluster, narrow)
    change = [{"op": "replace", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Always"}]
    narrow.patch("daemonset", DAEMONSET, change, "json")
    eventually(lambda: "imagePullPolicy, may not be patched, and stays" in log(cluster, narrow), 60)
    stays(lambda: uid(narrow), seconds=3)
    assert uid(narrow) == before


def test_under_the_known_role_a_change_of_the_settings_makes_the_daemonset_anew(
    cluster: Cluster, narrow: Kubectl
) -> None:
    before = uid(narrow)
    narrow.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"java11={JAVA};theia={THEIA};"}})
    restart(cluster, narrow)
    eventually(lambda: holds(narrow, JAVA, THEIA), 60)
    assert uid(narrow) != before
    assert "was made from other settings, and may not be patched" in log(cluster, narrow)


def test_under_a_role_without_list_it_looks_at_its_daemonset_by_name(cluster: Cluster, narrow: Kubectl) -> None:
    """As the Role was before: the known controller lists nothing."""
    rules = [{"apiGroups": ["apps"], "resources": ["daemonsets", "deployments"], "verbs": ["create", "delete", "get"]}]
    narrow.patch("role", known.ROLE, {"rules": rules})
    narrow.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": f"theia={THEIA};"}})
    restart(cluster, narrow)
    eventually(lambda: holds(narrow, THEIA), 60)
    assert "Until then the DaemonSet is looked at once a minute" in log(cluster, narrow)


@pytest.mark.thorough
def test_what_templates_made_is_driven_by_our_image(cluster: Cluster, namespace: str, kubectl: Kubectl) -> None:
    """With nothing but the parameters IMAGE and IMAGE_TAG changed, under the Role that the Templates make."""
    listed = f"java11={JAVA};\n  theia={THEIA};\n"
    known.apply(cluster, namespace, *known.from_templates(namespace, IMAGE, IMAGES=listed))
    eventually(lambda: kubectl.get("daemonset", DAEMONSET), 60)
    eventually(lambda: holds(kubectl, JAVA, THEIA), 60)
    before = uid(kubectl)
    restart(cluster, kubectl)
    stays(lambda: uid(kubectl), seconds=3)
    assert uid(kubectl) == before


# --- the known controller with our ConfigMap and our helper -----------------------------------------------------------


def test_our_config_map_and_our_helper_image_drive_the_known_controller(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl
) -> None:
    known.apply(cluster, namespace)
    written = module("config", images={"java11": JAVA, "theia": THEIA}, max_unavailable="50%", tolerations="[]")
    assert written["changed"]
    known.apply(cluster, namespace, *known.rights(), known.deployment())
    eventually(lambda: kubectl.get("daemonset", DAEMONSET), 60)
    eventually(lambda: holds(kubectl, JAVA, THEIA), 60)
    assert kubectl.daemonset()["spec"]["selector"]["matchLabels"] == KNOWN_LABELS
    cluster.kubectl("delete", "deployment", DEPLOYMENT, "-n", namespace)  # It takes its DaemonSet along.
    eventually(lambda: kubectl.get("daemonset", DAEMONSET) is None, 60)


# --- ours after it ----------------------------------------------------------------------------------------------------


@pytest.fixture
def running(cluster: Cluster, namespace: str, kubectl: Kubectl) -> Kubectl:
    """The known implementation with settings of its own, and with entries that it drops without a word."""
    listed = f"java11=registry.example.com/team/java11:1;java11={JAVA};no-image;theia={THEIA};"
    data = known.config_map(
        namespace,
        IMAGES=listed,
        CACHING_MEMORY_LIMIT="30Mi",
        CACHING_INTERVAL_HOURS="4",
        TOLERATIONS='[{"operator": "Exists", "key": "gpu"}]',
        DAEMONSET_ANNOTATIONS='{"example.com/team": "platform"}',
    )
    known.apply(cluster, namespace, *known.rights(), data, known.deployment())
    eventually(lambda: kubectl.get("daemonset", DAEMONSET), 60)
    eventually(lambda: holds(kubectl, JAVA, THEIA), 60)
    return kubectl


def test_what_templates_made_is_taken_over(cluster: Cluster, namespace: str, kubectl: Kubectl, module: Module) -> None:
    listed = f"java11={JAVA};\n  theia={THEIA};\n"
    made = known.from_templates(namespace, IMAGES=listed, CACHING_MEMORY_LIMIT="30Mi")
    known.apply(cluster, namespace, *made)
    eventually(lambda: kubectl.get("daemonset", DAEMONSET), 60)
    eventually(lambda: holds(kubectl, JAVA, THEIA), 60)
    before, since = uid(kubectl), time.time()
    module("install", daemonset=True, wait=True)
    eventually(lambda: holds(kubectl, JAVA, THEIA), 60)
    assert uid(kubectl) == before
    assert [request for request in cluster.registry_requests(since) if "/team/" in request["path"]] == []
    (deployment,) = kubectl.list("deployment")
    assert [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]] == [IMAGE]
    assert "priorityClassName" not in deployment["spec"]["template"]["spec"]
    assert [role["metadata"]["name"] for role in kubectl.list("role")] == ["k8s-image-puller"]
    for container in kubectl.daemonset()["spec"]["template"]["spec"]["containers"]:
        assert container["resources"]["limits"]["memory"] == "30Mi"
    assert not module("install", daemonset=True, wait=True)["changed"]


def settled(kubectl: Kubectl) -> tuple[Any, ...]:
    """What of the known implementation must not change by itself."""
    pods = sorted(pod["metadata"]["uid"] for pod in kubectl.list("pod"))
    kinds = ("role", "rolebinding", "serviceaccount", "configmap")
    return pods, uid(kubectl), [[o["metadata"]["name"] for o in kubectl.list(kind)] for kind in kinds]


@pytest.mark.thorough
def test_migrate_prints_the_variables_for_what_runs_and_changes_nothing(running: Kubectl, playbook: Playbook) -> None:
    before = settled(running)
    told = playbook("migrate").stdout
    for line in (
        f"image_puller_namespace: {running.namespace}",
        f"  java11: {JAVA}",
        f"  theia: {THEIA}",
        "image_puller_caching_memory_limit: 30Mi",
        "image_puller_caching_interval_hours: '4'",
        "  key: gpu",
        "IMAGES, entry 3 'no-image': there is no '=' between name and image.",
    ):
        assert line in told, told
    assert settled(running) == before


@pytest.mark.thorough
def test_taking_over_leaves_every_image_where_it_is_and_nothing_of_the_known_one(
    cluster: Cluster, running: Kubectl, playbook: Playbook, module: Module
) -> None:
    before = settled(running)
    since = time.time()

    # What must not be: other names, and a controller that could delete its DaemonSet all the same.
    told = module("install", ok=False, deployment_name="puller", daemonset=True)["msg"]
    assert f"Remedy: install with deployment_name={DEPLOYMENT}" in told
    account = f"--serviceaccount={running.namespace}:{known.ACCOUNT}"
    cluster.kubectl("create", "rolebinding", "more", "--clusterrole=edit", account, "-n", running.namespace)
    told = module("install", ok=False, daemonset=True)["msg"]
    assert f"its ServiceAccount {known.ACCOUNT} may do so" in told
    assert settled(running)[:2] == before[:2]
    cluster.kubectl("delete", "rolebinding", "more", "-n", running.namespace)

    # Check mode says it all.
    checked = module("install", check=True, daemonset=True)
    done = {(change["kind"], change["action"]) for change in checked["objects"]}
    assert {("Deployment", "patched"), ("Role", "deleted"), ("RoleBinding", "deleted")} <= done
    assert {("ConfigMap", "patched"), ("DaemonSet", "patched"), ("Role", "created")} <= done
    assert settled(running) == before

    run = playbook("install")
    holds(running, JAVA, THEIA)
    daemonset = running.daemonset()
    assert daemonset["metadata"]["uid"] == before[1]
    assert daemonset["spec"]["selector"]["matchLabels"] == KNOWN_LABELS
    assert daemonset["metadata"]["annotations"]["example.com/team"] == "platform"
    for container in daemonset["spec"]["template"]["spec"]["containers"]:
        assert container["resources"]["limits"]["memory"] == "30Mi"
        assert "args" not in container
        assert container["imagePullPolicy"] == "IfNotPresent"
    assert "name" not in daemonset["spec"]["template"]["metadata"]
    assert daemonset["spec"]["template"]["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    pulled = [request for request in cluster.registry_requests(since) if "/team/" in request["path"]]
    assert pulled == []
    assert "is taken over" in " ".join(run.stdout.split())
    assert "entry 3 'no-image': there is no '='" in " ".join(run.stdout.split())
    assert "entry 2" in run.stdout

    # One puller runs, and nothing is left of the known one.
    (deployment,) = running.list("deployment")
    assert [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]] == [IMAGE]
    assert [role["metadata"]["name"] for role in running.list("role")] == ["k8s-image-puller"]
    assert [binding["metadata"]["name"] for binding in running.list("rolebinding")] == ["k8s-image-puller"]
    controllers = [pod for pod in running.list("pod") if pod["metadata"]["labels"].get("app") == DEPLOYMENT]
    assert len(controllers) == 1

    # What was taken over stays until somebody says otherwise, and an image that leaves the list leaves the DaemonSet.
    assert playbook("install").changed == 0
    playbook("install", images={"theia": THEIA}, caching_memory_limit="20Mi")
    holds(running, THEIA)
    (container,) = running.daemonset()["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "20Mi"
    data = (running.get("configmap", CONFIG_MAP) or {})["data"]
    assert (data["CACHING_INTERVAL_HOURS"], data["CACHING_MEMORY_LIMIT"]) == ("4", "20Mi")
    assert uid(running) == before[1]

    playbook("uninstall")
    assert [o for kind in ("deployment", "daemonset", "role", "rolebinding") for o in running.list(kind)] == []
