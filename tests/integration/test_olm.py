# SPDX-License-Identifier: GPL-3.0-or-later
"""Beside what OLM has in a cluster already, and beside the operators that serve the same resources.

OLM, the known operator and Che are not run: a stand-in (olm.py) does what OLM does with a Subscription, and objects of
minimal types stand for the others.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS
from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import (
    CSV_NAME,
    KNOWN_DEPLOYMENTS,
    KNOWN_PACKAGE,
    PACKAGE,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import CRD_NAME
from tests.cluster import Cluster, ClusterError

from .conftest import Kubectl, Module, Playbook, eventually, modules_of, new_namespace, our_writes
from .olm import StandIn
from .test_operator import KIND, Puller, idle_deployment, images, install_by_hand, resource

JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"


@pytest.fixture(scope="module")
def olm(cluster: Cluster) -> Iterator[StandIn]:
    """The stand-in, and the images that are cached."""
    cluster.push(JAVA)
    cluster.push(THEIA)
    with StandIn(cluster) as stand_in:
        yield stand_in
    cluster.kubectl("delete", "crd", CRD_NAME, "--ignore-not-found", "--timeout=60s")


def make(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Somebody else's objects, in a namespace that is made for them."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    placed = [{**obj, "metadata": {"namespace": namespace, **obj["metadata"]}} for obj in objects]
    items = {"apiVersion": "v1", "kind": "List", "items": [space, *placed]}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(items))


def group(name: str, *targets: str, **metadata: Any) -> dict[str, Any]:
    spec = {"targetNamespaces": list(targets)} if targets else {}
    data = {"name": name, **metadata}
    return {"apiVersion": "operators.coreos.com/v1", "kind": "OperatorGroup", "metadata": data, "spec": spec}


def csv(name: str) -> dict[str, Any]:
    return {"apiVersion": "operators.coreos.com/v1alpha1", "kind": "ClusterServiceVersion", "metadata": {"name": name}}


def groups(kubectl: Kubectl) -> list[str]:
    return [found["metadata"]["name"] for found in kubectl.list("operatorgroups.operators.coreos.com")]


# --- OperatorGroups ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_an_operator_group_that_is_there_is_used_and_stays(
    cluster: Cluster, namespace: str, olm: StandIn, module: Module, playbook: Playbook, kubectl: Kubectl
) -> None:
    """Also where a second one of ours keeps everything in the namespace from running."""
    make(cluster, namespace, group("theirs", namespace), group(PACKAGE, namespace, labels=LABELS))
    options: dict[str, Any] = {"images": {"java11": JAVA}, "install_method": "olm", "daemonset": True}
    done = module("install", **options)
    assert ("OperatorGroup", "deleted") in {(change["kind"], change["action"]) for change in done["objects"]}
    assert groups(kubectl) == ["theirs"]
    again = module("install", **options)
    assert not again["changed"], again["objects"]
    told = " ".join(playbook("uninstall").stdout.split())
    assert f"Namespace {namespace} stays: it was not made by the Image Puller" in told
    assert groups(kubectl) == ["theirs"]
    kinds = "subscriptions.operators.coreos.com,clusterserviceversions.operators.coreos.com"
    eventually(lambda: kubectl.list(kinds) == [])


@pytest.mark.thorough
def test_an_operator_group_of_ours_stays_while_others_need_it(
    cluster: Cluster, namespace: str, olm: StandIn, module: Module, kubectl: Kubectl
) -> None:
    module("install", images={"java11": JAVA}, install_method="olm")
    assert groups(kubectl) == [PACKAGE]
    other = {"apiVersion": "operators.coreos.com/v1alpha1", "kind": "Subscription", "metadata": {"name": "other"}}
    make(cluster, namespace, {**other, "spec": {"name": "other"}})
    left = module("install", state="absent")["left"]
    assert f"OperatorGroup {namespace}/{PACKAGE} stays: Subscription {namespace}/other needs one" in left
    assert groups(kubectl) == [PACKAGE]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([group("theirs", "elsewhere")], "OperatorGroup theirs of namespace {} targets elsewhere."),
        ([group("a"), group("b")], "Namespace {} has the OperatorGroups a and b. OLM allows one"),
    ],
)
def test_operator_groups_that_do_not_fit_are_refused_before_anything_is_changed(
    cluster: Cluster, namespace: str, olm: StandIn, module: Module, there: Any, said: str
) -> None:
    make(cluster, namespace, *there)
    mark = cluster.audit_mark()
    refused = module("install", ok=False, images={"java11": JAVA}, install_method="olm")
    assert refused["msg"].startswith(said.format(namespace)), refused["msg"]
    assert "Remedy: " in refused["msg"]
    assert our_writes(cluster, mark, "admin") == []


def test_the_role_tells_why_olm_does_not_bring_the_operator(
    cluster: Cluster, namespace: str, olm: StandIn, playbook: Playbook, kubectl: Kubectl
) -> None:
    olm.failure = {"reason": "InstallComponentFailed", "message": "install strategy failed: no such account"}
    try:
        told = playbook("install", ok=False, images={"java11": JAVA}, install_method="olm", wait_timeout=60).stdout
    finally:
        olm.failure = {}
    sentence = f"ClusterServiceVersion {CSV_NAME} is Failed (InstallComponentFailed: install strategy failed: no such"
    assert sentence in " ".join(told.split()), told
    assert kubectl.list(KIND) == []


@pytest.mark.thorough
def test_rendered_files_are_applied_again_when_olm_has_installed_the_operator(
    cluster: Cluster, namespace: str, olm: StandIn, playbook: Playbook, module: Module, tmp_path: pathlib.Path
) -> None:
    options: dict[str, Any] = {"images": {"java11": JAVA}, "install_method": "olm"}
    cluster.kubectl("delete", "crd", CRD_NAME, "--ignore-not-found", "--timeout=60s")
    files = tmp_path / "files"
    playbook("render", render=str(files), **options)
    with pytest.raises(ClusterError, match="KubernetesImagePuller"):
        cluster.kubectl("apply", "-f", str(files), f"--cache-dir={tmp_path}")
    until_olm_has_installed(cluster, namespace)
    cluster.kubectl("apply", "-f", str(files))
    Puller(cluster, namespace).wait("image-puller")
    done = module("install", wait=True, **options)
    assert [change for change in done["objects"] if change["action"] != "none"] == []
    assert "Nothing of the installation stays" in playbook("uninstall").stdout


def until_olm_has_installed(cluster: Cluster, namespace: str) -> None:
    wait = ("wait", "--for=jsonpath={.status.installedCSV}", f"subscriptions.operators.coreos.com/{PACKAGE}")
    cluster.kubectl(*wait, "-n", namespace, "--timeout=90s")


# --- other operators --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def puller(cluster: Cluster, olm: StandIn) -> Iterator[Puller]:
    """Our operator, with a resource that is Ready, on a cluster with OLM and Che."""
    definition = {
        "group": "org.eclipse.che",
        "names": {
            "kind": "CheCluster",
            "plural": "checlusters",
            "singular": "checluster",
            "listKind": "CheClusterList",
        },
        "scope": "Namespaced",
        "versions": [
            {"name": "v2", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    }
    named = {"metadata": {"name": "checlusters.org.eclipse.che"}, "spec": definition}
    che = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **named}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(che))
    cluster.kubectl("wait", "--for=condition=Established", "crd/checlusters.org.eclipse.che", "--timeout=30s")
    try:
        with new_namespace(cluster) as namespace:
            install_by_hand(cluster, namespace)
            puller = Puller(cluster, namespace)
            puller.apply(resource(images=f"java11={JAVA}"))
            puller.wait()
            yield puller
    finally:
        cluster.kubectl("delete", "crd", "checlusters.org.eclipse.che", "--timeout=60s")


def refuses(cluster: Cluster, puller: Puller, said: str) -> None:
    """Operator and Ansible refuse with the same sentence, and change nothing."""
    before = puller.daemonset()["metadata"]
    puller.patch(KIND, "puller", {"spec": {"images": f"theia={THEIA}"}})
    message = puller.becomes("Degraded", "True", "OtherOperator")
    assert said in message
    assert puller.condition("Ready")[0] == "False"
    assert puller.daemonset()["metadata"]["generation"] == before["generation"]
    assert images(puller) == [JAVA]
    mark = cluster.audit_mark()
    for method in ("operator", "olm"):
        module = modules_of(cluster, puller.namespace)
        told = module("install", ok=False, images={"theia": THEIA}, install_method=method)["msg"]
        assert said in told
        assert "Remedy: " in told
    assert our_writes(cluster, mark, "admin") == []


def goes_on(puller: Puller) -> None:
    """What was in the way is gone, and the resource rules again."""
    puller.patch(KIND, "puller", {"spec": {"images": f"java11={JAVA};"}})
    puller.wait()


@pytest.mark.thorough
def test_the_known_operators_csv(cluster: Cluster, puller: Puller) -> None:
    name = f"{KNOWN_PACKAGE}.v1.0.3"
    make(cluster, puller.namespace, csv("cert-manager.v1.2.3"), csv(name))
    refuses(cluster, puller, f"ClusterServiceVersion {name} serves the resources of this namespace")
    cluster.kubectl("delete", "clusterserviceversions.operators.coreos.com", name, "-n", puller.namespace)
    goes_on(puller)


def test_the_known_operators_deployment(cluster: Cluster, puller: Puller) -> None:
    name = KNOWN_DEPLOYMENTS[0]
    puller.apply(idle_deployment(name))
    refuses(cluster, puller, f"Deployment {puller.namespace}/{name} serves the resources of this namespace")
    cluster.kubectl("scale", "deployment", name, "--replicas=0", "-n", puller.namespace)
    goes_on(puller)


def test_a_resource_that_che_owns(cluster: Cluster, puller: Puller) -> None:
    make(
        cluster, puller.namespace, {"apiVersion": "org.eclipse.che/v2", "kind": "CheCluster", "metadata": {"name": "c"}}
    )
    che = puller.get("checluster", "c")
    assert che
    owner = {"apiVersion": che["apiVersion"], "kind": "CheCluster", "name": "c", "uid": che["metadata"]["uid"]}
    puller.patch(KIND, "puller", {"metadata": {"ownerReferences": [owner]}})
    refuses(cluster, puller, "KubernetesImagePuller puller belongs to Che or Dev Spaces")
    puller.patch(KIND, "puller", {"metadata": {"ownerReferences": None}})
    goes_on(puller)
