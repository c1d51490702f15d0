# SPDX-License-Identifier: GPL-3.0-or-later
"""Release the collection, its images and the operator's bundle: `make release VERSION=1.2.3`.

Everything is made in a clone, which is gone afterwards: the version is set, what is generated is made anew, the
fragments become the changelog, and the tarball and the images are built. Then come the steps that others see. A dry run
shows them; with PUSH=1, which is for the release workflow, they are run. galaxy.yml is where the version stands; all
other places follow it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.olm import BUNDLE_IMAGE
from controller.image import Image, controller, helper

CHECKOUT = Path(__file__).resolve().parents[1]
PLATFORMS = "linux/amd64,linux/arm64"
CHECKS = [f"tests/unit/test_{name}.py" for name in ("collection", "deploy", "installation", "releasing")]
# What is tried is not what is released, and what was released stays as it was.
_OTHERS = ("tests/", "changelogs/", "CHANGELOG.md")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_RELEASES = re.compile(r"^RELEASES = \(.*?\)$", re.MULTILINE | re.DOTALL)


class ReleaseError(Exception):
    """A release that can't be made; the text is one sentence for the user."""


def current(root: Path) -> str:
    """The version that stands in galaxy.yml."""
    return str(yaml.safe_load((root / "galaxy.yml").read_text(encoding="utf-8"))["version"])


