# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator as documented, by hand: five manifests, then the resource; what its conditions say is true of the nodes.

The tests are steps with one installation, in this order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils import operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import IMAGE
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    CRD_NAME,
    owner_reference,
)
from tests.cluster import Cluster, ClusterError
from tests.running import ROOT

from . import known
from .conftest import (
    CONFIG_MAP,
    DAEMONSET,
    DEPLOYMENT,
    Kubectl,
    eventually,
    new_namespace,
    our_writes,
    stays,
    until_all_is_told,
)

STEPS = True
JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"
HANGS = "registry.example.com/hanging/image:1"
KIND = "kubernetesimagepuller"
FIVE = (
    "crds/che.eclipse.org_kubernetesimagepullers_crd.yaml",
    "role.yaml",
    "role_binding.yaml",
    "service_account.yaml",
    "operator.yaml",
)


class Puller(Kubectl):
    """The resources of one namespace."""

    def apply(self, obj: dict[str, Any]) -> str:
        """As a user does; what kubectl says."""
        return self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", input=json.dumps(obj))

    def wait(self, name: str = "puller", condition: str = "Ready", seconds: int = 90) -> None:
        """As documented: Ready means that the images are cached."""
        arguments = ("wait", f"--for=condition={condition}", f"{KIND}/{name}", f"--timeout={seconds}s")
        self.cluster.kubectl(*arguments, "-n", self.namespace)

    def condition(self, type_: str = "Ready", name: str = "puller") -> tuple[str, str, str]:
        """Status, reason and message, once they are about the spec as it is."""
        found = self.get(KIND, name)
        assert found, f"there is no resource {name}"
        for condition in found.get("status", {}).get("conditions", ()):
            if condition["type"] == type_:
                assert condition["observedGeneration"] == found["metadata"]["generation"], "not seen yet"
                return condition["status"], condition["reason"], condition["message"]
        raise AssertionError(f"there is no condition {type_}")

    def becomes(self, type_: str, status: str, reason: str, name: str = "puller") -> str:
        """Wait until a condition is that; its message."""

        def question() -> str:
            found = self.condition(type_, name)
            assert found[:2] == (status, reason), found
            return found[2]

        return eventually(question, 60)

    def log(self) -> str:
        """What the operator says."""
        return self.cluster.kubectl("logs", "-n", self.namespace, f"deployment/{operator.NAME}", "--tail=-1")

    def everything(self) -> list[str]:
        """What the operator and the controller made in the namespace."""
        kinds = "serviceaccount,role,rolebinding,configmap,deployment,daemonset"
        told = self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "name")
        ours = (CONFIG_MAP, DEPLOYMENT, DAEMONSET, "image-puller-cache")
        return [line for line in told.splitlines() if line.endswith(ours)]


def owners(puller: Puller) -> list[dict[str, Any]]:
    """Of the ConfigMap, by name."""
    found = puller.get("configmap", CONFIG_MAP)
    assert found
    return sorted(found["metadata"]["ownerReferences"], key=lambda owner: owner["name"])


def kept(puller: Puller) -> dict[str, str]:
    """The uids of all that was made, and of the cache's pods."""
    objects = [line.split("/") for line in puller.everything()]
    uids = {f"{kind} {name}": (puller.get(kind, name) or {})["metadata"]["uid"] for kind, name in objects}
    pods = puller.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")
    return uids | {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def resource(name: str = "puller", **spec: str) -> dict[str, Any]:
    return {
        "apiVersion": "che.eclipse.org/v1alpha1",
        "kind": "KubernetesImagePuller",
        "metadata": {"name": name},
        "spec": spec,
    }


def install_by_hand(cluster: Cluster, namespace: str) -> None:
    """The documented commands, and the wait for the operator."""
    cluster.kubectl("create", "namespace", namespace)
    for path in FIVE:
        cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "deploy/operator" / path))
    until_it_runs(cluster, namespace)


def until_it_runs(cluster: Cluster, namespace: str) -> None:
    wait = ("rollout", "status", f"deployment/{operator.NAME}", "--timeout=90s")
    cluster.kubectl(*wait, "-n", namespace)


