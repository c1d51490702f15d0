# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates ask for variables that there are, with the role's own defaults, and name only what there is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.running import ROOT

ROLE = ROOT / "roles" / "image_puller"


def load(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return found


AAP = load("extensions/aap/image_puller.yml")
DEFAULTS = load("roles/image_puller/defaults/main.yml")
SPECS = load("roles/image_puller/meta/argument_specs.yml")["argument_specs"]
TEMPLATES = {template["playbook"].removeprefix("playbooks/")[:-4]: template for template in AAP["controller_templates"]}


def entry_point(playbook: str) -> str:
    return "main" if playbook == "install" else playbook


def survey(template: dict[str, Any]) -> list[dict[str, Any]]:
    questions: list[dict[str, Any]] = template["survey_spec"]["spec"]
    return questions


@pytest.mark.parametrize("playbook", TEMPLATES)
def test_a_survey_asks_for_variables_of_its_playbook_with_the_roles_defaults(playbook: str) -> None:
    assert (ROOT / "playbooks" / f"{playbook}.yml").is_file()
    for question in survey(TEMPLATES[playbook]):
        variable = question["variable"]
        assert variable in SPECS[entry_point(playbook)]["options"]
        assert str(question["default"]) in (str(DEFAULTS[variable]), str(DEFAULTS[variable]).lower()), variable
        assert question["required"] is False
        if question["type"] == "multiplechoice":
            assert question["default"] in question["choices"]
            assert all(isinstance(choice, str) for choice in question["choices"])


def test_no_question_is_asked_twice_and_none_asks_for_a_secret() -> None:
    for template in (*TEMPLATES.values(), *AAP["controller_workflows"]):
        variables = [question["variable"] for question in survey(template)]
        assert len(set(variables)) == len(variables)
        assert {question["type"] for question in survey(template)} <= {"text", "textarea", "integer", "multiplechoice"}


def test_there_is_a_template_for_each_use() -> None:
    assert set(TEMPLATES) == {"plan", "install", "health_check", "status", "uninstall"}
    assert len({template["name"] for template in TEMPLATES.values()}) == len(TEMPLATES)
    for template in TEMPLATES.values():
        assert template["credentials"] == ["{{ __image_puller_aap.credential }}"]
        assert template["project"] == AAP["controller_projects"][0]["name"]
        assert (
            template["inventory"] == AAP["controller_hosts"][0]["inventory"] == AAP["controller_inventories"][0]["name"]
        )


def test_the_workflow_installs_only_what_was_planned_and_approved() -> None:
    (workflow,) = AAP["controller_workflows"]
    nodes = {node["identifier"]: node for node in workflow["simplified_workflow_nodes"]}
    templates = {node.get("unified_job_template"): name for name, node in nodes.items()}
    assert templates == {
        TEMPLATES["plan"]["name"]: "plan",
        None: "approval",
        TEMPLATES["install"]["name"]: "install",
        TEMPLATES["status"]["name"]: "status",
    }
    links = {name: (node.get("success_nodes"), node.get("always_nodes")) for name, node in nodes.items()}
    assert links == {
        "plan": (["approval"], None),
        "approval": (["install"], None),
        "install": (None, ["status"]),
        "status": (None, None),
    }
    assert survey(workflow) == survey(TEMPLATES["install"])


def test_the_schedule_checks_the_health() -> None:
    (schedule,) = AAP["controller_schedules"]
    assert schedule["unified_job_template"] == TEMPLATES["health_check"]["name"]
