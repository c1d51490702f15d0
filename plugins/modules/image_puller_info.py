#!/usr/bin/python
# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_puller_info
short_description: Tell which image is on which node, and why not
version_added: 0.1.0
description:
  - Reads the DaemonSet of one set of images, its pods, the nodes and the kubelets' events, and changes nothing.
extends_documentation_fragment:
  - kubecache.image_puller.attributes
  - kubecache.image_puller.attributes.info
  - kubecache.image_puller.kubernetes
  - kubecache.image_puller.settings.names
  - kubecache.image_puller.settings.deployment
options:
  sets:
    description:
      - V(one) means the set of the ConfigMap O(config_map_name).
      - V(all) means every set of the installation with this O(config_map_name) and O(deployment_name), its groups
        included.
    type: str
    choices: [one, all]
    default: one
  read_nodes:
    description:
      - Whether to read nodes. Without, or where it is not allowed, nodes are inferred from the pods.
    type: bool
    default: true
  matrix:
    description:
      - Whether to return RV(matrix) and leave RV(rows) empty. It has the same in a small part of the space, for
        M(kubecache.image_puller.image_puller_report).
    type: bool
    default: false
seealso:
  - module: kubecache.image_puller.image_puller_report
  - module: kubecache.image_puller.image_puller_daemonset
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Read the state of the cache
  kubecache.image_puller.image_puller_info:
  register: cache

- name: Read the state of all groups, too
  kubecache.image_puller.image_puller_info:
    sets: all
  register: caches

- name: Go on only with a warm cache
  ansible.builtin.assert:
    that: cache.verdict == 'Healthy'
    fail_msg: "{{ cache.reasons | join(' ') }}"
"""

RETURN = r"""
verdict:
  description:
    - One of V(Absent), V(Progressing), V(Healthy), V(Degraded), V(NoMatchingNodes), V(InvalidSettings); of several sets
      the worst.
  returned: always
  type: str
  sample: Healthy
reasons:
  description: Why the verdict is what it is.
  returned: always
  type: list
  elements: str
  sample: []
inferred:
  description: Whether the nodes could not be read, so that they were inferred from the pods.
  returned: with O(sets=one)
  type: bool
  sample: false
sets:
  description: One for each set, the main one first.
  returned: always
  type: list
  elements: dict
  contains:
    config_map_name:
      description: The set's ConfigMap.
      type: str
      sample: k8s-image-puller-gpu
    daemonset_name:
      description: The set's DaemonSet; null where the settings can't be read.
      type: str
      sample: kubernetes-image-puller-gpu
    group:
      description: The set's name in the list of groups; empty for any other set.
      type: str
      sample: gpu
    verdict:
      description: As above, of this set.
      type: str
      sample: Healthy
    reasons:
      description: As above, of this set.
      type: list
      elements: str
      sample: []
    summary:
      description: As below, of this set.
      type: dict
      sample: {"images": 1, "nodes": 1, "cached": 1}
    report:
      description: With O(sets=all), all that is returned of this set with O(sets=one).
      type: dict
      sample: {"verdict": "Healthy"}
summary:
  description: Counts of images, nodes, and of each state of an image on a node; of several sets the sums.
  returned: always
  type: dict
  sample:
    images: 1
    nodes: 1
    excused_nodes: 0
    cached: 1
    pulling: 0
    waiting: 0
    failed: 0
    not_applicable: 0
    released: 0
images:
  description: One for each image, with the number of nodes in each state and the worst reason.
  returned: with O(sets=one)
  type: list
  elements: dict
  sample:
    - name: java11
      image: registry.example.com/team/java11:2.1
      nodes: 1
      cached: 1
      pulling: 0
      waiting: 0
      failed: 0
      not_applicable: 0
      released: 0
      class: null
      reason: null
      message: null
nodes:
  description: One for each node, with the number of images in each state, why it is excused, or why it is skipped.
  returned: with O(sets=one)
  type: list
  elements: dict
  sample:
    - name: node-1
      excused: null
      skipped: null
      cached: 1
      pulling: 0
      waiting: 0
      failed: 0
      not_applicable: 0
      released: 0
rows:
  description: One for each image on each node; null where nobody told.
  returned: with O(sets=one)
  type: list
  elements: dict
  sample:
    - node: node-1
      name: java11
      image: registry.example.com/team/java11:2.1
      state: cached
      class: null
      held: true
      reason: null
      message: null
      digest: sha256:0f5c2f3a
      since: "2026-01-01T00:00:00Z"
      pull_seconds: 0.8
      size: 1185181
matrix:
  description: All rows in a compact form for M(kubecache.image_puller.image_puller_report).
  returned: with O(matrix=true) and O(sets=one)
  type: str
  sample: eJyrVsovSUxKTVWyUiorTi0qS8xRqgUAQ7cHGQ==
settings:
  description: The settings of the ConfigMap, or null where there are none that can be used.
  returned: with O(sets=one)
  type: dict
  sample: {"images": [{"name": "java11", "image": "registry.example.com/team/java11:2.1"}]}
problems:
  description: What is wrong with the settings of the ConfigMap.
  returned: with O(sets=one)
  type: list
  elements: str
  sample: []
daemonset:
  description: Name, namespace and generation of the DaemonSet, or null.
  returned: with O(sets=one)
  type: dict
  sample: {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller", "generation": 1}
"""

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    Member,
    look,
    names_of,
    read_members,
    titled,
    total,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import in_short
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETS_ARGUMENT,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Reading, to_options

ARGUMENTS: dict[str, Any] = {
    "read_nodes": {"type": "bool", "default": True},
    "matrix": {"type": "bool", "default": False},
}


def main() -> None:
    module = make_module(NAME_ARGUMENTS, DEPLOYMENT_ARGUMENT, SETS_ARGUMENT, ARGUMENTS)
    params = module.params
    image_set = ImageSet(params["namespace"], params["config_map_name"], params["deployment_name"])

    def work(cluster: Cluster) -> dict[str, Any]:
        members = read_members(cluster, image_set, params["sets"] == "all")
        reports = [look(cluster, member, read_nodes=params["read_nodes"]) for member in members]
        if not members:
            missing = f"ConfigMap {image_set.namespace}/{image_set.config_map_name} does not exist"
            members = [Member(image_set, Reading(None))]
            reports = [Report("Absent", (missing,))]
        told = [_told(*pair, matrix=params["matrix"]) for pair in zip(members, reports, strict=True)]
        sets = [
            {**names_of(member), **{key: report[key] for key in ("verdict", "reasons", "summary")}}
            for member, report in zip(members, told, strict=True)
        ]
        if params["sets"] == "one":
            return {"changed": False, **told[0], "sets": sets}
        return {
            "changed": False,
            **total(told),
            "reasons": [
                titled(member, why) for member, report in zip(members, told, strict=True) for why in report["reasons"]
            ],
            "sets": [{**set_, "report": report} for set_, report in zip(sets, told, strict=True)],
        }

    run(module, work)


def _told(member: Member, report: Report, *, matrix: bool) -> dict[str, Any]:
    settings = member.reading.settings
    return {
        **(in_short(report) if matrix else report.as_dict()),
        "settings": to_options(settings) if settings else None,
        "problems": [str(problem) for problem in member.reading.problems],
    }


if __name__ == "__main__":
    main()