def idle_deployment(name: str) -> dict[str, Any]:
    """A Deployment whose pod finds no node."""
    pod = {"containers": [{"name": "idle", "image": JAVA}], "nodeSelector": {"no": "node"}}
    labels = {"name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


@pytest.fixture(scope="module")
def puller(cluster: Cluster) -> Iterator[Puller]:
    """The operator, installed by the documented commands."""
    for reference in (JAVA, THEIA):
        cluster.push(reference)
    with new_namespace(cluster) as namespace:
        install_by_hand(cluster, namespace)
        try:
            yield Puller(cluster, namespace)
        finally:
            cluster.kubectl("delete", "crd", CRD_NAME, "--ignore-not-found", "--wait=false")


def images(puller: Puller) -> list[str]:
    return [c["image"] for c in puller.daemonset()["spec"]["template"]["spec"]["containers"]]


def test_the_resource_is_ready_when_its_images_are_on_the_nodes(cluster: Cluster, puller: Puller) -> None:
    puller.apply(resource(images=f"java11={JAVA}"))
    puller.wait()
    assert all(cluster.node(node).has_image(JAVA) for node in cluster.nodes)
    found = puller.get(KIND, "puller")
    assert found
    assert found["spec"] == {"images": f"java11={JAVA}"}  # Nothing is written into what the user wrote.
    status = found["status"]
    assert (status["progress"], status["images"], status["nodes"], status["failed"]) == ("2/2", 1, 2, 0)
    assert status["imagePullerImage"].startswith("ghcr.io/kubecache/image-puller:")
    assert puller.condition("Degraded")[0] == puller.condition("Progressing")[0] == "False"
    columns = cluster.kubectl("get", KIND, "puller", "-n", puller.namespace).splitlines()
    assert columns[0].split() == ["NAME", "READY", "CACHED", "FAILED", "NODES", "REASON", "AGE"]
    assert columns[1].split()[1:6] == ["True", "2/2", "0", "2", "Healthy"]


def test_the_definition_explains_itself(cluster: Cluster, puller: Puller) -> None:
    told = cluster.kubectl("explain", f"{KIND}.spec")
    assert "The images to cache, as name=image" in told
    assert "Default: 20Mi" in told


def test_a_changed_list_reaches_the_nodes_without_a_rollout_of_the_controller(cluster: Cluster, puller: Puller) -> None:
    before = puller.get("deployment", DEPLOYMENT)
    daemonset = puller.daemonset()["metadata"]["uid"]
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};theia={THEIA}"}})
    puller.wait()
    assert images(puller) == [JAVA, THEIA]
    assert all(cluster.node(node).has_image(THEIA) for node in cluster.nodes)
    after = puller.get("deployment", DEPLOYMENT)
    assert before
    assert after
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert puller.daemonset()["metadata"]["uid"] == daemonset


def test_what_the_definition_can_tell_the_api_server_refuses(puller: Puller) -> None:
    for field, text, said in (
        ("cachingMemoryLimit", "20 MB", "write a Kubernetes quantity"),
        ("nodeSelector", "disktype=ssd", "write a JSON object"),
        ("images", "java11", "write name=image;name=image"),
        ("cachingIntervalHours", "0", "write a number of hours above 0"),
        ("daemonsetName", "Puller", "write the name of a Kubernetes object"),
    ):
        with pytest.raises(ClusterError) as refused:
            puller.patch(KIND, "puller", {"spec": {field: text}})
        assert said in str(refused.value)
        assert f"spec.{field}" in str(refused.value)


def test_settings_that_cant_be_used_leave_what_runs(puller: Puller) -> None:
    before = puller.daemonset()["metadata"]
    puller.patch(KIND, "puller", {"spec": {"cachingMemoryRequest": "1Gi"}})
    message = puller.becomes("Degraded", "True", "InvalidSettings")
    assert "cachingMemoryRequest '1Gi': it is above the limit cachingMemoryLimit (20Mi, the default)" in message
    assert "Remedy: lower cachingMemoryRequest" in message
    after = puller.daemonset()["metadata"]
    assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])
    puller.patch(KIND, "puller", {"spec": {"cachingMemoryRequest": None}})
    puller.wait()


