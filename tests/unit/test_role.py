# SPDX-License-Identifier: GPL-3.0-or-later
"""The role says the same in its defaults, its argument specs, its tasks and the modules that it calls."""

from __future__ import annotations

import importlib
import pathlib
import re
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import NAMESPACE

COLLECTION = pathlib.Path(__file__).resolve().parents[2]
ROLE = COLLECTION / "roles" / "image_puller"
PREFIX = "image_puller_"
ENTRY_POINTS = ("main", "plan", "render", "health_check", "status", "migrate", "uninstall")


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text())


def variables_of(entry_point: str) -> set[str]:
    """The role's variables in the tasks of an entry point, those of the files that it imports included."""
    text = (ROLE / "tasks" / f"{entry_point}.yml").read_text()
    found = set(re.findall(rf"(?<![\w.]){PREFIX}\w+(?!:|\w)", text))
    return found.union(*(variables_of(name) for name in re.findall(r"(?:import|include)_tasks: (\w+)\.yml", text)))


DEFAULTS: dict[str, Any] = load(ROLE / "defaults" / "main.yml")
SPECS: dict[str, Any] = load(ROLE / "meta" / "argument_specs.yml")["argument_specs"]


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_an_entry_point_documents_exactly_the_variables_that_it_uses(entry_point: str) -> None:
    assert set(SPECS[entry_point]["options"]) == variables_of(entry_point)


def test_every_variable_has_a_value_and_every_value_a_use() -> None:
    assert set(DEFAULTS) == {name for spec in SPECS.values() for name in spec["options"]}
    assert set(SPECS) == set(ENTRY_POINTS)


def test_a_default_is_named_where_a_variable_is_explained() -> None:
    """ansible-doc shows null for each of them, since the specs set nothing."""
    text = (ROLE / "defaults" / "main.yml").read_text()
    settings_of_the_modules = dict(re.findall(rf'^({PREFIX}\w+): "" +# (\S+)$', text, re.MULTILINE))
    for spec in SPECS.values():
        for name, option in spec["options"].items():
            default = str(DEFAULTS[name]).lower() if isinstance(DEFAULTS[name], bool) else DEFAULTS[name]
            default = default or settings_of_the_modules.get(name, "")
            assert not default or f"C({default})" in str(option["description"]), name


def test_an_empty_answer_passes_every_argument_spec() -> None:
    for spec in SPECS.values():
        for name, option in spec["options"].items():
            assert option["type"] in ("str", "raw"), name
            assert set(option) == {"type", "description"}, f"{name}: the specs set and require nothing"


def tasks_of(entry_point: str) -> list[dict[str, Any]]:
    """The tasks of an entry point's own file, those of its blocks among them."""
    found: list[dict[str, Any]] = []
    waiting = load(ROLE / "tasks" / f"{entry_point}.yml")
    while waiting:
        task = waiting.pop(0)
        found.append(task)
        waiting = [*task.get("block", ()), *task.get("always", ()), *waiting]
    return found


def test_the_installation_checks_what_the_wait_after_it_will_be_asked() -> None:
    modules = [f"kubecache.image_puller.image_puller_{name}" for name in ("install", "daemonset")]
    install, wait = (next(task[name] for task in tasks_of("main") if name in task) for name in modules)
    asked = {"wait_timeout", "wait_for", "on_timeout", "min_nodes"}
    assert {option: install[option] for option in asked} == {option: wait[option] for option in asked}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_what_would_be_found_wrong_too_late_is_looked_at_first(entry_point: str) -> None:
    """Names of reports, and what the filter bool would take for false."""
    text = (ROLE / "tasks" / f"{entry_point}.yml").read_text()
    switches = set(re.findall(rf"({PREFIX}\w+) \| bool", text))
    looked_at = tasks_of(entry_point)[0].get("vars", {})
    assert set(looked_at.get("__image_puller_switches", ())) == switches
    assert ("__image_puller_reports" in looked_at) == ("include_tasks: report.yml" in text)


