# SPDX-License-Identifier: GPL-3.0-or-later
"""A release writes its version wherever the collection names its own, and the changelog is there from the start."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy import release
from deploy.release import CHECKOUT, ReleaseError, check_version, current, released, set_version, sources

CHANGELOG = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
NEXT = f"{int(current(CHECKOUT).split('.')[0]) + 1}.7.6"
# "Since which release" stays what it was.
SINCE = re.compile(r"version_added: \S+|^RELEASES = .*$", re.MULTILINE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with all files of this one that may name the version."""
    for path in sources(CHECKOUT):
        target = tmp_path / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_version_changes_wherever_it_stands(copy: Path) -> None:
    old = re.compile(rf"(?<![\w.]){re.escape(current(copy))}(?![\w-]|\.\d)")
    before = [path for path in sources(copy) if old.search(SINCE.sub("", path.read_text(encoding="utf-8")))]
    assert len(before) > 5
    set_version(copy, NEXT, [])
    assert current(copy) == NEXT
    told = {path: SINCE.sub("", path.read_text(encoding="utf-8")) for path in sources(copy)}
    assert [path for path, text in told.items() if old.search(text)] == []
    assert [path for path, text in told.items() if NEXT in text] == before


def test_other_versions_stay(copy: Path) -> None:
    readme = copy / "README.md"
    helper = re.findall(r"image-puller-helper:\S+", readme.read_text(encoding="utf-8"))
    (copy / "galaxy.yml").write_text("version: 1.0.0\n", encoding="utf-8")
    set_version(copy, NEXT, [])
    assert re.findall(r"image-puller-helper:\S+", readme.read_text(encoding="utf-8")) == helper
    assert any(name.endswith(":1.0.0") for name in helper)


def test_the_operators_release_follows_the_ones_before(copy: Path) -> None:
    olm = copy / "plugins" / "module_utils" / "olm.py"
    for before, wanted in ([], "(VERSION,)"), (["0.1.0", "0.2.0"], '("0.1.0", "0.2.0", VERSION)'):
        set_version(copy, NEXT, before)
        assert f"\nRELEASES = {wanted}\n" in olm.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "before", "told"),
    [
        ("", [], "VERSION= is no version: write three numbers"),
        ("v1.2.3", [], "VERSION=v1.2.3 is no version"),
        ("1.2", [], "VERSION=1.2 is no version"),
        ("1.02.3", [], "VERSION=1.02.3 is no version"),
        ("0.9.0", ["0.9.0"], "0.9.0 is released already: VERSION=0.9.0 has to be later"),
        ("0.9.0", ["0.9.0", "0.10.0"], "0.10.0 is released already: VERSION=0.9.0 has to be later"),
    ],
)
def test_a_wrong_version_is_refused(version: str, before: list[str], told: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(told)):
        check_version(version, before)


def test_a_later_version_is_taken() -> None:
    check_version("0.10.0", ["0.8.0", "0.9.0"])


def test_releases_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "changelogs").mkdir()
    changes: dict[str, object] = {"ancestor": None, "releases": {"0.10.0": {}, "0.9.0": {}}}
    (tmp_path / "changelogs" / "changelog.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    assert released(tmp_path) == ["0.9.0", "0.10.0"]


def test_the_changelog_tells_of_the_newest_release_or_that_there_is_none() -> None:
    """The README leads to it, before the first release, too."""
    newest = released(CHECKOUT)[-1:]
    assert ("Nothing has been released yet" in CHANGELOG) == (not newest)
    headings = re.findall(r"^## v(.*)$", CHANGELOG.replace("\\", ""), re.MULTILINE)
    assert headings[:1] == newest


def test_what_is_tested_in_a_release_is_there() -> None:
    assert all((CHECKOUT / name).is_file() for name in release.CHECKS)