def test_what_fails_on_the_nodes_is_in_the_status(puller: Puller) -> None:
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};lost=registry.example.com/team/lost:1"}})
    message = puller.becomes("Degraded", "True", "Degraded")
    assert "lost" in message

    def failures() -> list[tuple[str, str, int]]:
        found = puller.get(KIND, "puller")
        return [(f["name"], f["class"], f["nodes"]) for f in (found or {})["status"]["failures"]]

    eventually(lambda: failures() == [("lost", "not_found", 1)])  # The change waits on the first node.
    assert puller.condition("Ready")[0] == "False"
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};Bad=x;theia={THEIA}"}})
    assert "images, entry 2 'Bad=x'" in puller.becomes("Degraded", "True", "InvalidSettings")
    eventually(lambda: images(puller) == [JAVA, THEIA])
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};theia={THEIA}"}})
    puller.wait()


def test_drift_is_repaired_and_what_others_added_stays(puller: Puller) -> None:
    puller.patch("deployment", DEPLOYMENT, {"metadata": {"labels": {"team": "platform"}}, "spec": {"replicas": 0}})
    drifted = {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1m"}}
    container = {
        "name": "image-puller",
        "env": [{"name": "CONFIG_MAP_NAME", "value": "other"}],
        "resources": drifted,
    }
    puller.patch("deployment", DEPLOYMENT, {"spec": {"template": {"spec": {"containers": [container]}}}}, "strategic")
    puller.patch("configmap", CONFIG_MAP, {"data": {"IMAGES": "other=registry.example.com/team/java11:2.1"}})

    def repaired() -> bool:
        deployment, config_map = puller.get("deployment", DEPLOYMENT), puller.get("configmap", CONFIG_MAP)
        assert deployment
        assert config_map
        (running,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {"name": "CONFIG_MAP_NAME", "value": CONFIG_MAP} in running["env"]
        assert running["resources"] == {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "200m", "memory": "256Mi"},
        }
        assert deployment["spec"]["replicas"] == 1
        assert deployment["metadata"]["labels"]["team"] == "platform"
        return bool(config_map["data"]["IMAGES"] == f"java11={JAVA};theia={THEIA}")

    eventually(repaired, 20)
    puller.cluster.kubectl("delete", "role", "k8s-image-puller", "-n", puller.namespace)
    eventually(lambda: puller.get("role", "k8s-image-puller"), 20)
    puller.wait()


def test_a_second_resource_waits_and_says_for_which(puller: Puller) -> None:
    puller.apply(resource("second", images=f"other={JAVA}"))
    message = puller.becomes("Ready", "False", "Superseded", "second")
    assert "KubernetesImagePuller puller is older" in message
    assert images(puller) == [JAVA, THEIA]
    puller.cluster.kubectl("delete", KIND, "second", "-n", puller.namespace)


def test_one_that_waits_takes_over_what_is_there_when_the_older_is_deleted(puller: Puller) -> None:
    """The garbage collector takes nothing, whichever of the two comes first: the DaemonSet's pods stay."""
    asked = puller.get(KIND, "puller")
    assert asked
    puller.apply(resource("second", **asked["spec"]))
    puller.becomes("Ready", "False", "Superseded", "second")
    before = kept(puller)
    assert [owner["name"] for owner in owners(puller)] == ["puller", "second"]
    puller.cluster.kubectl("delete", KIND, "puller", "-n", puller.namespace)
    eventually(lambda: [owner["name"] for owner in owners(puller)] == ["second"], 60)
    puller.wait("second")
    assert owners(puller)[0]["controller"] is True
    assert kept(puller) == before
    puller.apply(resource(**asked["spec"]))
    puller.becomes("Ready", "False", "Superseded")
    puller.cluster.kubectl("delete", KIND, "second", "-n", puller.namespace)
    puller.wait()
    assert kept(puller) == before


def test_another_operator_is_not_fought(puller: Puller) -> None:
    """A Deployment of the known operator's name, whose pod need not run, stands in for it."""
    puller.apply(idle_deployment(operator.KNOWN_DEPLOYMENTS[0]))
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA}"}})
    message = puller.becomes("Degraded", "True", "OtherOperator")
    assert f"Deployment {puller.namespace}/{operator.KNOWN_DEPLOYMENTS[0]} serves" in message
    assert images(puller) == [JAVA, THEIA]
    puller.cluster.kubectl("delete", "deployment", operator.KNOWN_DEPLOYMENTS[0], "-n", puller.namespace)
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};"}})
    puller.wait()
    assert images(puller) == [JAVA]


