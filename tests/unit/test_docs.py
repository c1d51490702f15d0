# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation promises of rights and failures is what the collection's own source says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import OTHER_DIGEST, REMEDIES, classify
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
