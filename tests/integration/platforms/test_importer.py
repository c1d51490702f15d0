# SPDX-License-Identifier: GPL-3.0-or-later
"""galaxy-importer, with which Galaxy and automation hub take a collection in, says nothing against the built one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.running import ROOT
from tests.setup import BUILD

PROGRAMS = BUILD / "platform" / "bin"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the importer says of the tarball, and the directory with its result."""
    home = tmp_path_factory.mktemp("importer")
    environment = os.environ | {
        "ANSIBLE_HOME": str(home / "ansible"),
        "GALAXY_IMPORTER_CONFIG": str(ROOT / "tests" / "galaxy-importer.cfg"),
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*command: str) -> str:
        pipe, merged = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run(
            command, cwd=home, env=environment, stdout=pipe, stderr=merged, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(home))
    (archive,) = home.glob("*.tar.gz")
    return run(str(PROGRAMS / "python"), "-m", "galaxy_importer.main", str(archive), "--print-result"), home


def test_it_has_no_warning_and_no_error(imported: tuple[str, Path]) -> None:
    said, _home = imported
    # Its result, which follows, has our pages, and one of them is about errors.
    assert re.findall(r"^(?:WARNING|ERROR|CRITICAL|\w*Error).*$", said, re.MULTILINE) == []
    assert "Importer processing completed successfully" in said


def test_it_finds_everything(imported: tuple[str, Path]) -> None:
    said, _home = imported
    assert "via flake8..." in said
    assert "Linting collection via ansible-lint" in said
    result = json.loads(said[said.index("\n{") :])
    found = {(content["content_type"], content["name"]) for content in result["contents"]}
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}
    playbooks = {path.name for path in (ROOT / "playbooks").glob("*.yml")}
    assert {name for kind, name in found if kind == "module"} == modules
    assert {name for kind, name in found if kind == "playbook"} == playbooks
    assert ("role", "image_puller") in found
