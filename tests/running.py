# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests, benchmarks and the demonstration run Ansible, most of them against a cluster of `tests.cluster`."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import yaml
from ansible.module_utils import basic

from tests.cluster import Cluster

ROOT = pathlib.Path(__file__).resolve().parents[1]
WRITES = ("create", "update", "patch", "delete", "deletecollection")
# A kubeconfig of a cluster that nobody listens for, which each module says in its own words.
NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {"token": "s3cret-t0ken"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "current-context": "none",
}


def ansible_settings() -> dict[str, str]:
    """What makes Ansible use this checkout's collection, and print the same everywhere."""
    return {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_HOME": str(ROOT / "build" / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
    }


def ansible_environment(cluster: Cluster) -> dict[str, str]:
    """The environment of an ansible-playbook: this checkout's collection, and this cluster and no other."""
    environment = cluster.environment()
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return {**environment, **ansible_settings(), "PATH": path}


def push_built_images(cluster: Cluster) -> None:
    """The controller's and the helper's image from build/, into the cluster's registry under their own names."""
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    helper_version = (ROOT / "controller" / "helper" / "VERSION").read_text().strip()
    for name, tag in (("image-puller", version), ("image-puller-helper", helper_version)):
        cluster.push_archive(ROOT / "build" / f"{name}.oci.tar", f"ghcr.io/kubecache/{name}:{tag}")


@contextlib.contextmanager
def module_arguments(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Within it a module that is run in this process has these arguments, on every ansible-core from 2.16 on.

    ansible.module_utils.testing does the same, and came later.
    """
    text = json.dumps({"ANSIBLE_MODULE_ARGS": dict(arguments)}).encode()
    profile = mock.patch.object(basic, "_ANSIBLE_PROFILE", "legacy", create=True)
    with mock.patch.object(basic, "_ANSIBLE_ARGS", text), profile:
        yield
