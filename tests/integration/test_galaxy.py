# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as users get it: built, installed into an empty directory, and used from there by its full names.

Needs no cluster. Besides the collection there is only what it depends on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import NOWHERE
from tests.setup import BUILD, CHECKOUT

NAME = "kubecache.image_puller"
MODULES = ("image_puller_config", "image_puller_daemonset", "image_puller_info", "image_puller_install")
PLAYBOOKS = ("health_check", "install", "render", "status", "uninstall")
SHIPPED = {
    *("CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "SECURITY.md", "requirements.txt"),
    *("changelogs", "deploy", "docs", "extensions", "meta", "playbooks", "plugins", "roles", "tests"),
}
RELATIVE_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)[^)#\s]+")


@dataclass(frozen=True)
class Installation:
    """A home directory with the collection's tarball and, in `collections`, what Ansible installed from it."""

    home: Path

    @property
    def archive(self) -> Path:
        (built,) = self.home.glob("*.tar.gz")
        return built

    @property
    def collection(self) -> Path:
        return self.home / "collections" / "ansible_collections" / "kubecache" / "image_puller"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Ansible with an environment that knows nothing of the checkout."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.home / "collections"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        }
        return subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def output(self, *command: str) -> str:
        """What a command that succeeds prints."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def play(self, **play: Any) -> str:
        """What a play on localhost prints with all details, whether it fails or not."""
        playbook = self.home / "play.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, **play}]))
        return self.run("ansible-playbook", "-vvv", str(playbook)).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    home = tmp_path_factory.mktemp("home")
    installation = Installation(home)
    installation.output("ansible-galaxy", "collection", "build", str(CHECKOUT), "--output-path", str(home))
    options = ("--offline", "--no-deps", "--collections-path", str(home / "collections"))
    installation.output("ansible-galaxy", "collection", "install", *options, str(installation.archive))
    core = home / "collections" / "ansible_collections" / "kubernetes" / "core"
    core.parent.mkdir()
    core.symlink_to((BUILD / "collections/ansible_collections/kubernetes/core").resolve())
    return installation


def test_tarball_ships_what_users_need_and_no_more(installed: Installation) -> None:
    with tarfile.open(installed.archive) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert {name.split("/")[0] for name in files} == SHIPPED
    assert {name for name in files if name.startswith("tests/")} == {"tests/config.yml"}
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ours = subprocess.run(list_files, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert files - {"MANIFEST.json", "FILES.json"} <= set(ours.stdout.splitlines())


def test_its_pages_link_only_to_what_is_shipped(installed: Installation) -> None:
    """What is not is linked by its address: a picture that is large, what only a checkout has."""
    lost, followed = [], 0
    for page in installed.collection.rglob("*.md"):
        for target in RELATIVE_LINK.findall(page.read_text(encoding="utf-8")):
            followed += 1
            if not (page.parent / target).exists():
                lost.append(f"{page.relative_to(installed.collection)}: {target}")
    assert followed > 50
    assert lost == []


def test_tarball_is_small(installed: Installation) -> None:
    assert installed.archive.stat().st_size < 500_000


def test_modules_are_documented(installed: Installation) -> None:
    listed = json.loads(installed.output("ansible-doc", "--json", "--list", NAME))
    assert {f"{NAME}.{module}" for module in MODULES} <= listed.keys()
    for module in MODULES:
        found = json.loads(installed.output("ansible-doc", "--json", f"{NAME}.{module}"))[f"{NAME}.{module}"]
        assert {"kubeconfig", "namespace"} <= found["doc"]["options"].keys()
        assert found["doc"]["attributes"]["check_mode"]["support"] == "full"
        assert yaml.safe_load(found["examples"])
        assert found["return"]


def test_role_documents_its_entry_points(installed: Installation) -> None:
    role = f"{NAME}.image_puller"
    found = json.loads(installed.output("ansible-doc", "--type", "role", "--json", role))[role]
    assert found["entry_points"].keys() == {"main", "health_check", "migrate", "plan", "render", "status", "uninstall"}


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbook_is_found_by_its_full_name(installed: Installation, playbook: str) -> None:
    output = installed.output("ansible-playbook", "--syntax-check", f"{NAME}.{playbook}")
    assert str(installed.collection / "playbooks" / f"{playbook}.yml") in output


def test_playbook_can_be_imported(installed: Installation) -> None:
    site = installed.home / "site.yml"
    images = {"java11": "registry.example.com/team/java11:2.1"}
    play = {"ansible.builtin.import_playbook": f"{NAME}.install", "vars": {"image_puller_images": images}}
    site.write_text(yaml.safe_dump([play]))
    assert "Install the Image Puller" in installed.output("ansible-playbook", "--list-tasks", str(site))


def test_variable_files_are_shipped(installed: Installation) -> None:
    files = sorted((installed.collection / "playbooks" / "vars").glob("*.yml"))
    assert [path.stem for path in files] == ["che", "codeready_workspaces_2_1"]
    assert all(yaml.safe_load(path.read_text())["image_puller_images"] for path in files)


@pytest.mark.parametrize("module", ["kubecache.image_puller.image_puller_info", "kubernetes.core.k8s_info"])
def test_action_group_connects_both_collections(installed: Installation, module: str) -> None:
    options = {"kind": "Node"} if module.startswith("kubernetes.core") else {}
    output = installed.play(
        module_defaults={f"group/{NAME}.image_puller": {"kubeconfig": NOWHERE}}, tasks=[{module: options}]
    )
    assert "127.0.0.1" in output
    assert "onnection refused" in output


def test_failed_connection_shows_one_sentence_and_no_secret(installed: Installation) -> None:
    output = installed.play(tasks=[{f"{NAME}.image_puller_info": {"kubeconfig": NOWHERE}}])
    assert "127.0.0.1:1 does not answer (connection refused). Check the kubeconfig, context or host" in output
    assert "Traceback" not in output
    assert "s3cret-t0ken" not in output
