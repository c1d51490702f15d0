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
options:
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

- name: Go on only with a warm cache
  ansible.builtin.assert:
    that: cache.verdict == 'Healthy'
    fail_msg: "{{ cache.reasons | join(' ') }}"
"""

RETURN = r"""
verdict:
  description: One of V(Absent), V(Progressing), V(Healthy), V(Degraded), V(NoMatchingNodes), V(InvalidSettings).
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
  returned: always
  type: bool
  sample: false
summary:
  description: Counts of images, nodes, and of each state of an image on a node.
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
  returned: always
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
  returned: always
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
  returned: always
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
  returned: when O(matrix=true)
  type: str
  sample: eJyrVsovSUxKTVWyUiorTi0qS8xRqgUAQ7cHGQ==
settings:
  description: The settings of the ConfigMap, or null where there are none that can be used.
  returned: always
  type: dict
  sample: {"images": [{"name": "java11", "image": "registry.example.com/team/java11:2.1"}]}
problems:
  description: What is wrong with the settings of the ConfigMap.
  returned: always
  type: list
  elements: str
  sample: []
daemonset:
  description: Name, namespace and generation of the DaemonSet, or null.
  returned: always
  type: dict
  sample: {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller", "generation": 1}
"""

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet, look, read_settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import in_short
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import NAME_ARGUMENTS, make_module, run
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Reading, to_options

ARGUMENTS: dict[str, Any] = {
    "read_nodes": {"type": "bool", "default": True},
    "matrix": {"type": "bool", "default": False},
}


def main() -> None:
    module = make_module(NAME_ARGUMENTS, ARGUMENTS)
    image_set = ImageSet(module.params["namespace"], module.params["config_map_name"])

    def work(cluster: Cluster) -> dict[str, Any]:
        reading = read_settings(cluster, image_set)
        if reading is None:
            missing = f"ConfigMap {image_set.namespace}/{image_set.config_map_name} does not exist"
            report, reading = Report("Absent", (missing,)), Reading(None)
        elif reading.settings is None:
            report = Report("InvalidSettings", tuple(str(problem) for problem in reading.problems))
        else:
            report = look(cluster, reading.settings, read_nodes=module.params["read_nodes"])
        return {
            "changed": False,
            **(in_short(report) if module.params["matrix"] else report.as_dict()),
            "settings": to_options(reading.settings) if reading.settings else None,
            "problems": [str(problem) for problem in reading.problems],
        }

    run(module, work)


if __name__ == "__main__":
    main()
