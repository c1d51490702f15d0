# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation as a site: `make docs`.

The pages are those of docs/ and docs/site and the README, which read as well where the repository is read. Here they
are put beside each other in build/docs-source, where antsibull-docs writes the reference from the collection itself, as
no other tool reads Ansible's documentation. Sphinx makes HTML of both, as that is what antsibull-docs writes for; MyST
lets it read Markdown, which the pages are; Furo is a theme that reads well on any screen and loads nothing from others.

Run by the Python of build/docs-tools. Any warning is an error, and so is a link to what is not there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "build"
COLLECTION = "kubecache.image_puller"
HERE = "docs/site"
# A link or picture of Markdown whose target is not an address: text, target, anchor.
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
# What the reference names of Ansible's own documentation -> where that is. Sphinx would else fetch all of its names.
ANSIBLE = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
    "ansible_collections.ansible.builtin.set_stats_module": "collections/ansible/builtin/set_stats_module.html",
}
# Its pages as antsibull-docs writes them: a list of contents, which Furo shows beside the page and refuses in it, and
# titles that are too long for a column beside the page.
_CONTENTS = re.compile(r"^\.\. contents::\n(?:   :.*\n)+", re.MULTILINE)
_TITLE = re.compile(r"^kubecache\.image_puller\.(\w+ (?:module|role)) -- (.*)\n(\++)$", re.MULTILINE)
_FIRST_TITLE = re.compile(r"^Kubecache\.Image_Puller\n=+$", re.MULTILINE)


class BrokenLink(Exception):
    """A page links to a file that is not there."""


def pages(root: Path) -> dict[str, str]:
    """Each page's path in the checkout -> its path in the site."""
    found = {"README.md": "guide.md"}
    for path in sorted([*root.glob("docs/*.md"), *root.glob(f"{HERE}/*.md")]):
        found[path.relative_to(root).as_posix()] = path.name.lower()
    return found


def rewritten(text: str, page: str, root: Path, names: dict[str, str], repository: str) -> str:
    """A page with its links as they are in the site: to other pages there, to anything else in the repository.

    :param page: its path in the checkout, from which links are relative.
    :raises BrokenLink: a link to a file that is not there.
    """

    def replace(found: re.Match[str]) -> str:
        target = os.path.normpath(Path(page).parent / found[1])
        anchor = found[2] or ""
        if target in names:
            return names[target] + anchor
        if not (root / target).exists():
            raise BrokenLink(f"{page} links to {found[1]}, which is not there. Remedy: correct the link.")
        if target.startswith("docs/images/"):
            return target.removeprefix("docs/")
        return f"{repository}/blob/main/{target}{anchor}"

    # What the tarball leaves out is linked by its address. Here it is a file like others.
    ours = re.compile(rf"(?<=\]\(){re.escape(repository)}/(?:blob|raw)/main/")
    return _LINK.sub(replace, ours.sub(f"{os.path.relpath('.', Path(page).parent)}/", text))


def gather(root: Path, source: Path) -> None:
    """Put all pages and pictures into the directory that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    names = pages(root)
    repository = yaml.safe_load((root / "galaxy.yml").read_text(encoding="utf-8"))["repository"]
    for page, name in names.items():
        text = (root / page).read_text(encoding="utf-8")
        (source / name).write_text(rewritten(text, page, root, names, repository), encoding="utf-8")
    shutil.copytree(root / "docs" / "images", source / "images")
    (source / "ansible.inv").write_bytes(inventory(ANSIBLE))


def inventory(names: dict[str, str]) -> bytes:
    """Labels of another site and their pages, in the form that Sphinx calls version 2 of its inventories."""
    lines = "".join(f"{name} std:label -1 {page} -\n" for name, page in names.items())
    return b"# Sphinx inventory version 2\n# Project: Ansible\n# Version:\n# zlib\n" + zlib.compress(lines.encode())


def shortened(text: str) -> str:
    """A page of the reference without its list of contents, and with what it is about below its title."""
    text = _TITLE.sub(r"\1\n\3\n\n\2.", _CONTENTS.sub("", text))
    return _FIRST_TITLE.sub("Modules and role\n================", text)


def run(*command: str) -> None:
    """Run a tool of the same environment; it must succeed."""
    program = Path(sys.executable).parent / command[0]
    environment = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "collections"),
    }
    done = subprocess.run([program, *command[1:]], cwd=CHECKOUT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"docs: {command[0]} ended with exit status {done.returncode}; what it says above is to be mended.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("--root", type=Path, default=CHECKOUT, help="whose pages; a test gives another")
    parser.add_argument("--source", type=Path, default=BUILD / "docs-source", help="where they are put together")
    parser.add_argument("--output", type=Path, default=BUILD / "docs")
    options = parser.parse_args()
    try:
        gather(options.root, options.source)
    except BrokenLink as error:
        sys.exit(f"docs: {error}")
    run("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", str(CHECKOUT))
    reference = options.source / "reference"
    reference.mkdir()
    write = ("--use-current", "--squash-hierarchy", "--fail-on-error", "--dest-dir", str(reference))
    run("antsibull-docs", "collection", *write, COLLECTION)
    for page in reference.glob("*.rst"):
        page.write_text(shortened(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(options.output, ignore_errors=True)
    quiet = ("--quiet", "--fail-on-warning", "--keep-going")
    run("sphinx-build", *quiet, "-c", str(CHECKOUT / HERE), "-b", "html", str(options.source), str(options.output))
    print(f"docs: {options.output / 'index.html'}")


if __name__ == "__main__":
    main()
