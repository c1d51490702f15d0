# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-builder finds in the collection as users get it what an execution environment needs, and plans ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.running import ROOT
from tests.setup import BUILD


def run(*command: str, **environment: str) -> str:
    variables = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def builder(*arguments: str) -> str:
    """What ansible-builder prints; it must succeed."""
    return run(str(BUILD / "platform" / "bin" / "ansible-builder"), *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of collections with the built one, and the one that it depends on."""
    home = tmp_path_factory.mktemp("collections")
    run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(home))
    (archive,) = home.glob("*.tar.gz")
    install = ("ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--collections-path", str(home))
    run(*install, str(archive), ANSIBLE_COLLECTIONS_PATH=str(home))
    core = home / "ansible_collections" / "kubernetes" / "core"
    core.parent.mkdir()
    core.symlink_to(os.path.realpath(BUILD / "collections" / "ansible_collections" / "kubernetes" / "core"))
    return home


def test_the_requirements_are_found_in_the_tarball(installed: Path) -> None:
    found = yaml.safe_load(builder("introspect", str(installed)))
    ours = {line.partition("  #")[0] for line in found["python"] if line.endswith("kubecache.image_puller")}
    assert ours == set((ROOT / "requirements.txt").read_text().split())
    assert not [line for line in found.get("system", ()) if line.endswith("kubecache.image_puller")]


def test_the_definition_takes_this_release_and_any_base(tmp_path: Path) -> None:
    definition = ROOT / "extensions" / "ee" / "execution-environment.yml"
    builder("create", "--file", str(definition), "--context", str(tmp_path), "--output-filename", "Containerfile")
    base = yaml.safe_load(definition.read_text())["images"]["base_image"]["name"]
    lines = (tmp_path / "Containerfile").read_text().splitlines()
    assert f'ARG EE_BASE_IMAGE="{base}"' in lines
    assert base.rpartition(":")[2] not in ("latest", base)
    assert "FROM $EE_BASE_IMAGE AS base" in lines
    (wanted,) = yaml.safe_load((tmp_path / "_build" / "requirements.yml").read_text())["collections"]
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert wanted == {"name": f"{galaxy['namespace']}.{galaxy['name']}", "version": galaxy["version"]}


def test_the_command_lines_of_kubernetes_core_are_left_out(installed: Path, tmp_path: Path) -> None:
    """All of them: the base that is not a subscriber's does not have them."""
    definition = yaml.safe_load((ROOT / "extensions" / "ee" / "execution-environment.yml").read_text())
    excluded = tmp_path / "excluded.txt"
    excluded.write_text("\n".join(definition["dependencies"]["exclude"]["system"]))
    found = yaml.safe_load(builder("introspect", str(installed), "--exclude-bindep-reqs", str(excluded)))
    assert "system" not in found or not found["system"], found
