# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation by playbooks on each environment of the matrix: `make test-matrix`."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.cluster import Cluster
from tests.matrix import versions
from tests.running import ROOT
from tests.setup import MATRIX

from .conftest import DAEMONSET, Kubectl, Playbook

IMAGE = "registry.example.com/matrix/java11:2.1"


def floor(text: str) -> str:
    """The version that a requirement begins with, without the patch: ">=6.2.0,<7.0.0" -> "6.2"."""
    found = re.match(r"\D*>=(\d+\.\d+)", text)
    assert found, text
    return found[1]


def minor(version: str) -> str:
    return version.rpartition(".")[0]


@pytest.mark.parametrize("core", ["oldest"])
def test_it_is_the_oldest_that_the_collection_declares(core: str) -> None:
    galaxy, runtime, test_config = (
        yaml.safe_load((ROOT / name).read_text()) for name in ("galaxy.yml", "meta/runtime.yml", "tests/config.yml")
    )
    assert {part: minor(version) for part, version in versions(core).items()} == {
        "Python": floor(test_config["modules"]["python_requires"]),
        "ansible-core": floor(runtime["requires_ansible"]),
        "kubernetes": floor((ROOT / "requirements.txt").read_text()),
        "kubernetes.core": floor(galaxy["dependencies"]["kubernetes.core"]),
    }


@pytest.mark.parametrize("core", MATRIX)
def test_it_is_what_the_documentation_says(core: str) -> None:
    """But for the Python of the newest, which is the first that the machine has."""
    text = (ROOT / "docs" / "PLATFORM.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(core)}` \|(.*)\|$", text, re.MULTILINE)
    found = versions(core)
    python, *others = (cell.strip() for cell in row.split("|"))
    assert python == minor(found["Python"]) or core == "newest"
    assert others == [minor(found[part]) for part in ("ansible-core", "kubernetes.core", "kubernetes")]


@pytest.mark.parametrize("core", MATRIX)
def test_an_installation_from_the_first_to_the_last_object(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl, core: str
) -> None:
    """Planned, installed, unchanged, mended by the health check, shown and uninstalled."""
    cluster.push(IMAGE)
    images = {"java11": IMAGE}
    found = versions(core)

    assert "Fits: nothing that is known stands against it" in playbook("plan", core=core, images=images).stdout
    installed = playbook("install", "-vv", core=core, images=images).stdout
    assert f"[core {found['ansible-core']}]" in installed
    assert f"python version = {found['Python']} " in installed
    assert "1 of 1 image cached on both nodes" in installed
    for node in cluster.nodes:
        assert IMAGE in cluster.node(node).images()
    assert playbook("install", core=core, images=images).changed == 0

    before = kubectl.daemonset()["metadata"]["uid"]
    cluster.kubectl("scale", "deployment", "--all", "--replicas=0", "-n", namespace)
    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", namespace)
    mended = playbook("health_check", core=core, health_check_fail=True)
    assert mended.changed
    assert "Healthy: DaemonSet" in mended.stdout
    assert kubectl.daemonset()["metadata"]["uid"] != before
    assert "1 of 1 image cached on both nodes" in playbook("status", core=core).stdout

    assert "Nothing of the installation stays" in playbook("uninstall", core=core).stdout
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