def test_what_somebody_else_made_is_not_taken(puller: Puller) -> None:
    puller.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {"key": "text"}})
    puller.patch(KIND, "puller", {"spec": {"configMapName": "theirs"}})
    message = puller.becomes("Degraded", "True", "ForeignObject")
    assert f"ConfigMap {puller.namespace}/theirs was made by somebody else" in message
    assert "spec.configMapName" in message
    theirs = puller.get("configmap", "theirs")
    assert theirs
    assert theirs["data"] == {"key": "text"}
    puller.patch(KIND, "puller", {"spec": {"configMapName": None}})
    puller.wait()


def test_a_missing_right_is_named(puller: Puller) -> None:
    rules = [rule for rule in operator.rules() if "configmaps" not in rule["resources"]]
    puller.patch("role", operator.NAME, {"rules": rules})
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};theia={THEIA}"}})
    message = puller.becomes("Degraded", "True", "MissingRight")
    assert f'Grant with a Role in namespace {puller.namespace}: apiGroups [""], resources ["configmaps"]' in message
    puller.patch("role", operator.NAME, {"rules": operator.rules()})
    puller.wait(seconds=120)  # By itself.


def test_what_a_quota_refuses_is_in_the_status_in_the_api_servers_words(cluster: Cluster, puller: Puller) -> None:
    hard = {"count/deployments.apps": "1"}  # The operator's own.
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}}
    puller.apply(quota)
    eventually(lambda: ((puller.get("resourcequota", "few") or {}).get("status") or {}).get("used"))
    daemonset = puller.daemonset()["metadata"]["uid"]
    cluster.kubectl("delete", "deployment", DEPLOYMENT, "-n", puller.namespace)
    message = puller.becomes("Degraded", "True", "ReconcileError")
    assert f"could not patch Deployment {puller.namespace}/{DEPLOYMENT}: Forbidden: " in message
    assert "exceeded quota: few, requested: count/deployments.apps=1" in message
    assert puller.condition()[:2] == ("False", "ReconcileError")
    cluster.kubectl("delete", "resourcequota", "few", "-n", puller.namespace)
    puller.wait()
    assert puller.condition("Degraded")[0] == "False"

    def is_owned() -> bool:
        """By the Deployment that was made anew: its controller goes on."""
        owners = [owner["uid"] for owner in puller.daemonset()["metadata"]["ownerReferences"]]
        return (puller.get("deployment", DEPLOYMENT) or {})["metadata"]["uid"] in owners

    eventually(is_owned, 60)
    assert puller.daemonset()["metadata"]["uid"] == daemonset


def test_names_that_change_leave_nothing_behind(puller: Puller) -> None:
    before = puller.daemonset()["metadata"]["uid"]
    puller.patch(KIND, "puller", {"spec": {"configMapName": "other-settings"}})
    eventually(lambda: puller.get("configmap", "other-settings"))
    eventually(lambda: puller.get("configmap", CONFIG_MAP) is None)
    puller.wait()
    assert puller.daemonset()["metadata"]["uid"] == before
    # Both owners of the DaemonSet at once.
    puller.patch(KIND, "puller", {"spec": {"configMapName": None, "deploymentName": "other-controller"}})
    eventually(lambda: puller.get("configmap", "other-settings") is None)
    eventually(lambda: puller.get("deployment", DEPLOYMENT) is None)
    puller.wait()
    assert puller.daemonset()["metadata"]["uid"] == before
    puller.patch(KIND, "puller", {"spec": {"deploymentName": None}})
    eventually(lambda: puller.get("deployment", "other-controller") is None)
    puller.wait()
    assert puller.daemonset()["metadata"]["uid"] == before


