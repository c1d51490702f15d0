# SPDX-License-Identifier: GPL-3.0-or-later
"""A misspelt variable is told with the one that was meant, and a user's own one is let be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.variables import PREFIX, unclear, unknown

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "image_puller"
DEFAULTS = list(yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()))
OTHERS = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__image_puller_others"]
KNOWN = [*DEFAULTS, *OTHERS]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("imges", "images"),
        ("Images", "images"),
        ("name_space", "namespace"),
        ("config_map", "config_map_name"),
        ("configmap_name", "config_map_name"),
        ("memory_limit", "caching_memory_limit"),
        ("interval_hours", "caching_interval_hours"),
        ("nodeSelector", "node_selector"),
        ("pull_secrets", "image_pull_secrets"),
        ("wait_timout", "wait_timeout"),
        ("host", "hosts"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(typed: str, meant: str) -> None:
    assert unknown([PREFIX + typed], KNOWN) == (
        [f"image_puller_{typed} is no variable of this role; did you mean image_puller_{meant}?"],
        [],
    )


@pytest.mark.parametrize("own", ["team", "team_a_images_to_have", "x", ""])
def test_a_variable_of_the_users_own_is_told_and_let_be(own: str) -> None:
    assert unknown([PREFIX + own], KNOWN) == (
        [],
        [f"image_puller_{own} is no variable of this role, and does nothing."],
    )


@pytest.mark.parametrize(("own", "near"), [("registry", "registry_proxy"), ("nodes", "min_nodes")])
def test_what_may_be_either_is_let_be_and_told_with_the_nearest_one(own: str, near: str) -> None:
    misspelt, (sentence,) = unknown([PREFIX + own], KNOWN)
    assert misspelt == []
    assert sentence.endswith(f" is no variable of this role, and does nothing; the nearest one is {PREFIX}{near}.")


def test_all_are_told_at_once_in_the_same_order() -> None:
    names = ["image_puller_wiat", "image_puller_imges", "image_puller_team", "image_puller_namespace"]
    misspelt, ignored = unknown(names, KNOWN)
    assert [sentence.split()[0] for sentence in misspelt] == ["image_puller_imges", "image_puller_wiat"]
    assert len(ignored) == 1


def test_nothing_is_said_of_what_is_known_or_begins_otherwise() -> None:
    names = [*KNOWN, "ansible_check_mode", "__image_puller_imges", "my_image_puller_imges", "IMAGE_PULLER_IMGES"]
    assert unknown(names, KNOWN) == ([], [])


def test_what_job_templates_rulebooks_and_playbooks_are_given_is_known() -> None:
    """These variables may reach the role: of an inventory, or, of a rulebook, as extra variables of its playbooks."""
    files = [*ROOT.glob("extensions/[ae]*/**/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    said = {name for file in files for name in re.findall(rf"(?<![\w.]){PREFIX}\w+", file.read_text())}
    modules = {path.stem for path in ROOT.glob("plugins/modules/*.py")}
    assert unknown(said - modules, KNOWN) == ([], [])
    assert set(OTHERS) <= said


def test_every_entry_point_begins_with_it() -> None:
    for name in yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]:
        first, *_others = yaml.safe_load((ROLE / "tasks" / f"{name}.yml").read_text())
        while "block" in first:
            first = first["block"][0]
        imports = first["ansible.builtin.import_tasks"]
        assert imports == "variables.yml" or (imports == "main.yml" and name in ("plan", "render"))


@pytest.mark.parametrize("value", [True, False, "true", "No", "on", "OFF", "1", 0, "", None])
def test_what_ansible_takes_for_true_or_false_or_is_not_set_is_let_be(value: object) -> None:
    assert unclear({"image_puller_wait": value}) == []


@pytest.mark.parametrize("value", ["ture", "y", "none", " true", 2, ["true"]])
def test_what_ansible_would_take_for_false_without_a_word_is_refused(value: object) -> None:
    assert unclear({"image_puller_wait": value}) == [
        f"image_puller_wait '{value}': it is neither true nor false. Remedy: write true or false."
    ]
