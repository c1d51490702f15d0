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
  - Container statuses stand still while a node pulls the images of a set for the first time, kubelets tell only a part
    of what they do, and the images that a node lists are late. All three are joined. Where nobody has told, the state
    is V(waiting) with the reason V(Untold), or V(NotItsTurn) while another image is being pulled.
  - It reads the DaemonSets of other implementations, too, also where there is only a ConfigMap or only a DaemonSet.
  - Registries are asked with O(registry_sizes) and with O(lock), and by default not at all. The other options
    C(registry_*) say how, and do nothing else.
extends_documentation_fragment:
  - kubecache.image_puller.attributes
  - kubecache.image_puller.attributes.info
  - kubecache.image_puller.kubernetes
  - kubecache.image_puller.settings.names
  - kubecache.image_puller.settings.deployment
  - kubecache.image_puller.settings.lock
  - kubecache.image_puller.settings.registry
options:
  sets:
    description:
      - V(one) means the set of the ConfigMap O(config_map_name).
      - V(all) means every set of the installation with this O(config_map_name) and O(deployment_name), its groups
        included.
    type: str
    choices: [one, all]
    default: one
  daemonset_name:
    description:
      - The DaemonSet to look at. Left out, it is the one that the ConfigMap names, and without a ConfigMap
        V(kubernetes-image-puller) or the only one in the namespace that is known to be an Image Puller's.
    type: str
  details:
    description:
      - V(all) returns every image on every node in RV(rows), and every node in RV(nodes).
      - V(problems) returns those that are not cached, or cached and not running, and the nodes that are affected,
        excused or skipped. Messages end after 600 characters, and the list where the result would grow beyond 1 MiB;
        RV(left_out) tells how many are missing.
      - V(summary) returns neither.
      - Left out, it is V(all) with up to 100 nodes, as long as the result stays below 1 MiB, and V(problems) otherwise.
    type: str
    choices: [all, problems, summary]
  read_nodes:
    description:
      - Whether to read nodes. Without, or where it is not allowed, nodes are inferred from the pods.
    type: bool
    default: true
  registry_sizes:
    description:
      - Whether to ask registries how large those images are of which nobody on the cluster told. That is the sum of the
        compressed layers, for the node's platform. What a registry does not tell stays null, with a warning.
      - Without it nothing leaves the cluster, and nothing is waited for that only the internet has.
    type: bool
    default: false
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

- name: Count the nodes of a large cluster that lack something
  kubecache.image_puller.image_puller_info:
    details: summary
  register: counts

- name: Tell how large all images are, with the help of a mirror
  kubecache.image_puller.image_puller_info:
    registry_sizes: true
    registry_mirrors:
      quay.io: mirror.example.com/quay
  register: sizes

- name: Look at a DaemonSet that another Image Puller made
  kubecache.image_puller.image_puller_info:
    daemonset_name: image-puller
  register: other

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
server:
  description: The address of the API server that was asked.
  returned: always
  type: str
  sample: "https://api.example.com:6443"
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
  description:
    - Counts of images, nodes, of each state of an image on a node, and of those that are V(cached) and held, too.
    - Of several sets the sums.
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
    held: 1
images:
  description: One for each image, with the number of nodes in each state, the worst reason, and the number of nodes
    with each digest, the eight most frequent.
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
      held: 1
      class: null
      reason: null
      message: null
      digests:
        sha256:6f9a1f6e2c5f2f1f9d2c35a8a8a3c1ef6f1a6c9f4b7de0f5f3b1c2d3e4f5a6b7: 1
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
      held: 1
rows:
  description:
    - One for each image on each node; null where nobody told.
    - C(held) tells whether something on the node keeps the image from the kubelet's garbage collection. C(since) is
      when the state began, C(size) is in bytes, as the runtime counts it or, with O(registry_sizes), as the registry
      does. C(tries) counts failed pulls that were told of.
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
      tries: 0
excused:
  description:
    - Why nodes do not count, each reason with the number of its nodes and the names of up to five. Of more than five
      reasons those of most nodes come first, and one more entry counts the others.
  returned: with O(sets=one)
  type: list
  elements: dict
  sample: [{"why": "the node is not ready", "nodes": 1, "names": ["node-2"]}]
skipped:
  description: As RV(excused), of nodes with a taint, with the toleration that would be needed.
  returned: with O(sets=one)
  type: list
  elements: dict
  sample: []
details:
  description: What O(details) was, or would have been.
  returned: with O(sets=one)
  type: str
  sample: all
left_out:
  description: How many nodes and rows that O(details) asks for had no room.
  returned: with O(sets=one)
  type: dict
  sample: {"nodes": 0, "rows": 0}
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
drift:
  description:
    - Sentences about what is otherwise than O(lock) has it. These are tags that stand for another digest in their
      registry now, what could not be asked, and where the list is not that of the lock.
  returned: with O(lock)
  type: list
  elements: str
  sample: []
problems:
  description: What is wrong with the settings of the ConfigMap.
  returned: with O(sets=one)
  type: list
  elements: str
  sample: []
