# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of images: which sets an installation is to have, and what an administrator reads when a group is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import (
    Plan,
    read_plan,
    secrets_of,
    sets_of,
    settings_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import set_config_map
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    DEPLOYMENT,
    GROUP,
    IMAGE_SET,
    KEPT,
    MANAGED_BY,
    MANAGER,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings, to_config_map

MAIN = "k8s-image-puller"
OPTIONS: dict[str, Any] = {
    "namespace": "team-cache",
    "images": {"java11": "r.io/java11:2.1"},
    "node_selector": {"pool": "all"},
    "caching_memory_limit": "30Mi",
}
GPU: dict[str, Any] = {"name": "gpu", "images": {"cuda": "r.io/cuda:12"}}
CPU: dict[str, Any] = {"name": "cpu", "images": "theia=r.io/theia:2.1"}


def plan(groups: object, live: Any = None, **options: Any) -> Plan:
    return read_plan({**OPTIONS, **options}, groups, MAIN, live)


def config_map(name: str, group: str = "", images: str = "old=r.io/old:1") -> dict[str, Any]:
    labels = {GROUP: group} if group else {}
    return {"metadata": {"name": name, "labels": labels}, "data": {"IMAGES": images}}


def live(*groups: str, main: bool = True) -> dict[str, dict[str, Any]]:
    found = [config_map(MAIN)] if main else []
    found += [config_map(f"{MAIN}-{group}", group) for group in groups]
    return {each["metadata"]["name"]: each for each in found}


def names(made: Plan) -> list[str]:
    return [wanted.config_map_name for wanted in made.sets]


def problems(made: Plan) -> list[str]:
    return [str(problem) for problem in made.problems]


def test_each_group_is_a_set_that_is_called_after_the_main_one() -> None:
    made = plan([GPU, CPU])
    assert names(made) == [MAIN, f"{MAIN}-gpu", f"{MAIN}-cpu"]
    assert [wanted.group for wanted in made.sets] == ["", "gpu", "cpu"]
    assert [wanted.settings.daemonset_name for wanted in made.sets] == [
        "kubernetes-image-puller",
        "kubernetes-image-puller-gpu",
        "kubernetes-image-puller-cpu",
    ]
    assert {wanted.settings.namespace for wanted in made.sets} == {"team-cache"}
    assert made.leaving == ()
    assert made.notes == ()


def test_a_group_takes_over_what_it_does_not_say() -> None:
    _main, gpu = plan([GPU]).sets
    assert gpu.settings.node_selector == {"pool": "all"}
    assert gpu.settings.caching_memory_limit == "30Mi"
    assert [image.name for image in gpu.settings.images] == ["cuda"]


def test_a_group_may_say_otherwise_and_an_empty_mapping_says_so() -> None:
    _main, gpu = plan([{**GPU, "node_selector": {}, "caching_memory_limit": "40Mi", "tolerations": "[]"}]).sets
    assert gpu.settings.node_selector == {}
    assert gpu.settings.caching_memory_limit == "40Mi"


def test_empty_text_in_a_group_says_nothing() -> None:
    assert plan([{**GPU, "node_selector": "", "affinity": None}]).sets[1].settings.node_selector == {"pool": "all"}


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_groups_may_be_text(dump: Any) -> None:
    assert plan(dump([GPU, CPU])) == plan([GPU, CPU])


@pytest.mark.parametrize("unset", [None, ""])
def test_groups_left_out_stay_as_they_are(unset: Any) -> None:
    made = plan(unset, live("gpu"))
    assert names(made) == [MAIN]
    assert made.leaving == ()
    assert made.notes == ("groups were not given: gpu stay as they are",)


def test_a_group_that_left_the_list_leaves() -> None:
    assert plan([CPU], live("gpu", "cpu")).leaving == (f"{MAIN}-gpu",)
    assert plan([], live("gpu", "cpu")).leaving == (f"{MAIN}-gpu", f"{MAIN}-cpu")
    assert plan("[]", live("gpu")).leaving == (f"{MAIN}-gpu",)


def test_groups_alone_make_no_main_set() -> None:
    made = plan([GPU], images="")
    assert names(made) == [f"{MAIN}-gpu"]
    assert made.notes == ("images were not given: no images are cached but those of the groups",)


def test_groups_that_stay_alone_make_no_main_set_either() -> None:
    made = plan("", live("gpu", main=False), images="")
    assert (names(made), made.leaving) == ([], ())


def test_a_main_set_that_is_there_is_kept_with_its_list() -> None:
    made = plan([GPU], live(), images="")
    assert names(made) == [MAIN, f"{MAIN}-gpu"]
    assert [image.name for image in made.sets[0].settings.images] == ["old"]
    assert made.notes == (f"images were not given: the list of ConfigMap team-cache/{MAIN} is kept",)


# --- taken over from another implementation --------------------------------------------------------------------------

