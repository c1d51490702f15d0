# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings are the same value in every form; what is bad is named, and bad entries spoil no good ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils import settings as module
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULT_IMAGES,
    FIELDS,
    HELPER_IMAGE,
    CachedImage,
    Settings,
    from_config_map,
    from_options,
    require,
    to_config_map,
    to_options,
)
from tests.unit import objects

CONTRACT = {
    "CACHING_INTERVAL_HOURS": "1",
    "CACHING_MEMORY_REQUEST": "10Mi",
    "CACHING_MEMORY_LIMIT": "20Mi",
    "CACHING_CPU_REQUEST": ".05",
    "CACHING_CPU_LIMIT": ".2",
    "DAEMONSET_NAME": "kubernetes-image-puller",
    "DAEMONSET_ANNOTATIONS": "{}",
    "NAMESPACE": "k8s-image-puller",
    "IMAGES": "che-code=quay.io/che-incubator/che-code:next;"
    "base-developer-image=quay.io/devfile/base-developer-image:ubi9-latest",
    "NODE_SELECTOR": "{}",
    "IMAGE_PULL_SECRETS": "",
    "AFFINITY": "{}",
    "TOLERATIONS": "[]",
    "KIP_IMAGE": HELPER_IMAGE,
}


def test_nothing_given_is_the_documented_default_in_every_key() -> None:
    printed = to_config_map(require(from_options({})))
    assert {key: printed[key] for key in CONTRACT} == CONTRACT


def test_the_helper_image_is_the_one_that_is_built_here() -> None:
    version = Path(__file__).parents[2].joinpath("controller/helper/VERSION").read_text().strip()
    assert HELPER_IMAGE.endswith(f"/image-puller-helper:{version}")


@given(objects.good_options)
def test_options_config_map_and_settings_are_one_value(options: dict[str, Any]) -> None:
    read = require(from_options(options))
    data = to_config_map(read)
    assert all(isinstance(text, str) for text in data.values())
    from_data = require(from_config_map(data))
    assert from_data == read
    assert to_config_map(from_data) == data
    assert require(from_options(to_options(from_data))) == read
    assert to_options(from_data) == to_options(read)


@given(objects.good_options)
def test_options_may_be_texts_as_surveys_and_inventories_give_them(options: dict[str, Any]) -> None:
    texts = {
        key: json.dumps(value) if isinstance(value, (dict, list)) else str(value) for key, value in options.items()
    }
    texts["image_pull_secrets"] = ";".join(options.get("image_pull_secrets", ()))
    assert require(from_options(texts)) == require(from_options(options))


@pytest.mark.parametrize("unset", [None, ""])
def test_an_unanswered_question_of_a_survey_means_the_default(unset: object) -> None:
    assert from_options({field.option: unset for field in FIELDS}).settings == Settings(DEFAULT_IMAGES)


def test_blank_values_mean_the_default_but_for_the_images() -> None:
    blank = from_config_map({field.key: " \n" for field in FIELDS if field.key != "IMAGES"})
    assert blank.settings == Settings(DEFAULT_IMAGES)
    assert from_config_map({"IMAGES": " \n"}).settings is None


def test_images_are_a_list_a_mapping_or_a_text() -> None:
    wanted = (objects.JAVA, objects.THEIA)
    forms: list[Any] = [
        {image.name: image.image for image in wanted},
        [{"name": image.name, "image": image.image} for image in wanted],
        [f"{image.name}={image.image}" for image in wanted],
        ";".join(f"{image.name}={image.image}" for image in wanted),
    ]
    forms += [json.dumps(form) for form in forms[:3]]
    assert [require(from_options({"images": form})).images for form in forms] == [wanted] * 7


@pytest.mark.parametrize(
    ("hours", "canonical"),
    [
        (1, "1"),
        ("1.0", "1"),
        (0.5, "0.5"),
        ("0.50", "0.5"),
        ("24", "24"),
        ("1e1", "10"),
        (" 2 ", "2"),
        ("0.0001", "0.0001"),
    ],
)
def test_the_interval_has_one_form(hours: object, canonical: str) -> None:
    assert objects.settings(caching_interval_hours=hours).caching_interval_hours == canonical


@pytest.mark.parametrize("secrets", ["a;b", "a, b", "a b;", ["a", "b"], "a;b;a"])
def test_pull_secrets_are_names_in_any_of_the_usual_forms(secrets: object) -> None:
    assert objects.settings(image_pull_secrets=secrets).image_pull_secrets == ("a", "b")