daemonset:
  description:
    - Name, namespace and generation of the DaemonSet, by which strategy it holds the images and, where C(strategy=auto)
      has chosen that, why, and whether its pods have resources as a whole. Or null.
  returned: with O(sets=one)
  type: dict
  sample: {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller", "generation": 1,
           "strategy": "sleep", "strategy_reason": "", "pod_resources": false}
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import imageset
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    Member,
    lockable,
    names_of,
    read_members,
    titled,
    total,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.lockfile import (
    LOCK_ARGUMENT,
    read_lock,
    told_by_registries,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import in_short
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETS_ARGUMENT,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULTS,
    Reading,
    Settings,
    to_options,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import REGISTRY_ARGUMENTS, ask_sizes

ARGUMENTS: dict[str, Any] = {
    "daemonset_name": {"type": "str"},
    "read_nodes": {"type": "bool", "default": True},
    "details": {"type": "str", "choices": ["all", "problems", "summary"]},
    "registry_sizes": {"type": "bool", "default": False},
    "matrix": {"type": "bool", "default": False},
}


def main() -> None:
    module = make_module(
        NAME_ARGUMENTS, DEPLOYMENT_ARGUMENT, SETS_ARGUMENT, REGISTRY_ARGUMENTS, LOCK_ARGUMENT, ARGUMENTS
    )
    params = module.params
    image_set = ImageSet(params["namespace"], params["config_map_name"], params["deployment_name"])

    def work(cluster: Cluster) -> dict[str, Any]:
        if params["daemonset_name"] and params["sets"] == "all":
            raise RuntimeError("daemonset_name is that of one set. Leave it or sets=all out")
        lock = read_lock(params["lock"]) if params["lock"] else None
        members = read_members(cluster, image_set, params["sets"] == "all") or [Member(image_set, Reading(None))]
        reports = [_look(cluster, member, params, lock.digests if lock else None) for member in members]
        unknown: list[str] = []
        if params["registry_sizes"]:
            reports, unknown = _with_sizes(cluster, members, reports, params)
        asked: dict[str, Any] = {"warnings": unknown}
        asked |= {"drift": told_by_registries(cluster, lock, lockable(members), params)} if lock else {}
        told = [
            _told(member, in_short(report) if params["matrix"] else report.as_dict(params["details"], len(members)))
            for member, report in zip(members, reports, strict=True)
        ]
        sets = [
            {**names_of(member), **{key: report[key] for key in ("verdict", "reasons", "summary")}}
            for member, report in zip(members, told, strict=True)
        ]
        if params["sets"] == "one":
            return {"changed": False, "server": cluster.server, **told[0], "sets": sets, **asked}
        return {
            "changed": False,
            "server": cluster.server,
            **total(told),
            "reasons": [
                titled(member, why) for member, report in zip(members, told, strict=True) for why in report["reasons"]
            ],
            "sets": [{**set_, "report": report} for set_, report in zip(sets, told, strict=True)],
            **asked,
        }

    run(module, work)


def _look(cluster: Cluster, member: Member, params: Mapping[str, Any], locked: imageset.Digests | None) -> Report:
    """The report of a set; where its settings can't be used, of the DaemonSet that it has all the same."""
    settings, name, read_nodes = member.reading.settings, params["daemonset_name"], params["read_nodes"]
    if settings:
        named = replace(settings, daemonset_name=name or settings.daemonset_name)
        return imageset.look(cluster, named, read_nodes=read_nodes, locked=locked)
    live = imageset.find_daemonset(cluster, member.image_set, name or DEFAULTS["daemonset_name"])
    problems = tuple(_problems(member))
    if live is None:
        if member.reading.problems:
            return Report("InvalidSettings", problems)
        return Report("Absent", (*problems, imageset.NO_IMAGE_PULLER))
    report = imageset.look_at(cluster, imageset.settings_of(live), live, read_nodes=read_nodes)
    if member.reading.problems:
        return replace(report, verdict="InvalidSettings", reasons=(*problems, *report.reasons))
    return report


def _with_sizes(
    cluster: Cluster, members: Sequence[Member], reports: Sequence[Report], params: Mapping[str, Any]
) -> tuple[list[Report], list[str]]:
    """The reports with the sizes that registries tell where nobody else did, and why some stay unknown."""
    lacking = dict.fromkeys(row.image for report in reports for row in report.rows if row.size is None)
    sets = [member.reading.settings or Settings((), namespace=member.image_set.namespace) for member in members]
    sizes = ask_sizes(cluster, sets, params, lacking, read_nodes=params["read_nodes"])

    def filled(row: Row) -> Row:
        return row if row.size is not None else row._replace(size=sizes.of(row.image, row.node))

    return [replace(report, rows=tuple(map(filled, report.rows))) for report in reports], sizes.unknown()


def _problems(member: Member) -> list[str]:
    """What is wrong with the settings of a set; a ConfigMap that is not there has none."""
    if member.reading.settings or member.reading.problems:
        return [str(problem) for problem in member.reading.problems]
    return [imageset.absence(member.image_set)]


def _told(member: Member, told: Mapping[str, Any]) -> dict[str, Any]:
    settings = member.reading.settings
    return {
        **told,
        "settings": to_options(settings) if settings else None,
        "problems": _problems(member),
    }


if __name__ == "__main__":
    main()