def test_every_setting_and_every_option_of_the_installation_can_be_set() -> None:
    module = importlib.import_module("ansible_collections.kubecache.image_puller.plugins.modules.image_puller_install")
    options = {field.option for field in settings.FIELDS} | set(module.ARGUMENTS)
    options -= {"state", "daemonset", "openshift"}  # The role always keeps the DaemonSet; the last is for render.
    assert {PREFIX + option for option in options} <= set(SPECS["render"]["options"])
    assert set(SPECS["render"]["options"]) - set(SPECS["main"]["options"]) == {
        "image_puller_render",
        "image_puller_render_openshift",
    }


def test_the_defaults_are_those_of_the_modules() -> None:
    # Settings are not set, so that an installation that is taken over keeps its own; the comment names the default.
    text = (ROLE / "defaults" / "main.yml").read_text()
    for option in settings.DEFAULTS.keys() - {"namespace"}:
        assert DEFAULTS[PREFIX + option] == "", option
        value = settings.DEFAULTS[option]
        own_place = option in ("images", "helper_image")
        assert not value or own_place or re.search(rf'^{PREFIX}{option}: "" +# {re.escape(str(value))}$', text, re.M)
    resources = installation.Resources()
    for name in installation.Resources.__annotations__:
        assert DEFAULTS[f"{PREFIX}deployment_{name}"] == getattr(resources, name)
    assert DEFAULTS["image_puller_namespace"] == NAMESPACE
    assert DEFAULTS["image_puller_deployment_name"] == installation.DEPLOYMENT_NAME
    assert DEFAULTS["image_puller_service_account_name"] == installation.SERVICE_ACCOUNT_NAME
    assert DEFAULTS["image_puller_config_map_name"] == settings.CONFIG_MAP_NAME


def test_the_variable_file_of_che_is_the_default_list() -> None:
    images = load(COLLECTION / "playbooks" / "vars" / "che.yml")["image_puller_images"]
    assert [settings.CachedImage(*item) for item in images.items()] == list(settings.DEFAULT_IMAGES)


def test_the_variable_file_of_codeready_workspaces_has_the_seven_images() -> None:
    images = load(COLLECTION / "playbooks" / "vars" / "codeready_workspaces_2_1.yml")["image_puller_images"]
    others = {"theia-endpoint-rhel8": "theia-rhel8"}
    for name, image in images.items():
        assert image == f"registry.access.redhat.com/codeready-workspaces/{others.get(name, name)}:2.1"
    assert list(images) == [
        "stacks-java-rhel8",
        "theia-rhel8",
        "stacks-golang-rhel8",
        "stacks-node-rhel8",
        "theia-endpoint-rhel8",
        "pluginbroker-metadata-rhel8",
        "pluginbroker-artifacts-rhel8",
    ]
    assert settings.from_options({"images": images}).problems == ()


def test_the_documented_text_differs_from_the_right_list_by_the_misspelt_host() -> None:
    documented = load(COLLECTION / "tests" / "demo" / "documented.yml")["image_puller_images"]
    right = load(COLLECTION / "playbooks" / "vars" / "codeready_workspaces_2_1.yml")["image_puller_images"]
    reading = settings.from_options({"images": documented})
    assert reading.settings
    wrong = {item.name: item.image for item in reading.settings.images if item.image != right[item.name]}
    assert wrong == {"pluginbroker-metadata-rhel8": right["pluginbroker-metadata-rhel8"].removeprefix("r")}


def test_the_readme_lists_every_variable() -> None:
    (section,) = re.findall(
        r"^### Variables$(.*?)^##", (COLLECTION / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    listed = re.findall(rf"^\| `({PREFIX}\w+)`", section, re.MULTILINE)
    assert sorted(listed) == sorted([*DEFAULTS, "image_puller_hosts"])
