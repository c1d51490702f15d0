# SPDX-License-Identifier: GPL-3.0-or-later
"""`make release`: a dry run makes all of a release and leaves no trace; what it shows is what a real one runs.

Nothing leaves this machine: docker, cosign and the publishing half of ansible-galaxy are stand-ins that write down how
they were called, and a bare repository stands for the code host.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.running import ROOT

VERSION = "98.7.6"
DIGEST = "sha256:" + "0123456789abcdef" * 4
STAND_IN = f"""#!/usr/bin/env python3
import json, os, pathlib, shlex, sys
name = pathlib.Path(sys.argv[0]).name
with open(os.environ["TOLD"], "a") as told:
    told.write(shlex.join([name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:3] == ["buildx", "imagetools"]:
    sys.exit("not found")
if "--metadata-file" in sys.argv:
    path = pathlib.Path(sys.argv[sys.argv.index("--metadata-file") + 1])
    path.write_text(json.dumps({{"containerimage.digest": "{DIGEST}"}}))
"""


@dataclass(frozen=True)
class Checkout:
    """A committed copy of this checkout, the repository that it came from, and an environment with stand-ins."""

    path: Path
    origin: Path
    told: Path
    environment: dict[str, str]

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def state(self) -> tuple[str, str, str]:
        """What is checked out, what differs from it, and all tags."""
        asked = (["rev-parse", "HEAD"], ["status", "--porcelain"], ["tag"])
        head, changed, tags = (self.run("git", *arguments) for arguments in asked)
        return head, changed, tags

    def called(self) -> list[list[str]]:
        """How the stand-ins were called."""
        return [shlex.split(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    path, origin, stand_ins = (tmp_path / name for name in ("checkout", "origin.git", "bin"))
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    stand_ins.mkdir()
    for name in ("docker", "cosign", "ansible-galaxy"):
        (stand_ins / name).write_text(STAND_IN)
        (stand_ins / name).chmod(0o755)
    people = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in
              (("NAME", "Tester"), ("EMAIL", "tester@example.com"))}  # fmt: skip
    environment = {**os.environ, **people, "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"TOLD": str(tmp_path / "told"), "PYTHONPATH": str(path / "build" / "collections")}
    made = Checkout(path, origin, tmp_path / "told", environment)
    made.run("git", "init", "--quiet", "--initial-branch=main")
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message=All")
    made.run("git", "clone", "--quiet", "--bare", str(path), str(origin))
    made.run("git", "remote", "add", "origin", str(origin))
    made.run("make", "setup")
    return made


def test_a_dry_run_makes_all_and_leaves_no_trace(checkout: Checkout) -> None:
    before = checkout.state()
    said = checkout.run("make", "release", f"VERSION={VERSION}")
    assert "This would be published, and was not:" in said
    for name in (f"image-puller:{VERSION}", f"image-puller-operator-bundle:{VERSION}", "image-puller-helper:"):
        assert f"--tag ghcr.io/kubecache/{name}" in said
    assert f"git tag --annotate --message 'Release {VERSION}' v{VERSION}" in said
    archive = checkout.path / "build" / "release" / f"kubecache-image_puller-{VERSION}.tar.gz"
    assert f"ansible-galaxy collection publish {archive}" in said
    with tarfile.open(archive) as opened:
        (changelog, requirements) = (
            opened.extractfile(name) for name in ("CHANGELOG.md", "extensions/ee/requirements.yml")
        )
        assert changelog
        assert requirements
        assert f"v{VERSION}" in changelog.read().decode().replace("\\", "")
        assert yaml.safe_load(requirements)["collections"][0]["version"] == VERSION
    assert checkout.state() == before
    assert checkout.called() == []
    assert checkout.run("git", "ls-remote", str(checkout.origin)).count("\n") == 2


def test_a_release_pushes_signs_and_publishes(checkout: Checkout) -> None:
    head, _, _ = checkout.state()
    checkout.run("python3", "-m", "deploy.release", VERSION, "--push")
    registry = "ghcr.io/kubecache"
    helper = (ROOT / "controller" / "helper" / "VERSION").read_text().strip()
    pushed = {"image-puller-helper": helper, "image-puller": VERSION, "image-puller-operator-bundle": VERSION}
    inspected, *images, published = checkout.called()
    assert inspected == ["docker", "buildx", "imagetools", "inspect", f"{registry}/image-puller-helper:{helper}"]
    for (name, version), build, sign in zip(pushed.items(), images[::2], images[1::2], strict=True):
        assert build[:3] == ["docker", "buildx", "build"]
        assert {"--push", "--sbom=true", "linux/amd64,linux/arm64", f"{registry}/{name}:{version}"} <= set(build)
        assert sign == ["cosign", "sign", "--yes", f"{registry}/{name}@{DIGEST}"]
    assert published[:3] == ["ansible-galaxy", "collection", "publish"]
    assert Path(published[3]).name == f"kubecache-image_puller-{VERSION}.tar.gz"

    def there(*arguments: str) -> str:
        return checkout.run("git", "--git-dir", str(checkout.origin), *arguments)

    assert there("log", "-1", "--format=%s%n%P", "main") == f"Release {VERSION}\n{head}"
    assert there("rev-parse", "main") == there("rev-parse", f"v{VERSION}^{{commit}}")
    assert yaml.safe_load(there("show", f"v{VERSION}:galaxy.yml"))["version"] == VERSION
    assert f"v{VERSION}" in there("show", f"v{VERSION}:CHANGELOG.md").replace("\\", "")
    assert "fragments/" not in there("ls-tree", "-r", "--name-only", "main", "changelogs")


def test_what_is_not_committed_is_not_released(checkout: Checkout) -> None:
    (checkout.path / "galaxy.yml").write_text("version: 1.0.0\n")
    said = checkout.run("python3", "-m", "deploy.release", VERSION, "--push", ok=False)
    assert "what is not committed would not be released" in said
    assert "M galaxy.yml" in said
    assert checkout.called() == []
