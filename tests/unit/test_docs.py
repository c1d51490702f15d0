# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation promises of rights and failures is what the collection's own source says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import OTHER_DIGEST, REMEDIES, classify
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import Locked, show_lock
from docs.site.build import CHECKOUT, BrokenLink, pages, rewritten
from tests.unit import objects

SITE = CHECKOUT / "docs" / "site"
SECURITY = (SITE / "security.md").read_text(encoding="utf-8")
TROUBLESHOOTING = (SITE / "troubleshooting.md").read_text(encoding="utf-8")
Right = tuple[str, str, str]  # API group ("core" for the first), resource, verb.


def section(text: str, heading: str) -> str:
    """What stands between a heading and the next one of its level or above."""
    level = heading.split(maxsplit=1)[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading}"
    return found[1]


def justified(heading: str) -> dict[Right, str]:
    """Each right in the tables below a heading of the security page -> why it is needed."""
    cells = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(SECURITY, heading).splitlines()
        if line.startswith("|")
    )
    return {
        (group, resource, verb): why
        for group, resources, verbs, why in cells
        for resource in resources.split(", ")
        for verb in verbs.split(", ")
    }


def rights(rules: Iterable[Mapping[str, Any]]) -> set[Right]:
    return {
        (group or "core", resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rules_of(objects: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for each in objects:
        if each["kind"] in ("Role", "ClusterRole"):
            yield from each["rules"]


def test_each_right_of_the_controller_is_justified() -> None:
    settings = objects.settings(image_pull_secrets=("team-pull",))
    made = [
        *installation.controller(installation.Installation(), settings),
        *installation.nodes_access(installation.Installation(), settings),
    ]
    wanted = rights(rules_of(made))
    assert ("apps", "daemonsets", "delete") in wanted
    assert ("core", "nodes", "list") in wanted
    told = justified("## The controller")
    assert wanted - told.keys() == set()
    assert all(told[right] for right in wanted)


def test_each_right_of_the_operator_is_justified() -> None:
    told = justified("## The operator")
    wanted = rights(operator.rules())
    assert wanted - told.keys() == set()
    assert all(told[right] for right in wanted)


@pytest.mark.parametrize("class_", REMEDIES)
def test_each_class_of_failure_has_its_words_and_its_remedy(class_: str) -> None:
    text = section(TROUBLESHOOTING, f"### `{class_}`")
    assert REMEDIES[class_] in " ".join(text.split())
    words = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert bool(words) == (class_ not in ("other", OTHER_DIGEST)), "a kubelet says nothing of its own there"
    assert {classify("", said) for said in words} <= {class_}


def rewrite(text: str, page: str = "docs/site/a.md") -> str:
    names = {"README.md": "guide.md", "docs/site/a.md": "a.md", "docs/OPERATOR.md": "operator.md"}
    return rewritten(text, page, CHECKOUT, names, "https://example.com/repository")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[x](../OPERATOR.md#the-fields)", "[x](operator.md#the-fields)"),
        ("[x](../../README.md)", "[x](guide.md)"),
        ("[x](../../LICENSE)", "[x](https://example.com/repository/blob/main/LICENSE)"),
        ("![x](../images/report-narrow.png)", "![x](images/report-narrow.png)"),
        (
            "![x](https://example.com/repository/raw/main/docs/images/report-narrow.png)",
            "![x](images/report-narrow.png)",
        ),
        ("[x](https://example.com/repository/blob/main/docs/OPERATOR.md#the-fields)", "[x](operator.md#the-fields)"),
        ("[x](https://example.org/a) [y](#here)", "[x](https://example.org/a) [y](#here)"),
    ],
)
def test_links_lead_to_the_same_in_the_site(text: str, wanted: str) -> None:
    assert rewrite(text) == wanted


@pytest.mark.parametrize(
    "wrong",
    ["../nothing.md", "../images/nothing.png", "https://example.com/repository/raw/main/docs/images/nothing.png"],
)
def test_a_link_to_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(BrokenLink, match=r"docs/site/a\.md links to .*nothing.*, which is not there"):
        rewrite(f"[x]({wrong})")


def test_the_readme_links_its_pictures_as_pages_do() -> None:
    text = "![x](https://example.com/repository/raw/main/docs/images/held.svg)"
    assert rewrite(text, "README.md") == "![x](images/held.svg)"


def test_each_page_is_in_the_table_of_contents() -> None:
    contents = (SITE / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}(.*?)```", contents, re.DOTALL)
    listed = {line.rpartition("<")[2].rstrip(">") for block in blocks for line in block.splitlines()}
    names = {Path(name).stem for name in pages(CHECKOUT).values()} - {"index"}
    assert names - listed == set()


DIGEST, OTHER = (f"sha256:{digit * 64}" for digit in "0a")
# What a list may have -> what is copied, and what it is on the mirror. skopeo takes no reference with tag and digest.
COPIED = {
    "nginx": (f"docker.io/library/nginx@{DIGEST}", "library/nginx:latest"),
    "team/app:1": (f"docker.io/team/app@{DIGEST}", "team/app:1"),
    "quay.io/3scale/zync:1": (f"quay.io/3scale/zync@{DIGEST}", "3scale/zync:1"),  # Which YAML has in quotes.
    "registry.example.com:5000/app": (f"registry.example.com:5000/app@{DIGEST}", "app:latest"),
    f"quay.io/team/both:2@{OTHER}": (f"quay.io/team/both@{OTHER}", "team/both:2"),
    f"quay.io/team/digest@{OTHER}": (f"quay.io/team/digest@{OTHER}", f"team/digest@{OTHER}"),
}
# It reads what it could take from the loop around it, and knows a directory only if it has filled it.
SKOPEO = """\
#!/bin/sh
cat >/dev/null
case "$4" in dir:*) test -f "${4#dir:}/version" || exit 1 ;; esac
case "$5" in dir:*) mkdir "${5#dir:}" 2>/dev/null; >"${5#dir:}/version" || exit 1 ;; esac
echo "$@" >>calls
"""


def mirror(page: str, directory: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run what a page says of skopeo, with a stand-in for it, in a directory that has a lock."""
    (directory / "skopeo").write_text(SKOPEO)
    (directory / "skopeo").chmod(0o755)
    entries = [
        Locked("cache", f"i{number}", image, image.partition("@")[2] or DIGEST, {}, 1, "2026-01-01T00:00:00Z")
        for number, image in enumerate(COPIED)
    ]
    (directory / "puller.lock.yml").write_text(show_lock(entries))
    blocks = re.findall(r"```shell\n(.*?)```", (CHECKOUT / page).read_text(encoding="utf-8"), re.DOTALL)
    environment = {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    return [
        subprocess.run(["sh", "-c", block], cwd=directory, env=environment, capture_output=True, text=True, check=False)
        for block in blocks
        if "skopeo" in block
    ]


def calls(directory: Path) -> list[tuple[str, str]]:
    """From where and to where the stand-in was told to copy."""
    lines = [line.split() for line in (directory / "calls").read_text().splitlines()]
    assert all(line[:3] == ["copy", "--all", "--preserve-digests"] and len(line) == 5 for line in lines)
    return [(source, target) for *_options, source, target in lines]


def test_a_mirror_has_each_image_of_a_lock_under_the_name_that_nodes_ask_for(tmp_path: Path) -> None:
    assert [(run.returncode, run.stderr) for run in mirror("docs/INSTALLING.md", tmp_path)] == [(0, "")]
    assert calls(tmp_path) == [
        (f"docker://{source}", f"docker://mirror.example.com/{target}") for source, target in COPIED.values()
    ]


def test_by_way_of_a_disk_a_mirror_has_the_same(tmp_path: Path) -> None:
    assert [(run.returncode, run.stderr) for run in mirror("docs/site/air-gap.md", tmp_path)] == [(0, "")] * 2
    directories = [f"dir:images/{source.rpartition(':')[2]}" for source, _target in COPIED.values()]
    assert calls(tmp_path) == [
        *((f"docker://{source}", there) for (source, _), there in zip(COPIED.values(), directories, strict=True)),
        *(
            (there, f"docker://mirror.example.com/{target}")
            for (_, target), there in zip(COPIED.values(), directories, strict=True)
        ),
    ]


def test_an_image_that_can_not_be_copied_ends_the_loop(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()  # So that the stand-in fails.
    assert [run.returncode != 0 for run in mirror("docs/INSTALLING.md", tmp_path)] == [True]
