# SPDX-License-Identifier: GPL-3.0-or-later
"""What the code host does for the project: workflows with few rights and pinned actions, and forms for issues."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
FORMS = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
REPOSITORY: str = yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"]


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[name])["jobs"]
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_and_say_their_version(name: str) -> None:
    """A tag of an action can be moved to another content; the comment is for whoever renews it."""
    used = re.findall(r"^ +(?:- )?uses: (.*)$", WORKFLOWS[name], re.MULTILINE)
    assert used
    for each in used:
        assert each.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_and_only_a_release_may_write(name: str) -> None:
    assert yaml.safe_load(WORKFLOWS[name])["permissions"] == {"contents": "read"}
    more = {job: asked["permissions"] for job, asked in jobs(name).items() if "permissions" in asked}
    wanted = {"contents": "write", "id-token": "write", "packages": "write"}
    assert more == ({"release": wanted} if name == "release" else {})


def test_what_is_released_was_tested_and_approved() -> None:
    release = jobs("release")
    assert release["test"] == {"uses": "./.github/workflows/test-all.yml"}
    assert (release["release"]["needs"], release["release"]["environment"]) == ("test", "release")


def test_they_run_what_is_run_at_home() -> None:
    names = ("test", "test-all", "release")
    steps = [step["run"] for name in names for step in jobs(name)[name]["steps"] if "run" in step]
    assert steps[0] == "sudo --preserve-env=CI .ci/run"
    assert steps[1].endswith(" make test-all")
    assert steps[-1] == "make release PUSH=1"
    assert "exec make test\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_what_the_code_host_can_show(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    identities = [item["id"] for item in form["body"]]
    assert len(identities) == len(set(identities))
    for item in form["body"]:
        assert item["type"] == "textarea"
        assert item["attributes"]["label"]
        assert item["attributes"].keys() <= {"label", "description", "render"}


def test_what_endangers_a_cluster_is_reported_in_private() -> None:
    config = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text())
    private = f"{REPOSITORY}/security/advisories/new"
    assert private in [link["url"] for link in config["contact_links"]]
    assert private in (ROOT / "SECURITY.md").read_text()


def test_the_hooks_are_the_projects_own_checks() -> None:
    """A repository of hooks would bring other versions than `make setup` does."""
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    lint = (ROOT / "Makefile").read_text()
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        program = hook["entry"].removeprefix("build/venv/bin/").split(" --")[0]
        assert program.removeprefix("make ") in lint
