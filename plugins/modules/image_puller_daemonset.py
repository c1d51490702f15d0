#!/usr/bin/python
# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_puller_daemonset
short_description: Keep the DaemonSet that holds the images, and wait until they are cached
version_added: 0.1.0
description:
  - Makes the DaemonSet of one set of images where it is missing, mends it where it differs, and leaves it alone
    otherwise. With a controller in the cluster both come to the same result and don't fight.
  - The settings come from the ConfigMap O(config_map_name), unless O(settings) or O(images) are given.
extends_documentation_fragment:
  - kubecache.image_puller.attributes
  - kubecache.image_puller.kubernetes
  - kubecache.image_puller.settings
  - kubecache.image_puller.settings.names
  - kubecache.image_puller.settings.deployment
options:
  state:
    description:
      - V(present) keeps the DaemonSet.
      - V(absent) removes the DaemonSet of the set and waits until its pods are gone. The images stay on the nodes until
        the kubelet needs the space.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description:
      - All settings, as M(kubecache.image_puller.image_puller_install) or M(kubecache.image_puller.image_puller_config)
        returned them.
    type: dict
  recreate:
    description:
      - V(unhealthy) does the least violent thing that helps, and makes a DaemonSet that is being deleted again.
      - V(always) deletes the DaemonSet and makes it again.
      - V(never) leaves a DaemonSet that is being deleted to whoever deletes it.
    type: str
    choices: [unhealthy, always, never]
    default: unhealthy
  read_nodes:
    description:
      - Whether to read nodes. Without, or where it is not allowed, nodes are inferred from the pods.
    type: bool
    default: true
  wait:
    description:
      - Whether to wait until every image is cached on every node. Failures that only a person can mend end the wait.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait.
    type: int
    default: 900
  min_nodes:
    description:
      - With V(0), a set that matches no node does not fail a wait.
    type: int
    default: 1
seealso:
  - module: kubecache.image_puller.image_puller_info
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Check the health of the cache, and mend it
  kubecache.image_puller.image_puller_daemonset:
    namespace: k8s-image-puller

- name: Keep a set without a controller, and wait for its images
  kubecache.image_puller.image_puller_daemonset:
    images:
      java11: registry.example.com/team/java11:2.1
    wait: true
    wait_timeout: 600
"""

RETURN = r"""
action:
  description:
    - What was done, or in check mode would be done.
    - One of V(none), V(created), V(patched), V(recreated), V(deleted).
  returned: always
  type: str
  sample: created
reasons:
  description: Why.
  returned: always
  type: list
  elements: str
  sample: ["DaemonSet k8s-image-puller/kubernetes-image-puller does not exist"]
verdict:
  description: One of V(Absent), V(Progressing), V(Healthy), V(Degraded), V(NoMatchingNodes), at the end of the task.
  returned: always
  type: str
  sample: Healthy
verdict_reasons:
  description: Why the verdict is what it is.
  returned: success
  type: list
  elements: str
  sample: []
report:
  description:
    - What M(kubecache.image_puller.image_puller_info) would return at the end of the task, without its C(rows).
    - There when a wait has failed, too.
  returned: always
  type: dict
  sample:
    verdict: Healthy
summary:
  description: Counts of images, nodes, and of each state of an image on a node.
  returned: always
  type: dict
  sample:
    images: 2
    nodes: 3
    excused_nodes: 0
    cached: 6
    pulling: 0
    waiting: 0
    failed: 0
    not_applicable: 0
    released: 0
notes:
  description: Sentences about the settings which are no problems.
  returned: always
  type: list
  elements: str
  sample: []