@pytest.mark.thorough
def test_a_restart_of_the_operator_changes_nothing(cluster: Cluster, puller: Puller) -> None:
    writer = f"{puller.namespace}:{operator.NAME}"

    def quiet() -> bool:
        """What was told last is told: after many Events one goes out in ten seconds."""
        mark = cluster.audit_mark()
        looks = str(time.monotonic())  # What waits goes out when it looks.
        puller.patch(KIND, "puller", {"metadata": {"labels": {"looks": looks}}})
        time.sleep(12)
        assert our_writes(cluster, mark, writer) == []
        return True

    eventually(quiet, 240)
    mark = cluster.audit_mark()
    cluster.kubectl("rollout", "restart", f"deployment/{operator.NAME}", "-n", puller.namespace)
    wait = ("rollout", "status", f"deployment/{operator.NAME}", "--timeout=60s")
    cluster.kubectl(*wait, "-n", puller.namespace)
    puller.patch(KIND, "puller", {"metadata": {"labels": {"team": "platform"}}})  # It looks, and finds nothing to do.
    time.sleep(5)
    assert our_writes(cluster, mark, writer) == []  # Leases are not audited.


@pytest.mark.thorough
def test_of_two_operators_one_works_and_the_other_goes_on_for_it(cluster: Cluster, puller: Puller) -> None:
    cluster.kubectl("scale", f"deployment/{operator.NAME}", "--replicas=2", "-n", puller.namespace)
    cluster.kubectl("rollout", "status", f"deployment/{operator.NAME}", "--timeout=60s", "-n", puller.namespace)

    def holder() -> str:
        lease = puller.get("lease", operator.NAME)
        assert lease
        return str(lease["spec"]["holderIdentity"])

    first = eventually(holder)
    cluster.kubectl("delete", "pod", first, "-n", puller.namespace, "--wait=false")
    eventually(lambda: holder() not in ("", first))
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA}"}})
    puller.wait()
    assert images(puller) == [JAVA]
    cluster.kubectl("scale", f"deployment/{operator.NAME}", "--replicas=1", "-n", puller.namespace)


@pytest.mark.thorough
def test_a_change_that_touches_the_deployment_rolls_it_once(puller: Puller) -> None:
    def replica_sets() -> set[str]:
        return {
            found["metadata"]["uid"]
            for found in puller.list("replicaset")
            if found["metadata"]["ownerReferences"][0]["name"] == DEPLOYMENT
        }

    before, generation = replica_sets(), (puller.get("deployment", DEPLOYMENT) or {})["metadata"]["generation"]
    change = {"deploymentMemoryLimit": "300Mi", "deploymentCPURequest": "40m", "images": f"theia={THEIA}"}
    puller.patch(KIND, "puller", {"spec": change})
    puller.wait()
    puller.cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "--timeout=60s", "-n", puller.namespace)
    stays(replica_sets, seconds=3)
    assert len(replica_sets() - before) == 1
    after = puller.get("deployment", DEPLOYMENT)
    assert after
    assert after["metadata"]["generation"] == generation + 1
    (running,) = after["spec"]["template"]["spec"]["containers"]
    assert (running["resources"]["limits"]["memory"], running["resources"]["requests"]["cpu"]) == ("300Mi", "40m")
    back = {"deploymentMemoryLimit": None, "deploymentCPURequest": None, "images": f"java11={JAVA}"}
    puller.patch(KIND, "puller", {"spec": back})
    puller.wait()


def test_a_deployment_of_somebody_else_is_not_taken(puller: Puller) -> None:
    puller.apply(idle_deployment("their-web"))
    before = puller.get("deployment", "their-web")
    assert before
    puller.patch(KIND, "puller", {"spec": {"deploymentName": "their-web"}})
    message = puller.becomes("Degraded", "True", "ForeignObject")
    assert f"Deployment {puller.namespace}/their-web was made by somebody else, and nothing is changed" in message
    assert "spec.deploymentName" in message
    assert puller.condition("Ready")[0] == "False"
    after = puller.get("deployment", "their-web")
    assert after
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    assert after["metadata"].get("labels") == before["metadata"].get("labels")
    assert puller.get("deployment", DEPLOYMENT)
    puller.patch(KIND, "puller", {"spec": {"deploymentName": None}})
    puller.wait()
    puller.cluster.kubectl("delete", "deployment", "their-web", "-n", puller.namespace)


