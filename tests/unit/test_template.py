# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates become objects by OpenShift's documented rules, and every bad parameter is named with its remedy."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings
from ansible_collections.kubecache.image_puller.plugins.module_utils.template import process

NAME = {"name": "NAME", "value": "puller", "required": True}
COUNT = {"name": "COUNT", "value": "2"}


def template(spec: Any, *parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A Template of one object."""
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "${NAME}"}, "spec": spec}
    return {"kind": "Template", "objects": [obj], "parameters": [NAME, COUNT, *parameters], **more}


def spec_of(spec: Any, *parameters: dict[str, Any], **values: str) -> Any:
    (made,) = process(template(spec, *parameters), values)
    return made["spec"]


def refused(spec: Any, *parameters: dict[str, Any], **values: str) -> list[str]:
    with pytest.raises(InvalidSettings) as error:
        process(template(spec, *parameters), values)
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("written", "made"),
    [
        ("${NAME}", "x"),
        ("a-${NAME}-${COUNT}-${NAME}", "a-x-2-x"),
        ("${{COUNT}}", 2),
        ("n=${{COUNT}}", "n=${{COUNT}}"),
        ("${{NONE}} ${NONE}", "${{NONE}} ${NONE}"),
        ({"${NAME}": ["${{COUNT}}", None, True, 1.5]}, {"x": [2, None, True, 1.5]}),
        ("$NAME ${na me}", "$NAME ${na me}"),
    ],
)
def test_references_are_replaced_as_documented(written: Any, made: Any) -> None:
    assert spec_of(written, NAME="x") == made


@given(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_value_arrives_as_it_was_given(text: str, value: Any) -> None:
    """Also one that looks like a reference."""
    parameters = ({"name": "TEXT"}, {"name": "VALUE"})
    made = spec_of({"text": "<${TEXT}>", "value": "${{VALUE}}"}, *parameters, TEXT=text, VALUE=json.dumps(value))
    assert made == {"text": f"<{text}>", "value": value}


@given(st.text("abc", min_size=1), st.text("abc", min_size=1))
def test_a_value_is_never_read_as_a_reference(one: str, other: str) -> None:
    parameters = ({"name": "ONE"}, {"name": "OTHER"})
    assert spec_of("${ONE}${OTHER}", *parameters, ONE=f"${{OTHER}}{one}", OTHER=other) == f"${{OTHER}}{one}{other}"


def test_the_template_itself_is_not_changed() -> None:
    written = template("${NAME}", labels={"part-of": "${NAME}"})
    before = json.dumps(written)
    process(written, {"NAME": "x"})
    assert json.dumps(written) == before


def test_the_labels_of_the_template_are_on_each_object() -> None:
    (made,) = process(template("", labels={"part-of": "${NAME}"}), {})
    assert made["metadata"] == {"name": "puller", "labels": {"part-of": "puller"}}


def test_a_namespace_that_is_written_down_is_left_out_and_one_that_is_asked_for_stays() -> None:
    for namespace, kept in (("somewhere", None), ("${NAME}", "puller")):
        written = template("")
        written["objects"][0]["metadata"]["namespace"] = namespace
        assert process(written, {})[0]["metadata"].get("namespace") == kept


@pytest.mark.parametrize("expression", ["[a-z0-9]{8}", "pre-[A-F]{3}[0-9]{2}", r"[\w]{20}", r"[\a\d]{4}", r"[-x]{3}"])
def test_generated_values_are_of_their_expression(expression: str) -> None:
    parameter = {"name": "PASSWORD", "generate": "expression", "from": expression}
    pattern = expression.replace(r"\a", "A-Za-z0-9")
    values = {spec_of("${PASSWORD}", parameter) for _number in range(20)}
    assert all(re.fullmatch(pattern, value) for value in values)
    assert len(values) > 1


def test_symbols_are_generated_and_what_was_given_or_stands_there_is_kept() -> None:
    parameter = {"name": "PASSWORD", "generate": "expression", "from": r"[\A]{30}"}
    assert re.fullmatch(r"[^\w\s]{30}|.*_.*", spec_of("${PASSWORD}", parameter))
    assert spec_of("${PASSWORD}", parameter, PASSWORD="secret") == "secret"
    assert spec_of("${PASSWORD}", {**parameter, "value": "there"}) == "there"


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"generate": "uuid"}, "X '': there is no generator 'uuid', only 'expression'. Remedy: correct the Template."),
        ({"from": "[z-a]{3}"}, "X '[z-a]{3}': the range z-a is empty. Remedy: correct the Template."),
        ({"from": "abc"}, "X 'abc': it generates nothing: no part is like [a-z0-9]{8}. Remedy: correct the Template."),
        (
            {"from": "[a]{256}"},
            "X '[a]{256}': it generates 256 characters, and 1 to 255 are allowed. Remedy: correct the Template.",
        ),
    ],
)
def test_a_generator_that_can_not_work_is_named(parameter: dict[str, str], said: str) -> None:
    assert refused("${X}", {"name": "X", "generate": "expression", **parameter}) == [said]


def test_every_problem_is_told_at_once_and_nothing_is_made() -> None:
    assert refused(
        ["${{COUNT}}", "${{COUNT}}"], {"name": "MUST", "required": True}, COUNT="two", NAME="", IMAGE_TGA="2.1"
    ) == [
        "IMAGE_TGA '2.1': the Template has no such parameter. Remedy: name one of NAME, COUNT, MUST.",
        "NAME '': the Template requires it. Remedy: give it, with -p NAME=VALUE.",
        "MUST '': the Template requires it. Remedy: give it, with -p MUST=VALUE.",
        "COUNT 'two': it is no JSON, and the Template does not take it as text. "
        'Remedy: write JSON, for example 2, true or ["a"]; a text in double quotes.',
    ]