"""

import time
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    is_openshift,
    keep,
    look,
    our_daemonsets,
    pods_of,
    read_settings,
    remove_former_daemonsets,
    wait_until_gone,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETTINGS_ARGUMENTS,
    Failure,
    diff_of,
    given_settings,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import describe
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import judged
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    Reading,
    from_options,
    require,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.waiting import NotCached, wait_until_cached

ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "settings": {"type": "dict"},
    "recreate": {"type": "str", "choices": ["unhealthy", "always", "never"], "default": "unhealthy"},
    "read_nodes": {"type": "bool", "default": True},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 900},
    "min_nodes": {"type": "int", "default": 1},
}


def main() -> None:
    module = make_module(
        NAME_ARGUMENTS,
        DEPLOYMENT_ARGUMENT,
        SETTINGS_ARGUMENTS,
        ARGUMENTS,
        mutually_exclusive=[("settings", "images")],
    )
    params = module.params
    image_set = ImageSet(params["namespace"], params["config_map_name"], params["deployment_name"])

    def read(cluster: Cluster) -> Reading:
        if params["settings"]:
            return from_options(params["settings"])
        if params["images"] not in (None, ""):
            return from_options(given_settings(module))
        reading = read_settings(cluster, image_set)
        if reading is None:
            raise RuntimeError(
                f"ConfigMap {image_set.namespace}/{image_set.config_map_name} does not exist: there is no Image "
                "Puller. Install it with the playbook kubecache.image_puller.install, or correct namespace and "
                "config_map_name"
            )
        return reading

    def present(cluster: Cluster) -> dict[str, Any]:
        reading = read(cluster)
        settings = require(reading)
        decision, change, warnings = keep(
            cluster,
            image_set,
            settings,
            openshift=is_openshift(cluster),
            recreate=params["recreate"],
            read_nodes=params["read_nodes"],
            dry_run=module.check_mode,
        )

        def report_now() -> Report:
            report = look(cluster, settings, read_nodes=params["read_nodes"])
            return judged(report, decision) if decision.paused else report

        former = remove_former_daemonsets(cluster, image_set, settings, dry_run=module.check_mode)
        reasons = [*decision.reasons, *change.notes, *(f"{name} has a former name and is deleted" for name in former)]
        more = {"warnings": [*warnings, *([decision.paused] if decision.paused else [])]}
        try:
            waiting = params["wait"] and not module.check_mode
            report = (
                wait_until_cached(report_now, timeout=params["wait_timeout"], min_nodes=params["min_nodes"])
                if waiting
                else report_now()
            )
        except NotCached as error:
            result = _result(change, reasons, error.report, reading, bool(former))
            del result["verdict_reasons"]  # The message says them.
            raise Failure(error, result | more) from error
        return _result(change, reasons, report, reading, bool(former)) | more

    def absent(cluster: Cluster) -> dict[str, Any]:
        found = our_daemonsets(cluster, image_set)
        for daemonset in found:
            data = daemonset["metadata"]
            cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"], dry_run=module.check_mode)
        if not module.check_mode:
            end = time.monotonic() + params["wait_timeout"]
            for obj in [*found, *(pod for daemonset in found for pod in pods_of(cluster, daemonset))]:
                wait_until_gone(cluster, obj, max(0.0, end - time.monotonic()))
        changes = [Change("deleted", "DaemonSet", describe(daemonset), daemonset) for daemonset in found]
        report = Report("Absent", ("it was asked to be absent",))
        change = changes[0] if changes else Change("none", "DaemonSet", "")
        reasons = [f"{change.name} is asked to be absent" for change in changes]
        return {**_result(change, reasons, report, Reading(None)), "diff": diff_of(changes)}

    run(module, present if params["state"] == "present" else absent)


def _result(
    change: Change, reasons: list[str], report: Report, reading: Reading, more_changed: bool = False
) -> dict[str, Any]:
    told = {**report.as_dict(), "problems": [str(problem) for problem in reading.problems]}
    del told["rows"]  # One for each image on each node: whoever wants them asks image_puller_info.
    return {
        "changed": change.changed or more_changed,
        "action": change.action,
        "reasons": reasons,
        "verdict": told["verdict"],
        "verdict_reasons": told["reasons"],
        "summary": told["summary"],
        "report": told,
        "notes": list(reading.notes),
        "diff": diff_of([change]),
    }


if __name__ == "__main__":
    main()
