# SPDX-License-Identifier: GPL-3.0-or-later
"""actionlint, which knows how GitHub reads workflows, finds nothing in ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster.tools import program
from tests.running import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def actionlint(*paths: Path) -> subprocess.CompletedProcess[str]:
    # With no other linter that happens to be on this machine.
    command = [str(program("actionlint")), "-no-color", "-shellcheck=", "-pyflakes=", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_it_finds_nothing_in_the_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["release", "test-all", "test"]
    done = actionlint(*WORKFLOWS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("inputs.version", "inputs.verison", 'property "verison" is not defined'),
        ("needs: test", "needs: tests", 'job "tests" which does not exist'),
        ("id-token: write", "id-tokens: write", 'unknown permission scope "id-tokens"'),
    ],
)
def test_it_finds_what_is_wrong(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert right in text
    (tmp_path / "release.yml").write_text(text.replace(right, wrong))
    done = actionlint(tmp_path / "release.yml")
    assert done.returncode == 1
    assert told in done.stdout