KNOWN = {
    "IMAGES": "java11=r.io/old:1;java11=r.io/java11:2.1;nothing;theia=r.io/theia:2.1;",
    "CACHING_INTERVAL_HOURS": "4",
    "CACHING_MEMORY_LIMIT": "50Mi",
    "CACHING_CPU_LIMIT": ".2",
    "NODE_SELECTOR": '{"pool": "all"}',
    "DAEMONSET_NAME": "puller",
    "NAMESPACE": "team-cache",
    "AFFINITY": "{}",
    "IMAGE_PULL_SECRETS": "",
}


def taken_over(data: dict[str, str] | None = None, kept: str | None = None, **options: Any) -> Plan:
    """A plan over a ConfigMap of the known implementation, or with ``kept`` over one of ours that was taken over."""
    there = config_map(MAIN)
    there["data"] = {**KNOWN, **(data or {})}
    if kept is not None:
        there["metadata"] |= {"labels": {MANAGED_BY: MANAGER}, "annotations": {KEPT: kept}}
    return read_plan({"namespace": "team-cache", **options}, None, MAIN, {MAIN: there})


def test_settings_that_nobody_gives_stay_as_the_known_implementation_has_them() -> None:
    made = taken_over()
    (main,) = made.sets
    assert made.problems == ()
    assert [image.image for image in main.settings.images] == ["r.io/java11:2.1", "r.io/theia:2.1"]
    assert (main.settings.caching_interval_hours, main.settings.caching_memory_limit) == ("4", "50Mi")
    assert (main.settings.node_selector, main.settings.daemonset_name) == ({"pool": "all"}, "puller")
    assert set(main.kept) == {"caching_interval_hours", "caching_memory_limit", "node_selector", "daemonset_name"}


def test_what_is_taken_over_is_shown_and_entries_that_were_left_out_silently_are_named() -> None:
    told = "\n".join(taken_over().notes)
    assert 'CACHING_INTERVAL_HOURS=4; CACHING_MEMORY_LIMIT=50Mi; NODE_SELECTOR={"pool": "all"}' in told
    assert "IMAGES, entry 3 'nothing': there is no '=' between name and image." in told
    assert "the name 'java11' was used before, in entry 1" in told


def test_what_was_taken_over_stays_in_the_next_run_until_it_is_given() -> None:
    kept = "caching_interval_hours,node_selector"
    data = {"IMAGES": "java11=r.io/java11:2.1"}
    (main,) = taken_over(data, kept).sets
    assert (main.settings.caching_interval_hours, main.settings.caching_memory_limit) == ("4", "20Mi")
    assert set(main.kept) == set(kept.split(","))
    (main,) = taken_over(data, kept, caching_interval_hours="1").sets
    assert (main.settings.caching_interval_hours, main.kept) == ("1", ("node_selector",))
    annotations = set_config_map(Installation(), main)["metadata"]["annotations"]
    assert annotations == {KEPT: "node_selector"}


def test_in_a_config_map_of_ours_a_bad_entry_is_refused() -> None:
    assert "there is no '='" in "".join(problems(taken_over({}, "")))


def test_a_value_of_the_known_implementation_that_spoils_all_is_refused() -> None:
    (problem,) = problems(taken_over({"CACHING_INTERVAL_HOURS": "often"}))
    assert problem.startswith("caching_interval_hours 'often': it is no number of hours")


@pytest.mark.parametrize("nothing", [[], {}, "[]"])
def test_an_empty_list_of_images_takes_the_main_set_away_where_there_are_groups(nothing: Any) -> None:
    made = plan([GPU], live(), images=nothing)
    assert names(made) == [f"{MAIN}-gpu"]
    assert made.leaving == (MAIN,)
    assert problems(plan([], live(), images=nothing))[0].startswith("images ")


def test_the_settings_of_a_group_come_back_from_its_config_map() -> None:
    _main, gpu = plan([GPU]).sets
    assert to_config_map(gpu.settings)["DAEMONSET_NAME"] == "kubernetes-image-puller-gpu"