def test_structures_may_be_yaml_text() -> None:
    read = objects.settings(
        node_selector="disktype: ssd\nsince: 2020-01-01",
        tolerations="- key: gpu\n  operator: Exists\n  value: ''",
        affinity="podAffinity: {}",
    )
    assert read.node_selector == {"disktype": "ssd", "since": "2020-01-01"}
    assert read.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert read.affinity == {"podAffinity": {}}


def test_without_pyyaml_json_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "yaml", None)
    assert objects.settings(node_selector='{"disktype": "ssd"}').node_selector == {"disktype": "ssd"}
    (problem,) = from_options({"node_selector": "disktype: ssd"}).problems
    assert problem.what == "it is no JSON (Expecting value: line 1 column 1 (char 0))"


def test_settings_do_not_share_structures_with_what_they_were_read_from() -> None:
    given_selector = {"disktype": "ssd"}
    read = objects.settings(node_selector=given_selector)
    given_selector["disktype"] = "hdd"
    assert read.node_selector == {"disktype": "ssd"}


def test_the_same_image_twice_is_noted_and_is_no_problem() -> None:
    reading = from_options({"images": "a=nginx;b=docker.io/library/nginx:latest;c=nginx:1"})
    assert not reading.problems
    assert reading.notes == ("images: docker.io/library/nginx:latest is there 2 times (a, b); once is enough",)


def test_bad_entries_leave_the_good_ones_usable_and_the_last_of_a_name_wins() -> None:
    reading = from_config_map({"IMAGES": "a=r.io/a:1;b;c=r.io/C:1;a=r.io/a:2;d=r.io/d:1"})
    assert reading.settings
    assert reading.settings.images == (CachedImage("a", "r.io/a:2"), CachedImage("d", "r.io/d:1"))
    assert [(problem.entry, problem.whole) for problem in reading.problems] == [(2, False), (3, False), (4, False)]


@pytest.mark.parametrize("images", ["a;b", "A=r.io/a:1", "a=r.io/A:1"])
def test_when_no_entry_is_good_the_set_is_spoilt(images: str) -> None:
    reading = from_config_map({"IMAGES": images})
    assert reading.settings is None
    assert all(problem.whole for problem in reading.problems)


def test_what_spoils_the_set_does_so_also_with_good_images() -> None:
    assert from_config_map({"IMAGES": "a=r.io/a:1", "CACHING_CPU_LIMIT": "x"}).settings is None


def test_keys_of_others_are_ignored() -> None:
    assert from_config_map({"PATH": "/bin", "SHELL": "x"}).settings == Settings(DEFAULT_IMAGES)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
_anything = _json | st.binary(max_size=3) | st.dates() | st.dictionaries(st.integers() | st.dates(), _json, max_size=2)
_texts = st.text(max_size=30) | st.from_regex(r"[\[\]{}&*a:,\n \"0-9-]{0,30}", fullmatch=True) | _json.map(json.dumps)


@given(st.fixed_dictionaries({}, optional={field.option: _anything | _texts for field in FIELDS}))
@settings(max_examples=300)
def test_no_option_whatever_it_holds_ends_in_anything_but_problems(options: Mapping[str, Any]) -> None:
    reading = from_options(options)
    assert reading.settings or reading.problems
    assert all(str(problem) for problem in reading.problems)


@given(st.fixed_dictionaries({}, optional={field.key: _texts for field in FIELDS}))
@settings(max_examples=300)
def test_no_config_map_whatever_it_holds_ends_in_anything_but_problems(data: Mapping[str, str]) -> None:
    reading = from_config_map(data)
    assert reading.settings or reading.problems


@pytest.mark.parametrize("text", ["[" * 100_000, "a: &a [*a]", "{a: 2020-13-45}", "? [a]\n: b", "&a [*a]", "- " * 5000])
def test_texts_that_break_parsers_are_problems(text: str) -> None:
    for key in ("NODE_SELECTOR", "AFFINITY", "TOLERATIONS", "DAEMONSET_ANNOTATIONS"):
        assert from_config_map({key: text}).problems
    assert from_config_map({"IMAGES": "[" + text}).problems


def test_a_structure_that_holds_itself_is_a_problem() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    assert from_options({"affinity": endless}).problems
    assert from_options({"images": [endless]}).problems