def test_a_deleted_resource_takes_all_that_it_asked_for_along(cluster: Cluster, puller: Puller) -> None:
    assert len(puller.everything()) == 7
    cluster.kubectl("delete", KIND, "puller", "-n", puller.namespace)
    eventually(lambda: puller.everything() == [], 60)
    eventually(lambda: puller.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}") == [], 60)
    assert puller.get("configmap", "theirs")


@pytest.mark.thorough
def test_a_resource_that_is_deleted_while_its_pods_pull_leaves_nothing(cluster: Cluster, puller: Puller) -> None:
    """The registry takes the request for the image, and answers nothing."""
    cluster.push(HANGS)
    cluster.registry_fault("hanging/", "hang")
    try:
        puller.apply(resource(images=f"java11={JAVA};hangs={HANGS}"))
        puller.becomes("Progressing", "True", "Progressing")
        eventually(lambda: (puller.get(KIND, "puller") or {})["status"]["pulling"] >= 1, 60)
        cluster.kubectl("delete", KIND, "puller", "-n", puller.namespace)
        eventually(lambda: puller.everything() == [], 60)
        eventually(lambda: puller.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}") == [], 60)
        assert not any(cluster.node(node).has_image(HANGS) for node in cluster.nodes)
    finally:
        cluster.registry_clear()


def test_what_the_known_operator_made_is_taken_over_in_place(cluster: Cluster, puller: Puller) -> None:
    """Its objects, owned by the resource; the stand-in for its controller deletes its DaemonSet when it is stopped."""
    known.push_stand_in(cluster)
    cluster.kubectl("scale", f"deployment/{operator.NAME}", "--replicas=0", "-n", puller.namespace)
    puller.apply(resource(images=f"java11={JAVA}", imagePullerImage=known.STAND_IN))
    found = puller.get(KIND, "puller")
    assert found
    made = [*known.rights(), known.config_map(puller.namespace, IMAGES=f"java11={JAVA};"), known.deployment()]
    for obj in made:
        obj["metadata"]["ownerReferences"] = [owner_reference(found)]
    known.apply(cluster, puller.namespace, *made)
    eventually(lambda: puller.get("daemonset", DAEMONSET), 60)
    before = puller.daemonset()["metadata"]["uid"]
    eventually(lambda: puller.daemonset()["status"].get("numberReady") == 2, 60)
    cluster.kubectl("scale", f"deployment/{operator.NAME}", "--replicas=1", "-n", puller.namespace)
    puller.wait()
    assert puller.daemonset()["metadata"]["uid"] == before
    assert f"{known.STAND_IN} is the known implementation" in puller.condition()[2]
    (deployment,) = [d for d in puller.list("deployment") if d["metadata"]["name"] == DEPLOYMENT]
    assert [c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]] == [IMAGE]
    assert puller.get("role", known.ROLE) is None
    assert puller.get("rolebinding", known.ROLE) is None
    cluster.kubectl("delete", KIND, "puller", "-n", puller.namespace)
    eventually(lambda: puller.everything() == [], 60)