CASES: list[tuple[Any, str]] = [
    (
        [CPU, {"name": "gpu", "images": "cuda"}],
        "groups, entry 2 (gpu): images, entry 1 'cuda': there is no '=' between name and image. "
        "Remedy: write cuda=registry/repository:tag.",
    ),
    (
        [{**GPU, "caching_memory_request": "much"}],
        "groups, entry 1 (gpu): caching_memory_request 'much': it is no Kubernetes quantity. "
        "Remedy: write a number and a unit without a space, such as 20Mi, 50m or .05.",
    ),
    (
        [{**GPU, "node_selektor": 1}],
        'groups, entry 1 (gpu) \'{"name": "gpu", "images": {"cuda": "r.io/cuda:12"}, "node_selektor": 1}\': '
        "the field node_selektor is unknown. Remedy: write node_selector.",
    ),
    (
        [{"name": "gpu"}],
        "groups, entry 1 (gpu): images '[]': the list is empty. "
        "Remedy: name at least one image, for example java11=registry.example.com/team/java11:2.1.",
    ),
    (
        [{"images": "a=r.io/a:1"}],
        'groups, entry 1 \'{"images": "a=r.io/a:1"}\': it lacks the field name. Remedy: write name.',
    ),
    (
        [{**GPU, "name": "GPU_1"}],
        "groups, entry 1 (GPU_1): name 'GPU_1': it is no DNS-1123 label (at most 63 lower case letters, digits and "
        "'-'). Remedy: write 'gpu-1', or another such name.",
    ),
    (
        [GPU, CPU, GPU],
        "groups, entry 3 (gpu): name 'gpu': the name was used before, in groups, entry 1 (gpu). "
        "Remedy: write another name.",
    ),
    (
        [{**GPU, "daemonset_name": "kubernetes-image-puller"}],
        "groups, entry 1 (gpu): daemonset_name 'kubernetes-image-puller': the main set has a DaemonSet of that name. "
        "Remedy: write another name, or leave it out.",
    ),
    (
        [{**GPU, "name": "g" * 40}],
        f"groups, entry 1 ({'g' * 40}): name '{'g' * 40}': kubernetes-image-puller-{'g' * 40} would have 64 "
        "characters, and 63 are allowed. Remedy: use at most 39 characters.",
    ),
    ([3], "groups, entry 1 '3': it is a whole number, not a JSON object. Remedy: write a JSON object."),
    (
        {"gpu": {}},
        "groups '{\"gpu\": {}}': it is a JSON object, not a JSON list. Remedy: write a JSON list such as "
        '[{"name": "gpu", "images": {"cuda": "registry.example.com/team/cuda:12.4"}}].',
    ),
]


@pytest.mark.parametrize(("groups", "sentence"), CASES)
def test_what_is_wrong_with_a_group_is_told_with_its_place_and_the_remedy(groups: Any, sentence: str) -> None:
    assert problems(plan(groups)) == [sentence]


def test_all_problems_of_all_groups_are_told_at_once() -> None:
    made = plan([{**GPU, "images": "a"}, {"name": "cpu", "images": "b"}], caching_cpu_limit="x")
    assert [problem.partition(" '")[0] for problem in problems(made)] == [
        "caching_cpu_limit",
        "groups, entry 1 (gpu): images, entry 1",
        "groups, entry 2 (cpu): images, entry 1",
    ]
    with pytest.raises(InvalidSettings, match="The settings have 3 problems; nothing was changed"):
        made.required()


def set_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels} if labels else {"name": name}}


@pytest.mark.parametrize(
    ("config_map", "is_set"),
    [
        pytest.param(set_map("set"), True, id="the named one needs no label"),
        pytest.param(set_map("other"), False, id="any other does"),
        pytest.param(set_map("gpu", **{IMAGE_SET: "gpu"}), True, id="whoever made it"),
        pytest.param(set_map("gpu", **{IMAGE_SET: "gpu", DEPLOYMENT: "ours"}), True, id="of this installation"),
        pytest.param(set_map("gpu", **{IMAGE_SET: "gpu", DEPLOYMENT: "theirs"}), False, id="of another one"),
        pytest.param(set_map("app", app="shop"), False, id="of an application"),
    ],
)
def test_the_sets_of_an_installation_are_its_own_and_those_of_no_other(
    config_map: dict[str, Any], is_set: bool
) -> None:
    assert bool(sets_of([config_map], "set", "ours")) == is_set


def test_the_named_set_comes_first_and_the_others_by_name() -> None:
    made = [set_map(name, **{IMAGE_SET: name}) for name in ("z", "set", "a")]
    assert list(sets_of(made, "set", "ours")) == ["set", "a", "z"]


_KEYS = st.sampled_from(["name", "images", "tolerations", "x"]) | st.text(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "images", "tolerations", "x"]) | st.text(max_size=5), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(groups=_VALUES)
def test_whatever_is_given_is_read_or_refused_and_never_crashes(groups: Any) -> None:
    made = plan(groups, live("gpu"))
    if not made.problems:
        assert len(set(names(made))) == len(made.sets)
        assert not set(names(made)) & set(made.leaving)
        assert all(len(name) <= 63 for name in names(made))


def test_registries_are_asked_with_the_pull_secrets_of_the_sets_whose_tags_are_asked_for() -> None:
    asleep = {**GPU, "image_pull_secrets": "gpu-pull", "refresh": "restart"}
    made = plan([{**CPU, "image_pull_secrets": ["cpu-pull", "team"]}, asleep], image_pull_secrets="team")
    assert secrets_of(wanted.settings for wanted in made.sets) == ("cpu-pull", "team")
    found = [set_config_map(Installation(), wanted) for wanted in made.sets]
    spoilt = {"metadata": {"name": "spoilt"}, "data": {"IMAGES": "a=r.io/a:1", "CACHING_CPU_LIMIT": "much"}}
    assert settings_of([*found, spoilt, {"metadata": {"name": "empty"}}])[:3] == [w.settings for w in made.sets]
    assert secrets_of(settings_of([*found, spoilt])) == ("cpu-pull", "team")
