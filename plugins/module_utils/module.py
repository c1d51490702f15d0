# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: the options of the settings, and how work starts, fails and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import (
    CONNECTION_ARGUMENTS,
    connect,
    same_slice,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import read_plan
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import DEPLOYMENT_NAME
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    FIELDS,
    InvalidSettings,
    Problem,
    check,
    from_options,
)

_STRUCTURED = (
    "images",
    "daemonset_annotations",
    "node_selector",
    "affinity",
    "tolerations",
    "image_pull_secrets",
    "pod_labels",
    "pod_annotations",
)
MINIMUM_PYTHON = (3, 10)
NAMESPACE = "k8s-image-puller"
NAME_ARGUMENTS: dict[str, Any] = {
    "namespace": {"type": "str", "default": NAMESPACE},
    "config_map_name": {"type": "str", "default": CONFIG_MAP_NAME},
}
DEPLOYMENT_ARGUMENT: dict[str, Any] = {"deployment_name": {"type": "str", "default": DEPLOYMENT_NAME}}
SETS_ARGUMENT: dict[str, Any] = {"sets": {"type": "str", "choices": ["one", "all"], "default": "one"}}
# Empty answers of a survey must pass, so nothing is stricter here than text; settings.py has the rules.
SETTINGS_ARGUMENTS: dict[str, Any] = {
    field.option: {"type": "raw" if field.option in _STRUCTURED else "str", "no_log": False}
    for field in FIELDS
    if field.option != "namespace"
}
# Options that are no settings, and what they must be.
_CHECKS = {
    "namespace": "namespace",
    "config_map_name": "name",
    "deployment_name": "name",
    "service_account_name": "name",
    "deployment_priority_class_name": "name",
    "image": "image",
    "deployment_cpu_request": "quantity",
    "deployment_memory_request": "quantity",
    "deployment_cpu_limit": "quantity",
    "deployment_memory_limit": "quantity",
}


def make_module(*arguments: Mapping[str, Any], **more: Any) -> AnsibleModule:
    """An AnsibleModule with the connection options and these."""
    spec: dict[str, Any] = dict(CONNECTION_ARGUMENTS)
    for part in arguments:
        spec.update(part)
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **more)
    # Here, since what this file imports does not need it yet.
    if sys.version_info < MINIMUM_PYTHON:
        minimum = ".".join(map(str, MINIMUM_PYTHON))
        module.fail_json(
            msg=f"{sys.executable} is Python {sys.version.split()[0]}, and Python {minimum} or later is needed. "
            "Choose another one with ansible_python_interpreter."
        )
    return module


class Failure(Exception):
    """Work that failed after a part of it was done: the sentence, and the result so far."""

    def __init__(self, error: Exception, result: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.result = result


def run(module: AnsibleModule, work: Callable[[Cluster], dict[str, Any]]) -> None:
    """Connect, do the work, and end with its result, or with one error that says what to do."""
    run_here(module, lambda: work(Cluster(connect(module))))


def run_here(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """The same without a cluster."""
    try:
        if problems := _option_problems(module):
            raise InvalidSettings(problems)
        result, failure = work(), None
    except Failure as error:
        result, failure = error.result, str(error)
    except (InvalidSettings, ApiError, RuntimeError) as error:
        result, failure = same_slice(module, error), str(error)
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    if failure is not None:
        module.fail_json(msg=failure, **result)
    module.exit_json(**result)


def _option_problems(module: AnsibleModule) -> list[Problem]:
    """Everything that is wrong with the options, known before anything is asked of the cluster."""
    given = {option: kind for option, kind in _CHECKS.items() if module.params.get(option)}
    problems = [problem for option, kind in given.items() for problem in check(option, module.params[option], kind)]
    if "groups" in module.params:
        plan = read_plan(given_settings(module), module.params["groups"], module.params["config_map_name"])
        problems += [problem for problem in plan.problems if problem not in problems]
    elif "images" in module.params:
        problems += [problem for problem in from_options(given_settings(module)).problems if problem not in problems]
    return problems


def given_settings(module: AnsibleModule) -> dict[str, Any]:
    """The options of the settings that were given."""
    return {field.option: module.params.get(field.option) for field in FIELDS}


def diff_of(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Ansible's diff: one part for each changed object."""
    return [
        {"before": c.before, "after": c.after, "before_header": c.name, "after_header": f"{c.name} ({c.action})"}
        for c in changes
        if c.changed
    ]
