# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator as Ansible, rendered files and a kustomization bring it, on clusters that have others' resources."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import CRD_NAME
from tests.cluster import Cluster, ClusterError
from tests.running import ROOT

from . import known
from .conftest import Module, Playbook, eventually, new_namespace
from .test_operator import KIND, Puller, images, resource, until_it_runs

JAVA = "registry.example.com/operated/java11:2.1"
THEIA = "registry.example.com/operated/theia:2.1"


@pytest.fixture(autouse=True)
def no_definition(cluster: Cluster) -> Iterator[None]:
    """Each test begins and ends without a definition."""
    for reference in (JAVA, THEIA):
        cluster.push(reference)
    remove = ("delete", "crd", CRD_NAME, "--ignore-not-found", "--timeout=60s")
    cluster.kubectl(*remove)
    yield
    cluster.kubectl(*remove)


@pytest.fixture
def puller(cluster: Cluster, namespace: str) -> Puller:
    return Puller(cluster, namespace)


def has_definition(cluster: Cluster) -> bool:
    return CRD_NAME in cluster.kubectl("get", "crd", "-o", "name")


OPTIONS: dict[str, Any] = {"images": {"java11": JAVA}, "install_method": "operator", "daemonset": True}


@pytest.mark.thorough
def test_the_definition_stays_while_somebody_needs_it_and_goes_after_that(
    cluster: Cluster, namespace: str, module: Module, playbook: Playbook, puller: Puller
) -> None:
    """A resource of somebody else in another namespace, and then another operator, whose resources may come."""
    with new_namespace(cluster) as other:
        module("install", **OPTIONS)
        cluster.kubectl("create", "namespace", other)
        theirs = Puller(cluster, other)
        theirs.apply(resource("theirs", images=f"java11={JAVA}"))
        said = f"CustomResourceDefinition {CRD_NAME} stays: KubernetesImagePuller {other}/theirs would go with it"
        assert said in " ".join(playbook("uninstall").stdout.split())
        assert theirs.get(KIND, "theirs")
        cluster.kubectl("delete", KIND, "theirs", "-n", other)

        module("install", **OPTIONS)
        for path in ("role.yaml", "role_binding.yaml", "service_account.yaml", "operator.yaml"):
            cluster.kubectl("apply", "-n", other, "-f", str(ROOT / "deploy/operator" / path))
        left = module("install", state="absent")["left"]
        assert f"CustomResourceDefinition {CRD_NAME} stays: Deployment {other}/{operator.NAME} needs it" in left
        assert has_definition(cluster)
        cluster.kubectl("delete", "deployment", operator.NAME, "-n", other)

        module("install", **OPTIONS)
        assert module("install", state="absent")["left"] == []
        assert not has_definition(cluster)


@pytest.mark.thorough
def test_a_definition_of_the_known_project_is_used_and_left_as_it_is(
    cluster: Cluster, namespace: str, module: Module, playbook: Playbook, puller: Puller
) -> None:
    """It has no field of ours, and keeps no conditions."""
    cluster.kubectl("apply", "-f", "-", input=json.dumps(known.definition()))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")

    def definition() -> Any:
        found = json.loads(cluster.kubectl("get", "crd", CRD_NAME, "-o", "json"))
        return found["metadata"]["uid"], found["metadata"]["generation"], found["metadata"].get("labels")

    before = definition()
    options: dict[str, Any] = {**OPTIONS, "caching_memory_limit": "30Mi", "max_unavailable": "50%"}
    done = module("install", wait=True, **options)
    warnings = json.dumps(done["warnings"])
    assert f"CustomResourceDefinition {CRD_NAME} was made by somebody else and is left as it is" in warnings
    assert f"the definition {CRD_NAME} on the cluster is the known project's, which does not know " in warnings
    left_out = warnings.partition("which does not know ")[2].partition(":")[0].split(", ")
    assert "maxUnavailable" in left_out
    assert not {"images", "cachingMemoryLimit"} & set(left_out)
    (live,) = puller.list(KIND)
    assert live["spec"]["images"] == f"java11={JAVA}"
    assert live["spec"]["cachingMemoryLimit"] == "30Mi"
    assert not set(left_out) & set(live["spec"])
    assert list(live["status"]) == ["imagePullerImage"]
    eventually(lambda: puller.daemonset().get("status", {}).get("numberReady") == 2, 60)
    generation = puller.daemonset()["metadata"]["generation"]
    assert definition() == before

    again = module("install", wait=True, **options)
    assert [change for change in again["objects"] if change["action"] != "none"] == []
    assert puller.daemonset()["metadata"]["generation"] == generation
    told = " ".join(playbook("uninstall").stdout.split())
    assert f"CustomResourceDefinition {CRD_NAME} stays: it was not made by the Image Puller" in told
    assert definition() == before


def test_the_kustomization_and_a_resource(cluster: Cluster, namespace: str, puller: Puller) -> None:
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("apply", "-n", namespace, "-k", str(ROOT / "deploy/operator"))
    until_it_runs(cluster, namespace)
    puller.apply(resource(images=f"java11={JAVA}"))
    puller.wait()
    assert images(puller) == [JAVA]
    assert all(cluster.node(node).has_image(JAVA) for node in cluster.nodes)


@pytest.mark.thorough
def test_rendered_files_are_applied_twice(
    cluster: Cluster, namespace: str, playbook: Playbook, module: Module, puller: Puller, tmp_path: pathlib.Path
) -> None:
    """As documented: the type of the resource comes with the first time. What is there then is what install makes."""
    files = tmp_path / "files"
    playbook("render", images={"java11": JAVA}, install_method="operator", render=str(files))
    with pytest.raises(ClusterError, match="KubernetesImagePuller"):
        cluster.kubectl("apply", "-f", str(files), f"--cache-dir={tmp_path}")
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    cluster.kubectl("apply", "-f", str(files))
    puller.wait("image-puller")
    assert images(puller) == [JAVA]
    done = module("install", wait=True, **OPTIONS)
    assert [change for change in done["objects"] if change["action"] != "none"] == []
    told = playbook("uninstall").stdout
    assert "Nothing of the installation stays" in told, told
    assert not has_definition(cluster)