@pytest.mark.thorough
def test_all_namespaces_are_served_from_one(cluster: Cluster, puller: Puller) -> None:
    """As OLM grants it for AllNamespaces: the same rules, in a ClusterRole."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": operator.NAME}}
    cluster.kubectl("apply", "-f", "-", input=json.dumps({**role, "rules": operator.rules()}))
    account = f"--serviceaccount={puller.namespace}:{operator.NAME}"
    cluster.kubectl("create", "clusterrolebinding", operator.NAME, f"--clusterrole={operator.NAME}", account)
    change = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "WATCH_NAMESPACE"}]},
    ]
    try:
        puller.patch("deployment", operator.NAME, change, "json")
        with new_namespace(cluster) as other:
            cluster.kubectl("create", "namespace", other)
            elsewhere = Puller(cluster, other)
            elsewhere.apply(resource(images=f"java11={JAVA}"))
            puller.apply(resource(images=f"theia={THEIA}"))
            elsewhere.wait()
            puller.wait()
            assert (images(elsewhere), images(puller)) == ([JAVA], [THEIA])
            # A namespace that goes away with all that is in it is no error that is tried again without an end.
            cluster.kubectl("delete", "namespace", other, "--timeout=90s")
            stays(lambda: puller.log().count("unexpected error"), seconds=2)
            assert "unexpected error" not in puller.log()
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", operator.NAME)


def watch(puller: Puller, namespaces: str) -> None:
    """As documented: WATCH_NAMESPACE has a value in a copy of operator.yaml."""
    deployment = yaml.safe_load((ROOT / "deploy/operator/operator.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": "WATCH_NAMESPACE", "value": namespaces}]
    puller.apply(deployment)
    until_it_runs(puller.cluster, puller.namespace)


@pytest.mark.thorough
def test_one_other_namespace_or_several_are_served_with_rights_there_only(cluster: Cluster, puller: Puller) -> None:
    """In its own namespace it needs no more than its Lease then."""
    (lease,) = [rule for rule in operator.rules() if rule["resources"] == ["leases"]]
    puller.patch("role", operator.NAME, {"rules": [lease]})
    try:
        with new_namespace(cluster) as first, new_namespace(cluster) as second, new_namespace(cluster) as foreign:
            for namespace in (first, second, foreign):
                cluster.kubectl("create", "namespace", namespace)
            for namespace in (first, second):
                cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "deploy/operator/role.yaml"))
                account = f"--serviceaccount={puller.namespace}:{operator.NAME}"
                binding = ("create", "rolebinding", operator.NAME, f"--role={operator.NAME}", account)
                cluster.kubectl(*binding, "-n", namespace)
            watch(puller, first)
            one, other, unserved = (Puller(cluster, name) for name in (first, second, foreign))
            for each in (one, other, unserved):
                each.apply(resource(images=f"java11={JAVA}"))
            one.wait()
            assert images(one) == [JAVA]
            assert (other.get(KIND, "puller") or {}).get("status") is None

            watch(puller, f"{first},{second}")
            other.wait()
            one.patch(KIND, "puller", {"spec": {"images": f"theia={THEIA}"}})
            one.wait()
            assert (images(one), images(other)) == ([THEIA], [JAVA])
            assert (unserved.get(KIND, "puller") or {}).get("status") is None
            assert unserved.everything() == []
            log = puller.log()
            assert "unexpected error" not in log
            assert "is forbidden" not in log, log
    finally:
        cluster.kubectl("apply", "-n", puller.namespace, "-f", str(ROOT / "deploy/operator/role.yaml"))


@pytest.mark.thorough
def test_the_known_definition_without_our_additions_will_do(cluster: Cluster, puller: Puller) -> None:
    cluster.kubectl("delete", "crd", CRD_NAME, "--timeout=60s")
    for path in ("role.yaml", "operator.yaml"):
        cluster.kubectl("apply", "-n", puller.namespace, "-f", str(ROOT / "deploy/operator" / path))
    cluster.kubectl("apply", "-f", "-", input=json.dumps(known.definition()))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    cluster.kubectl("rollout", "status", f"deployment/{operator.NAME}", "--timeout=90s", "-n", puller.namespace)
    puller.apply(resource(images=f"java11={JAVA}", cachingMemoryLimit="30Mi"))

    def status() -> Any:
        found = puller.get(KIND, "puller")
        return found and found.get("status")

    told = eventually(status, 60)
    assert list(told) == ["imagePullerImage"]
    eventually(lambda: puller.get("daemonset", DAEMONSET) and images(puller) == [JAVA], 60)
    until_all_is_told(cluster, f"{puller.namespace}:{operator.NAME}")
    mark = cluster.audit_mark()
    time.sleep(10)
    assert our_writes(cluster, mark, f"{puller.namespace}:{operator.NAME}") == []
    assert "unexpected error" not in puller.log()
