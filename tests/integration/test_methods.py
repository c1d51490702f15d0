# SPDX-License-Identifier: GPL-3.0-or-later
"""Every documented way to install: the same verification for each, by Ansible, by hand, and from a Git repository."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import MANAGED_BY, MANAGER
from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import PACKAGE
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import CRD_NAME
from ansible_collections.kubecache.image_puller.plugins.module_utils.template import process
from tests.cluster import Cluster
from tests.running import ROOT

from .conftest import CONFIG_MAP, DAEMONSET, DEPLOYMENT, Kubectl, Module, Playbook, eventually, our_writes
from .olm import StandIn

JAVA = "registry.example.com/methods/java11:2.1"
THEIA = "registry.example.com/methods/theia:2.1"
METHODS = ("manifests", "openshift_template", "operator", "olm")
# As documented for Templates; what lies under this name in the tests' registry is our own controller.
DOCUMENTED_IMAGE = "registry.redhat.io/codeready-workspaces/imagepuller-rhel8"


@pytest.fixture(scope="module", autouse=True)
def olm(cluster: Cluster) -> Iterator[None]:
    """A stand-in for the Operator Lifecycle Manager."""
    with StandIn(cluster):
        yield


@pytest.fixture(autouse=True)
def images(cluster: Cluster) -> None:
    cluster.push(JAVA)
    cluster.push(THEIA)


def pods_of(kubectl: Kubectl) -> dict[str, str]:
    """The cache's pods: node -> uid."""
    pods = kubectl.list("pod", "-l", f"kubecache.io/daemonset={DAEMONSET}")
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}


def verify_as_documented(cluster: Cluster, kubectl: Kubectl, **cached: str) -> None:
    """Deployment 1/1, a pod of the DaemonSet on each node, the list in the ConfigMap, the images on the nodes."""
    told = cluster.kubectl("get", "deployment,daemonset,pod", "-n", kubectl.namespace)
    assert re.search(rf"^deployment.apps/{DEPLOYMENT} +1/1 ", told, re.MULTILINE)
    assert kubectl.daemonset()["status"]["numberReady"] == len(cluster.nodes) == 2
    assert set(pods_of(kubectl)) == set(cluster.nodes)
    config_map = kubectl.get("configmap", CONFIG_MAP)
    assert config_map
    assert config_map["data"]["IMAGES"] == ";".join(f"{name}={image}" for name, image in cached.items())
    for node in cluster.nodes:  # The node's own runtime is the witness.
        assert set(cached.values()) <= set(cluster.node(node).images())