def released(root: Path) -> list[str]:
    """All versions that the changelog has, the first one first."""
    changes = yaml.safe_load((root / "changelogs" / "changelog.yaml").read_text(encoding="utf-8"))
    return sorted(changes["releases"], key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def check_version(version: str, before: list[str]) -> None:
    """Refuse what is no version, or not later than all that were released.

    :raises ReleaseError:
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION={version} is no version: write three numbers, such as VERSION=1.2.3.")
    if before and _numbers(version) <= _numbers(before[-1]):
        raise ReleaseError(f"{before[-1]} is released already: VERSION={version} has to be later.")


def names_of(version: str) -> re.Pattern[str]:
    """Where this version of the collection is named: of one of our images, of the tarball, or as its own."""
    named = (
        r"(^version: |^ +version: |^ +project_branch: v|^VERSION = \"|\bimage-puller(?:-operator-bundle)?:|"
        r"\bkubecache-image_puller-)"
    )
    return re.compile(rf"{named}{re.escape(version)}(?![\w-]|\.\d)", re.MULTILINE)


def sources(root: Path) -> Iterator[Path]:
    """The files that may name the version."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        path = root / name
        if not name.startswith(_OTHERS) and path.suffix in (".md", ".py", ".yml") and path.is_file():
            yield path


def set_version(root: Path, version: str, before: list[str]) -> None:
    """Write the version wherever it stands, but for what is generated, and what the operator's release follows."""
    pattern = names_of(current(root))
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        if (changed := pattern.sub(rf"\g<1>{version}", text)) != text:
            path.write_text(changed, encoding="utf-8")
    olm = root / "plugins" / "module_utils" / "olm.py"
    releases = ", ".join([*(f'"{each}"' for each in before), "VERSION"])
    text, count = _RELEASES.subn(f"RELEASES = ({releases}{'' if before else ','})", olm.read_text(encoding="utf-8"))
    if count != 1:
        raise ReleaseError(f"{olm.name} has no RELEASES.")
    olm.write_text(text, encoding="utf-8")


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command that only changes the clone.

    :raises ReleaseError: with what it said.
    """
    # What `make release` tells the make that runs it is not for those that run here.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(cwd / "build" / "collections")
    environment["PATH"] = f"{cwd / 'build' / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"`{shlex.join(map(str, command))}` failed:\n{done.stdout.strip()[-4000:]}")


def prepare(clone: Path, version: str, before: list[str], *, images: bool) -> Path:
    """Make the release in the clone, and return the tarball.

    :param images: build them, too, for this machine: what is pushed is built for all platforms.
    """
    make = ("make", "--no-print-directory")
    print("setting the version, and making anew what is generated ...", flush=True)
    set_version(clone, version, before)
    run(*make, "setup", cwd=clone)
    run("ruff", "format", "--quiet", "plugins/module_utils/olm.py", cwd=clone)
    run(*make, "manifests", cwd=clone)
    print("making the changelog of its fragments ...", flush=True)
    run("antsibull-changelog", "release", "--version", version, cwd=clone)
    run("git", "add", "--all", cwd=clone)
    print("testing that all that names the version agrees ...", flush=True)
    run("python", "-m", "pytest", "--quiet", *CHECKS, cwd=clone)
    print("building the collection and the images ..." if images else "building the collection ...", flush=True)
    run(*make, "build", *(["image"] if images else []), cwd=clone)
    (tarball,) = (clone / "build").glob(f"*-{version}.tar.gz")
    return tarball


@dataclass(frozen=True)
class Publisher:
    """Shows the commands that others see the effects of, and runs them if it is to push."""

    clone: Path
    version: str
    push: bool

    def _run(self, *command: str, cwd: Path | None = None) -> None:
        print(f"  $ {shlex.join(command)}", flush=True)
        if self.push and subprocess.run(command, cwd=cwd or self.clone, check=False).returncode:
            raise ReleaseError(f"`{command[0]}` failed; what it said is above, and what comes after was not done.")

    def image(self, reference: str, containerfile: str, context: str = ".") -> None:
        """Build an image for all platforms with its bill of materials, push it, and sign what was pushed."""
        name, _, version = reference.rpartition(":")
        told = f"build/{name.rpartition('/')[2]}.json"
        options = ("--platform", PLATFORMS, "--sbom=true", "--provenance=mode=max", "--metadata-file", told)
        arguments = ("--build-arg", f"VERSION={version}", "--file", containerfile, "--tag", reference, "--push")
        self._run("docker", "buildx", "build", *options, *arguments, context)
        digest = "sha256:<what was pushed>"
        if self.push:
            digest = json.loads((self.clone / told).read_text(encoding="utf-8"))["containerimage.digest"]
        self._run("cosign", "sign", "--yes", f"{name}@{digest}")

    def helper(self, image: Image) -> None:
        """The helper's image has a version of its own, and is pushed once: DaemonSets everywhere name it."""
        print(f"helper's image {image.reference}, unless it is there already:")
        if self.push:
            look = ("docker", "buildx", "imagetools", "inspect", image.reference)
            if subprocess.run(look, capture_output=True, check=False).returncode == 0:
                print("  it is there")
                return
        self.image(image.reference, image.containerfile)

    def commit(self) -> None:
        tag = f"v{self.version}"
        print(f"commit and tag {tag}:")
        branch = git(CHECKOUT, "symbolic-ref", "--short", "HEAD")
        self._run("git", "commit", "--quiet", "--message", f"Release {self.version}")
        self._run("git", "tag", "--annotate", "--message", f"Release {self.version}", tag)
        # By way of the checkout, which has the login.
        self._run("git", "fetch", "--quiet", str(self.clone), f"refs/tags/{tag}:refs/tags/{tag}", cwd=CHECKOUT)
        targets = (f"{tag}^{{commit}}:refs/heads/{branch}", f"refs/tags/{tag}")
        self._run("git", "push", "--quiet", "--atomic", "origin", *targets, cwd=CHECKOUT)

    def collection(self, tarball: Path) -> None:
        """Last, as Galaxy takes nothing back."""
        print("collection to Galaxy:")
        self._run("ansible-galaxy", "collection", "publish", str(tarball))


def git(directory: Path, *arguments: str) -> str:
    """What git prints."""
    command = ("git", *arguments)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def release(version: str, *, push: bool) -> None:
    """Make a release of the commit that is checked out.

    :raises ReleaseError: before anything was pushed, or with the step that failed.
    """
    before = released(CHECKOUT)
    check_version(version, before)
    if changed := git(CHECKOUT, "status", "--porcelain"):
        raise ReleaseError(f"what is not committed would not be released; commit it or put it away:\n{changed}")
    with tempfile.TemporaryDirectory(prefix="image-puller-release-") as directory:
        clone = Path(directory, "image_puller")
        run("git", "clone", "--quiet", str(CHECKOUT), str(clone), cwd=CHECKOUT)
        made = prepare(clone, version, before, images=not push)
        print(git(clone, "diff", "--cached", "--stat"))
        kept = CHECKOUT / "build" / "release"
        kept.mkdir(parents=True, exist_ok=True)
        tarball = kept / made.name
        shutil.copyfile(made, tarball)
        digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
        print(f"\n{tarball}: {tarball.stat().st_size / 1e6:.2f} MB, sha256 {digest}")
        print("\nThis is published:" if push else "\nThis would be published, and was not:")
        publisher = Publisher(clone, version, push)
        publisher.helper(helper())
        puller = replace(controller(), version=version)
        print(f"controller's image {puller.reference}:")
        publisher.image(puller.reference, puller.containerfile)
        bundle = f"{BUNDLE_IMAGE.rpartition(':')[0]}:{version}"
        print(f"operator's bundle for OLM {bundle}:")
        publisher.image(bundle, "deploy/olm/bundle/Containerfile", "deploy/olm/bundle")
        publisher.commit()
        publisher.collection(tarball)


def main() -> None:
    parser = argparse.ArgumentParser(description="Release the collection.")
    parser.add_argument("version", help="for example 1.2.3")
    parser.add_argument("--push", action="store_true", help="push and publish, too: for the release workflow")
    options = parser.parse_args()
    try:
        release(options.version, push=options.push)
    except ReleaseError as error:
        sys.exit(f"release: {error}")


if __name__ == "__main__":
    main()
