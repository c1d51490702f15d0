# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in the first ten minutes, by the playbooks: a sentence that says what to do, and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.running import NOWHERE, WRITES, ansible_environment, ansible_settings
from tests.setup import BUILD

from .conftest import Playbook, Run

pytestmark = pytest.mark.thorough

# What the playbooks do where there is nothing, and whether they need a cluster for it.
PLAYBOOKS = ("install", "plan", "status", "health_check", "uninstall", "migrate", "render")
ASKING = PLAYBOOKS[:-1]
MISSPELT = "image_puller_imges is no variable of this role; did you mean image_puller_images?"


def sentence(run: Run) -> str:
    """The message of the one task that failed: a sentence, and nothing of the code behind it."""
    assert run.rc != 0, run.stdout
    for trace in ("Traceback", "traceback", "MODULE FAILURE", ".py"):
        assert trace not in run.stdout, run.stdout
    (failed,) = re.findall(r"^fatal: \[localhost\]: FAILED! => (\{.*\})$", run.stdout, re.MULTILINE)
    message: str = json.loads(failed)["msg"]
    assert "\n" not in message
    return message


@dataclass(frozen=True)
class Newcomer:
    """Somebody with a home directory of their own, where no cluster is named."""

    home: Path

    def run(self, playbook: str, *arguments: str, core: str = "", **environment: str) -> Run:
        """Run a playbook, of the collection unless it is a file, where the home directory is."""
        program = ["ansible-playbook"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"HOME": str(self.home), "PWD": str(self.home), "PATH": path}
        if core:
            program = [sys.executable, "-m", "ansible", "playbook"]
            settings["PYTHONPATH"] = str(BUILD / "ansible-core" / core)
        done = subprocess.run(
            [*program, playbook if playbook.endswith(".yml") else f"kubecache.image_puller.{playbook}", *arguments],
            env={"LC_ALL": "C.UTF-8", **settings, **ansible_settings(), **environment},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    def write(self, name: str, content: Any) -> str:
        """A file in the home directory, as JSON, which is YAML."""
        (self.home / name).write_text(json.dumps(content), encoding="utf-8")
        return name


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    """A user at the beginning."""
    return Newcomer(tmp_path)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment without any library."""
    directory = tmp_path_factory.mktemp("bare")
    venv.create(directory)
    return directory / "bin" / "python"


# --- a typo in a variable's name -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_misspelt_variable_is_told_before_anything_is_done(newcomer: Newcomer, name: str) -> None:
    assert sentence(newcomer.run(name, "-e", "image_puller_imges=")) == MISSPELT
    assert not (newcomer.home / "image-puller").exists()  # Where "render" writes.


def test_every_ansible_core_tells_it(newcomer: Newcomer, core: str) -> None:
    run = newcomer.run("plan", "-e", "image_puller_imges=", "-e", "image_puller_team=a", core=core)
    assert sentence(run) == MISSPELT
    assert "image_puller_team is no variable of this role, and does nothing." in " ".join(run.stdout.split())


def _in_the_inventory(newcomer: Newcomer) -> Run:
    hosts = {"control": {"hosts": {"localhost": {}}, "vars": {"image_puller_imges": {"java11": "java:11"}}}}
    return newcomer.run("render", "-i", newcomer.write("hosts.yml", hosts))


def _in_the_vars_of_an_import(newcomer: Newcomer) -> Run:
    play = {"import_playbook": "kubecache.image_puller.render", "vars": {"image_puller_imges": "java11=java:11"}}
    return newcomer.run(newcomer.write("site.yml", [play]))


def _in_the_vars_of_the_role(newcomer: Newcomer) -> Run:
    name = {"name": "kubecache.image_puller.image_puller", "tasks_from": "render"}
    role = {"ansible.builtin.include_role": name, "vars": {"image_puller_imges": "java11=java:11"}}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [role]}
    return newcomer.run(newcomer.write("site.yml", [play]))


@pytest.mark.parametrize("how", [_in_the_inventory, _in_the_vars_of_an_import, _in_the_vars_of_the_role])
def test_wherever_it_was_set(newcomer: Newcomer, how: Callable[[Newcomer], Run]) -> None:
    assert sentence(how(newcomer)) == MISSPELT


def test_a_variable_of_the_users_own_is_a_warning(newcomer: Newcomer) -> None:
    run = newcomer.run("render", "-e", "image_puller_team=a", "-e", "image_puller_eda_token=s3cret")
    assert run.rc == 0, run.stdout
    told = re.findall(r"image_puller_\w+ is no variable of this role[^.]*\.", " ".join(run.stdout.split()))
    assert told == ["image_puller_team is no variable of this role, and does nothing."]
    assert any((newcomer.home / "image-puller").iterdir())


# --- no cluster ------------------------------------------------------------------------------------------------------


def test_without_any_cluster_the_ways_to_name_one_are_told(newcomer: Newcomer) -> None:
    told = sentence(newcomer.run("install"))
    assert told.startswith("No cluster is named. ")
    assert "K8S_AUTH_KUBECONFIG" in told


@pytest.mark.parametrize("name", ASKING)
def test_a_cluster_that_does_not_answer_is_told(newcomer: Newcomer, name: str) -> None:
    nowhere = newcomer.write("kubeconfig", NOWHERE)
    run = newcomer.run(name, K8S_AUTH_KUBECONFIG=str(newcomer.home / nowhere))
    assert sentence(run) == (
        "127.0.0.1:1 does not answer (connection refused). Check the kubeconfig, context or host, and the network."
    )
    assert "s3cret-t0ken" not in run.stdout


def test_a_kubeconfig_that_is_not_there_is_told(newcomer: Newcomer) -> None:
    told = sentence(newcomer.run("status", K8S_AUTH_KUBECONFIG="/nothing/here"))
    assert told.startswith("Cannot read the file /nothing/here that K8S_AUTH_KUBECONFIG names.")


# --- the wrong interpreter, or one without the libraries -------------------------------------------------------------


@pytest.mark.parametrize("name", ["install", "status"])
def test_a_python_without_the_library_is_told_with_the_command_that_brings_it(
    newcomer: Newcomer, bare_python: Path, name: str
) -> None:
    assert sentence(newcomer.run(name, "-e", f"ansible_python_interpreter={bare_python}")) == (
        f"The Python library kubernetes is missing for {bare_python}. Install it with: {bare_python} -m pip install "
        "'kubernetes>=24.2', or choose another Python with ansible_python_interpreter."
    )


def test_manifests_are_not_written_without_pyyaml(newcomer: Newcomer, bare_python: Path) -> None:
    told = sentence(newcomer.run("render", "-e", f"ansible_python_interpreter={bare_python}"))
    assert told.startswith(f"The Python library PyYAML is missing for {bare_python}. ")


def test_an_interpreter_that_is_not_there_is_told(newcomer: Newcomer) -> None:
    assert "/nothing/python" in sentence(newcomer.run("status", "-e", "ansible_python_interpreter=/nothing/python"))


def test_a_missing_collection_is_told_with_the_command_that_brings_it(newcomer: Newcomer) -> None:
    """Nothing but ours is installed, as from a tarball without its dependencies."""
    ours = Path("ansible_collections", "kubecache", "image_puller")
    (newcomer.home / ours.parent).mkdir(parents=True)
    (newcomer.home / ours).symlink_to((BUILD / "collections" / ours).resolve())
    told = sentence(newcomer.run("install", ANSIBLE_COLLECTIONS_PATH=str(newcomer.home)))
    assert told.startswith(
        "The collection kubernetes.core is missing. Install it with: ansible-galaxy collection install"
    )


# --- a cluster, and no right or nothing there ------------------------------------------------------------------------


@pytest.fixture
def nobody(cluster: Cluster, namespace: str, newcomer: Newcomer) -> Callable[[str], Run]:
    """Run a playbook as a user who has no right at all."""
    environment = {**ansible_environment(cluster), "K8S_AUTH_IMPERSONATE_USER": "nobody"}
    return lambda name: newcomer.run(name, "-e", f"image_puller_namespace={namespace}", **environment)


@pytest.mark.parametrize("name", ASKING)
def test_without_rights_the_rule_to_grant_is_told_and_nothing_is_changed(
    cluster: Cluster, namespace: str, nobody: Callable[[str], Run], name: str
) -> None:
    mark = cluster.audit_mark()
    told = sentence(nobody(name))
    kind, group = ("deployments", "apps") if name == "migrate" else ("configmaps", "")
    rule: Mapping[str, list[str]] = {"apiGroups": [group], "resources": [kind], "verbs": ["list"]}
    assert told.endswith(
        f"Grant with a Role in namespace {namespace}: " + ", ".join(f"{k} {json.dumps(v)}" for k, v in rule.items())
    )
    assert [each for each in cluster.audit(mark) if each["verb"] in WRITES and each["namespace"] == namespace] == []


def test_the_status_of_a_wrong_namespace_says_so(playbook: Playbook, namespace: str) -> None:
    told = " ".join(playbook("status").stdout.split())
    assert (
        f"- ConfigMap {namespace}/k8s-image-puller does not exist - There is no Image Puller. Install it with" in told
    )
    assert "or correct namespace and config_map_name" in told


def test_the_health_check_of_a_wrong_namespace_says_so(playbook: Playbook, namespace: str) -> None:
    assert sentence(playbook("health_check", ok=False)) == (
        f"ConfigMap {namespace}/k8s-image-puller does not exist. There is no Image Puller. Install it with the "
        "playbook kubecache.image_puller.install, or correct namespace and config_map_name"
    )


def test_a_migration_from_a_wrong_namespace_says_so(playbook: Playbook, namespace: str) -> None:
    told = sentence(playbook("migrate", ok=False))
    assert told.startswith(f"No Deployment in namespace {namespace} runs an Image Puller")
    assert told.endswith("Remedy: name another namespace")


def test_the_uninstallation_of_a_wrong_namespace_says_so(playbook: Playbook) -> None:
    playbook("uninstall")  # What others left and nobody uses is gone by now.
    run = playbook("uninstall")
    assert run.changed == 0
    told = " ".join(run.stdout.split())
    assert "There is no Image Puller here, and nothing was removed." in told
    assert "Nothing of the installation stays" not in told


def test_a_namespace_that_can_be_none_is_told_with_one_that_can(playbook: Playbook) -> None:
    run = playbook("install", namespace="My_Cache", ok=False)
    assert "namespace 'My_Cache': it is no name of a namespace" in run.stdout
    assert "write 'my-cache'" in run.stdout
    assert "Traceback" not in run.stdout