def nothing_is_left(cluster: Cluster, namespace: str) -> None:
    """Neither the namespace nor what installations share: uninstall said that nobody else uses it."""
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    kinds = "clusterrolebinding,clusterrole,priorityclass,customresourcedefinition"
    for label in (f"{MANAGED_BY}={MANAGER}", f"operators.coreos.com/{PACKAGE}.{namespace}"):
        assert cluster.kubectl("get", kinds, "-l", label, "-o", "name").split() == []
    assert f"customresourcedefinition.apiextensions.k8s.io/{CRD_NAME}" not in cluster.kubectl(
        "get", "crd", "-o", "name"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_a_method_from_the_installation_to_the_last_object(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl, method: str
) -> None:
    """Installed, verified as documented, the list changed, the health checked, uninstalled, nothing left."""
    one, two = {"java11": JAVA}, {"java11": JAVA, "theia": THEIA}
    rehearsal = playbook("install", "--check", images=one, install_method=method)
    assert rehearsal.changed
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    assert "1 of 1 image cached on both nodes" in playbook("install", images=one, install_method=method).stdout
    verify_as_documented(cluster, kubectl, **one)
    assert playbook("install", images=one, install_method=method).changed == 0
    uid = kubectl.daemonset()["metadata"]["uid"]
    changed = playbook("install", images=two, install_method=method)
    assert "2 of 2 images cached on both nodes" in changed.stdout
    verify_as_documented(cluster, kubectl, **two)
    assert kubectl.daemonset()["metadata"]["uid"] == uid
    checked = playbook("health_check", health_check_fail=True)
    assert checked.changed == 0
    assert "Healthy: DaemonSet" in checked.stdout
    removed = playbook("uninstall").stdout
    assert "Nothing of the installation stays" in removed, removed
    nothing_is_left(cluster, namespace)


@pytest.mark.thorough
@pytest.mark.parametrize("order", [METHODS, METHODS[::-1]], ids=["there", "and back"])
def test_another_method_takes_over_and_the_cache_stays(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl, playbook: Playbook, order: tuple[str, ...]
) -> None:
    """From each method to the next, and back to the first: the DaemonSet and its pods are those from before."""
    first, *others = order
    module("install", images={"java11": JAVA}, install_method=first, daemonset=True, wait=True)
    eventually(lambda: kubectl.daemonset().get("status", {}).get("numberReady") == 2)
    before, pods = kubectl.daemonset()["metadata"], pods_of(kubectl)
    for method in (*others, first):
        module("install", install_method=method, daemonset=True, wait=True)
        after = kubectl.daemonset()["metadata"]
        assert (after["uid"], after["generation"]) == (before["uid"], before["generation"]), method
        assert pods_of(kubectl) == pods, method
        again = module("install", install_method=method, daemonset=True, wait=True)
        assert not again["changed"], again["objects"]
    assert "Nothing of the installation stays" in playbook("uninstall").stdout
    nothing_is_left(cluster, namespace)


@pytest.mark.thorough
def test_each_method_tells_the_controller_how_to_ask_registries_and_leaves_groups_their_pull_secrets(
    cluster: Cluster, namespace: str, module: Module, kubectl: Kubectl
) -> None:
    """Groups are given once; afterwards they stay as they are, as do the rights to their pull secrets."""
    registries: dict[str, Any] = {
        "registry_mirrors": {"registry.example.com": "mirror.example.com/copies"},
        "registry_insecure": ["mirror.example.com"],
        "registry_ca_config_map": "authorities",
        "registry_proxy": {"HTTPS_PROXY": "http://puller:pr0xy-word@127.0.0.1:9"},  # Not in its way to the API server.
    }
    given: dict[str, Any] = {"images": {"java11": JAVA}, "image_pull_secrets": "team", **registries}
    groups = [{"name": "gpu", "images": {"theia": THEIA}, "image_pull_secrets": "gpu;team"}]
    groups += [{"name": "own", "images": {"theia": THEIA}, "image_pull_secrets": "own", "refresh": "never"}]
    module("install", groups=groups, wait=True, **given)
    for method in METHODS:
        assert "pr0xy-word" not in json.dumps(module("install", install_method=method, wait=True, **given))
        role, deployment = kubectl.get("role", CONFIG_MAP), kubectl.get("deployment", DEPLOYMENT)
        assert role
        assert deployment
        named = [rule["resourceNames"] for rule in role["rules"] if rule["resources"] == ["secrets"]]
        assert named == [["gpu", "team"]], method
        pod = deployment["spec"]["template"]["spec"]
        environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert json.loads(environment["REGISTRY_MIRRORS"]) == {"registry.example.com": ["mirror.example.com/copies"]}
        assert environment["REGISTRY_INSECURE"] == "mirror.example.com"
        assert environment["HTTPS_PROXY"] == "http://puller:pr0xy-word@127.0.0.1:9"
        assert pod["volumes"][0]["configMap"]["name"] == "authorities"
        assert not module("install", install_method=method, wait=True, **given)["changed"], method


def test_the_documented_commands_for_templates(cluster: Cluster, namespace: str, kubectl: Kubectl) -> None:
    """``oc process -f FILE -p NAME=VALUE | oc apply -f -`` for each file, with the documented image.

    `process` and kubectl stand in for oc.
    """
    archive = ROOT / "build" / "image-puller.oci.tar"
    cluster.push_archive(archive, f"{DOCUMENTED_IMAGE}:2.1")
    cluster.kubectl("create", "namespace", namespace)

    def apply(name: str, **parameters: str) -> None:
        template = yaml.safe_load((ROOT / "deploy" / "openshift" / f"{name}.yaml").read_text(encoding="utf-8"))
        bundle = {"apiVersion": "v1", "kind": "List", "items": process(template, parameters)}
        cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(bundle))

    apply("serviceaccount")
    apply("configmap", IMAGES=f"java11={JAVA};theia={THEIA};", NAMESPACE=namespace, CACHING_MEMORY_LIMIT="24Mi")
    apply("app", IMAGE=DOCUMENTED_IMAGE, IMAGE_TAG="2.1")
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", namespace, "--timeout=60s")
    eventually(lambda: kubectl.daemonset().get("status", {}).get("numberReady") == 2)
    (pod,) = kubectl.list("pod", "-l", "app.kubernetes.io/component=controller")
    (container,) = pod["spec"]["containers"]
    assert container["image"] == f"{DOCUMENTED_IMAGE}:2.1"
    assert not {"args", "command", "startupProbe", "livenessProbe", "readinessProbe"} & set(container)
    for node in cluster.nodes:
        assert {JAVA, THEIA} <= set(cluster.node(node).images())
    limits = kubectl.daemonset()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == "24Mi"


def test_rendered_manifests_install_and_what_gitops_tools_keep_is_left_to_them(
    cluster: Cluster, namespace: str, playbook: Playbook, module: Module, kubectl: Kubectl, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "manifests"
    options: dict[str, Any] = {"images": {"java11": JAVA}, "render": str(directory), "caching_memory_limit": "3e7"}
    first = playbook("render", **options)
    assert first.changed == 1
    assert str(directory / "40-deployment-kubernetes-image-puller.yaml") in "".join(first.stdout.split())
    assert playbook("render", **options).changed == 0
    cluster.kubectl("apply", "-f", str(directory))
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", namespace, "--timeout=60s")
    eventually(lambda: kubectl.daemonset().get("status", {}).get("numberReady") == 2)
    verify_as_documented(cluster, kubectl, java11=JAVA)

    mark = cluster.audit_mark()
    tracked: dict[str, Any] = {"argocd.argoproj.io/tracking-id": f"web:/ConfigMap:{namespace}/{CONFIG_MAP}"}
    kubectl.patch("configmap", CONFIG_MAP, {"metadata": {"annotations": tracked}})
    both = {"java11": JAVA, "theia": THEIA}
    said = module("install", images=both, ok=False)["msg"]
    assert said.startswith(
        f"ConfigMap {namespace}/{CONFIG_MAP} is kept by the Argo CD application web, which would put"
    )
    assert "kubecache.image_puller.render" in said
    for state in ("present", "absent"):
        assert module("config", images=both, state=state, ok=False)["msg"] == said
    labels = {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
    kubectl.patch("configmap", CONFIG_MAP, {"metadata": {"annotations": dict.fromkeys(tracked)}})
    kubectl.patch("deployment", DEPLOYMENT, {"metadata": {"labels": labels}})
    assert "is kept by the Flux Kustomization flux-system/apps" in module("install", images=both, ok=False)["msg"]
    # What was written since is the three patches of this test.
    assert len(our_writes(cluster, mark, "admin")) == 3
