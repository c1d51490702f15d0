# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation's site: it builds without a warning, its links lead somewhere, and the tutorial works as written.

The tutorial is followed literally, in an empty directory with a home of its own, with the collection as users get it:
each block of shell commands is run as it stands, each file is written as it is shown, and the lines that are shown are
among those that were printed, in that order.
"""

from __future__ import annotations

import html.parser
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browse
from tests.cluster import Cluster
from tests.running import ROOT
from tests.setup import BUILD

TUTORIAL = ROOT / "docs" / "site" / "tutorial.md"
IMAGES = ("docker.io/library/nginx:1.29-alpine", "docker.io/library/redis:8-alpine")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAILS = "# fails"


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    command = [str(BUILD / "docs-tools" / "bin" / "python"), "-m", "docs.site.build", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


class Names(html.parser.HTMLParser):
    """The targets to which a page leads, and the ids that lead into it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.targets |= {found[name] for name in ("href", "src") if name in found}
        self.ids |= {found[name] for name in ("id", "name") if name in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Names]:
    """The pages of the site, built anew."""
    home = tmp_path_factory.mktemp("site")
    done = build("--source", str(home / "source"), "--output", str(home / "html"))
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Names(path.read_text(encoding="utf-8")) for path in (home / "html").rglob("*.html")}


def test_all_pages_are_there(site: dict[Path, Names]) -> None:
    names = {path.name for path in site}
    assert {"index.html", "guide.html", "tutorial.html", "comparison.html", "migration.html"} <= names
    modules = [path.stem for path in (ROOT / "plugins" / "modules").glob("image_puller_*.py")]
    assert {f"{module}_module.html" for module in modules} | {"image_puller_role.html"} <= names


def test_the_theme_refuses_nothing(site: dict[Path, Names]) -> None:
    """Furo writes its complaints into the page, where no build fails of them."""
    assert not [path.name for path in site if "ERROR: " in path.read_text(encoding="utf-8")]


def test_each_link_inside_leads_somewhere(site: dict[Path, Names]) -> None:
    lost = []
    followed = 0
    for page, names in site.items():
        for target in names.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            followed += 1
            path = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
            found = path in site if path.suffix == ".html" else path.is_file()
            if not found or (parts.fragment and path in site and parts.fragment not in site[path].ids):
                lost.append(f"{page.name}: {target}")
    assert followed > 500
    assert not lost


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_be_read_in_light_and_in_dark(site: dict[Path, Names], scheme: str) -> None:
    names = ("index.html", "comparison.html", "image_puller_daemonset_module.html", "image_puller_role.html")
    with browse() as page:
        page.scheme(scheme)
        for path in (path for path in site if path.name in names):
            page.open(path)
            assert [found for found in page.axe() if found.startswith("color-contrast")] == [], path.name


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("[x](no-such-page.md)", "no-such-page.md, which is not there"),
        ("[x](../OPERATOR.md#no-such-heading)", "no-such-heading"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(wrong: str, told: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for path in ROOT.iterdir():
        if path.name not in ("build", "docs"):
            (tmp_path / path.name).symlink_to(path)
    page = tmp_path / "docs" / "site" / "air-gap.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{wrong}\n", encoding="utf-8")
    places = ("--source", str(tmp_path / "source"), "--output", str(tmp_path / "html"))
    done = build("--root", str(tmp_path), *places)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user: the collection from its tarball in a home, a kubeconfig, and the images."""
    for image in IMAGES:
        cluster.push(image)
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in cluster.environment().items() if key in ("PATH", "KUBECONFIG")}
    environment = {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    galaxy = ["ansible-galaxy", "collection"]
    subprocess.run([*galaxy, "build", str(ROOT), "--output-path", str(home)], env=environment, check=True)
    (archive,) = home.glob("*.tar.gz")
    subprocess.run([*galaxy, "install", "--offline", "--no-deps", str(archive)], env=environment, check=True)
    core = home / ".ansible" / "collections" / "ansible_collections" / "kubernetes" / "core"
    core.parent.mkdir()
    core.symlink_to((BUILD / "collections/ansible_collections/kubernetes/core").resolve())
    try:
        yield environment
    finally:
        cluster.kubectl("delete", "namespace", "k8s-image-puller", "--ignore-not-found")
        cluster.kubectl("delete", "pod", "web", "--ignore-not-found", "--now")


def assert_shown(shown: str, printed: str) -> None:
    """Each line that the page shows was printed, in this order; "..." and what is not shown may be anything."""
    position = 0
    for line in filter(None, map(str.strip, shown.replace("...\n", "").splitlines())):
        found = printed.find(line, position)
        assert found >= 0, f"{line!r} is not printed there:\n{printed}"
        position = found + len(line)


def test_the_tutorial_works_as_written(shell: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    printed = ""
    for language, text in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        if language == "yaml":
            name, _, content = text.removeprefix("# ").partition("\n")
            (directory / name).write_text(content, encoding="utf-8")
        elif language == "shell":
            command = ["sh", "-e", "-c", f"exec 2>&1\n{text}"]
            done = subprocess.run(
                command, cwd=directory, env=shell, capture_output=True, text=True, timeout=600, check=False
            )
            printed = done.stdout
            assert (done.returncode != 0) == (FAILS in text), f"{text}\n{printed}"
        else:
            assert_shown(text, printed)
    assert (directory / "image-puller.html").stat().st_size > 10_000
