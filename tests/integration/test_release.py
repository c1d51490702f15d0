# SPDX-License-Identifier: GPL-3.0-or-later
"""The built collection as a user has it: installed into an empty directory, with nothing but what it depends on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.cluster import Cluster
from tests.running import ROOT
from tests.setup import BUILD

JAVA = "registry.example.com/team/java11:2.1"


def outside(cluster: Cluster, command: list[str]) -> list[str]:
    """The command in the machine's own network, which this process has left: for a package index."""
    return ["nsenter", f"--net=/proc/{os.getppid()}/ns/net", "--", *command] if cluster.network else command


@pytest.fixture(scope="module")
def bin_directory(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The programs of an environment with ansible-core and the kubernetes client alone."""
    venv = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    needed = [f"{name}=={importlib.metadata.version(name)}" for name in ("ansible-core", "kubernetes")]
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *needed]
    subprocess.run(outside(cluster, pip), check=True, timeout=300)
    return venv / "bin"


@pytest.mark.thorough
def test_playbooks_run_by_their_full_names_from_the_installed_tarball(
    cluster: Cluster, namespace: str, bin_directory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    cluster.push(JAVA)
    collections = tmp_path / "collections"
    environment = {
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{bin_directory}:/usr/bin:/bin",
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "K8S_AUTH_KUBECONFIG": str(cluster.kubeconfig),
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    run("ansible-galaxy", "collection", "install", "--offline", "--no-deps", "-p", str(collections), str(archive))
    dependency = collections / "ansible_collections" / "kubernetes" / "core"
    dependency.parent.mkdir()
    dependency.symlink_to((BUILD / "collections/ansible_collections/kubernetes/core").resolve())

    variables = json.dumps({"image_puller_namespace": namespace, "image_puller_images": {"java11": JAVA}})
    installed = run("ansible-playbook", "kubecache.image_puller.install", "-e", variables)
    assert f"Healthy: DaemonSet {namespace}/kubernetes-image-puller" in installed
    names = json.dumps({"image_puller_namespace": namespace})
    assert "changed=0" in run("ansible-playbook", "kubecache.image_puller.health_check", "-e", names)
    assert "java11" in run("ansible-playbook", "kubecache.image_puller.status", "-e", names)
    run("ansible-playbook", "kubecache.image_puller.uninstall", "-e", names)
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
