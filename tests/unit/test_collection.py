# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection says about itself in several places must agree."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kubecache.image_puller.plugins.doc_fragments import attributes
from ansible_collections.kubecache.image_puller.plugins.doc_fragments.kubernetes import ModuleDocFragment
from ansible_collections.kubecache.image_puller.plugins.module_utils import connection
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import CONNECTION_ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
GALAXY: dict[str, Any] = yaml.safe_load((ROOT / "galaxy.yml").read_text())
NAME = f"{GALAXY['namespace']}.{GALAXY['name']}"
RUNTIME: dict[str, Any] = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
CLIENT = ".".join(map(str, connection.MINIMUM_KUBERNETES))


def load_modules() -> dict[str, Any]:
    """The modules that run; one without main() only documents an action plugin."""
    names = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
    modules = {name: importlib.import_module(f"ansible_collections.{NAME}.plugins.modules.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "main")}


MODULES = load_modules()


class Specified(Exception):
    """Raised instead of making an AnsibleModule, with the argument spec."""


@pytest.fixture
def argument_specs(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The argument spec that each module gives to Ansible."""

    def stop(self: AnsibleModule, argument_spec: dict[str, Any], **_: Any) -> None:
        raise Specified(argument_spec)

    monkeypatch.setattr(AnsibleModule, "__init__", stop)
    specs = {}
    for name, module in MODULES.items():
        with pytest.raises(Specified) as specified:
            module.main()
        specs[name] = specified.value.args[0]
    return specs


def test_action_group_has_every_module_that_connects(argument_specs: dict[str, dict[str, Any]]) -> None:
    metadata, *members = RUNTIME["action_groups"]["image_puller"]
    assert metadata == {"metadata": {"extend_group": ["kubernetes.core.k8s"]}}
    connecting = [name for name, spec in argument_specs.items() if CONNECTION_ARGUMENTS.keys() & spec.keys()]
    assert sorted(members) == connecting


def test_modules_that_connect_take_all_connection_options(argument_specs: dict[str, dict[str, Any]]) -> None:
    for name, spec in argument_specs.items():
        missing = CONNECTION_ARGUMENTS.keys() - spec.keys()
        assert not missing or missing == CONNECTION_ARGUMENTS.keys(), name


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_connect_share_the_documentation(name: str) -> None:
    fragments = yaml.safe_load(MODULES[name].DOCUMENTATION)["extends_documentation_fragment"]
    assert f"{NAME}.kubernetes" in fragments
    assert {f"{NAME}.attributes", f"{NAME}.attributes.info"} & set(fragments)


def test_attributes_name_the_action_group() -> None:
    for text in (attributes.ModuleDocFragment.DOCUMENTATION, attributes.ModuleDocFragment.INFO):
        assert yaml.safe_load(text)["attributes"]["action_group"]["membership"] == [f"{NAME}.image_puller"]


@pytest.mark.parametrize("file", ["requirements.txt", "meta/ee-requirements.txt"])
def test_python_requirements_are_what_the_modules_check(file: str) -> None:
    assert (ROOT / file).read_text().split() == [f"kubernetes>={CLIENT}.0"]


def test_documented_requirements_are_the_checked_ones() -> None:
    python = yaml.safe_load((ROOT / "tests/config.yml").read_text())["modules"]["python_requires"]
    core = GALAXY["dependencies"]["kubernetes.core"].split(",")[0]
    assert yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["requirements"] == [
        f"python {python.replace('>=', '>= ')}",
        f"kubernetes >= {CLIENT}.0 (the Python library)",
        f"kubernetes.core {core.replace('>=', '>= ')} (the collection)",
    ]


def test_sentence_for_the_missing_collection_asks_for_the_dependency() -> None:
    sentence = Path(connection.__file__).read_text()
    assert re.findall(r"'kubernetes\.core:(.*)'", sentence) == [GALAXY["dependencies"]["kubernetes.core"]]


def test_execution_environment_files_are_there() -> None:
    environment = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())
    assert all((ROOT / path).is_file() for path in environment["dependencies"].values())


def test_python_files_name_their_license() -> None:
    plugins = list(ROOT.glob("plugins/**/*.py"))
    others = [path for room in ("controller", "deploy", "tests") for path in ROOT.glob(f"{room}/**/*.py")]
    for path in [*plugins, *others]:
        header = path.read_text()[:400]
        assert f"SPDX-License-Identifier: {GALAXY['license'][0]}" in header, path
        assert path not in plugins or "GNU General Public License v3.0+" in header, path


def test_the_readme_follows_the_template_for_certified_content() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    wanted = ["Description", "Requirements", "Installation", "Use Cases", "Testing", "Support"]
    assert headings == [*wanted, "Release Notes and Roadmap", "Related Information", "License Information"]


def test_each_check_of_another_tool_has_a_target_that_the_readme_names() -> None:
    """`make platforms` runs a directory; what is in it can be run alone, too."""
    makefile, readme = ((ROOT / name).read_text() for name in ("Makefile", "README.md"))
    files = {path.name for path in (ROOT / "tests" / "integration" / "platforms").glob("test_*.py")}
    targets = dict(
        re.findall(r"^([\w-]+):.*\n\t\$\(PY\) -m pytest \$\(PLATFORMS\)/(test_\w+\.py)", makefile, re.MULTILINE)
    )
    assert set(targets.values()) == files
    assert [target for target in targets if f"`make {target}`" not in readme] == []
