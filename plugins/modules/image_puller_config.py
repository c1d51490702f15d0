#!/usr/bin/python
# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_puller_config
short_description: Keep the ConfigMap that holds the settings of one set of images
version_added: 0.1.0
description:
  - Reads the settings, reports every problem at once before anything is changed, and keeps the ConfigMap.
  - The controller follows a changed ConfigMap within a second, without a restart.
extends_documentation_fragment:
  - kubecache.image_puller.attributes
  - kubecache.image_puller.kubernetes
  - kubecache.image_puller.settings
  - kubecache.image_puller.settings.names
  - kubecache.image_puller.settings.deployment
  - kubecache.image_puller.settings.registry
  - kubecache.image_puller.settings.lock
  - kubecache.image_puller.settings.lock_update
options:
  state:
    description:
      - Whether the ConfigMap is there. The controller removes the DaemonSet of a set whose ConfigMap is deleted.
      - With V(absent), a ConfigMap that was not made by the Image Puller is refused.
    type: str
    choices: [present, absent]
    default: present
  sets:
    description:
      - V(one) means the ConfigMap O(config_map_name).
      - V(all) means that of every set which belongs to the installation with this O(config_map_name) and
        O(deployment_name). It needs O(state=absent).
    type: str
    choices: [one, all]
    default: one
  preflight:
    description:
      - Whether to look first what the set costs and what stands against it, and to return that as C(plan).
      - What may not work becomes a warning. In check mode nothing but this is done.
      - Registries are asked here and with O(lock_update), and otherwise not. The options C(registry_*) say how, and do
        nothing else.
    type: bool
    default: false
seealso:
  - module: kubecache.image_puller.image_puller_install
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Cache two images
  kubecache.image_puller.image_puller_config:
    images:
      java11: registry.example.com/team/java11:2.1
      theia: registry.example.com/team/theia:2.1
    node_selector:
      node-role.kubernetes.io/worker: ""

- name: Write down what the images are now, and keep the ConfigMap
  kubecache.image_puller.image_puller_config:
    images:
      java11: registry.example.com/team/java11:2.1
    lock: /srv/puller.lock.yml
    lock_update: true
"""

RETURN = r"""
settings:
  description:
    - The settings as they were understood, every option of the settings.
    - With O(state=absent) those of the ConfigMap O(config_map_name) that was there, or null.
  returned: always
  type: dict
  sample:
    daemonset_name: kubernetes-image-puller
    images:
      - name: java11
        image: registry.example.com/team/java11:2.1
cost:
  description: What the set asks of each node that caches it, as Kubernetes quantities.
  returned: when O(state=present)
  type: dict
  sample:
    pods: 1
    images: 2
    cpu_requests: 100m
    cpu_limits: 400m
    memory_requests: 20Mi
    memory_limits: 40Mi
plan:
  description:
    - What the set costs, what its registries say, and what stands against it. Nothing of it is changed by looking.
    - The shape is the same whatever is known; what nobody could tell is null.
  returned: when O(preflight=true)
  type: dict
  contains:
    verdict:
      description:
        - V(Blocked) if something is sure not to work, V(Doubtful) if something may not, else V(Fits).
      type: str
      sample: Fits
    findings:
      description: Sentences with C(level) (V(error), V(warning), V(note)), C(about) and C(message), errors first.
      type: list
      elements: dict
    sets:
      description: For each DaemonSet the nodes that hold it, its cost on one of them, and the documented formula.
      type: list
      elements: dict
    images:
      description:
        - For each image C(name), C(image), C(use) (V(cache), V(helper), V(controller), V(operator)), C(state)
          (V(found), V(missing), V(denied), V(unknown)), C(class), C(message), C(digest), C(platforms), C(size)
          (compressed bytes of the largest platform that nodes need), C(login) (where the login was written), C(private)
          and C(moving).
      type: list
      elements: dict
    nodes:
      description:
        - How many nodes match, are skipped for a taint and lack something, their platforms, and in C(rows) what each
          needs, has free and lacks; at most 50 rows, C(omitted) counts the others.
      type: dict
    cost:
      description:
        - CPU, memory, pods and disk (bytes) of one node (C(node)) and of all (C(total)), and what the node with least
          of it has free (C(least_free)).
        - C(disk) is the sum of C(compressed), the layers that the nodes don't have yet, and C(unpacked), what they
          become. That is an estimate, C(unpack_factor) times the layers.
      type: dict
    quotas:
      description: What each ResourceQuota allows (C(hard)), what others use, what is C(needed) and C(missing).
      type: list
      elements: dict
    pull_secrets:
      description: For each pull secret whether it is there, and for which registries it is.
      type: list
      elements: dict
    pod_security:
      description: The Pod Security level that the namespace enforces; the pods pass every level.
      type: str
      sample: restricted
    scc:
      description: On OpenShift, the SecurityContextConstraints that would admit the pods.
      type: str
      sample: restricted-v2
lock:
  description:
    - The file O(lock), what was done to it or in check mode would be (C(action), V(none), V(created) or V(patched)),
      and its text.
  returned: with O(lock) and O(state=present)
  type: dict
  sample: {"path": "/srv/puller.lock.yml", "action": "none", "text": "version: 1"}
notes:
  description: Sentences about the settings which are no problems.
  returned: always
  type: list
  elements: str
  sample: []
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import gitops
from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_per_node
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import (
    Wanted,
    group_of,
    keep_names,
    kept_options,
    merge_options,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    installed_config_maps,
    is_openshift,
    with_strategy,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.lockfile import LOCK_ARGUMENTS, open_lock
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import set_config_map
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETS_ARGUMENT,
    SETTINGS_ARGUMENTS,
    diff_of,
    given_settings,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import describe, is_ours, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import KIND
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    AUTO,
    from_config_map,
    require,
    to_options,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import (
    REGISTRY_ARGUMENTS,
    preflight,
    require_classes,
    warnings_of,
)

ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "preflight": {"type": "bool", "default": False},
}


def main() -> None:
    module = make_module(
        NAME_ARGUMENTS,
        DEPLOYMENT_ARGUMENT,
        SETS_ARGUMENT,
        SETTINGS_ARGUMENTS,
        REGISTRY_ARGUMENTS,
        LOCK_ARGUMENTS,
        ARGUMENTS,
    )
    params = module.params
    image_set = ImageSet(params["namespace"], params["config_map_name"], params["deployment_name"])
    name, namespace = image_set.config_map_name, image_set.namespace

    def present(cluster: Cluster) -> dict[str, Any]:
        if params["sets"] == "all":
            raise RuntimeError("sets=all needs state=absent: settings are those of one set. Leave sets out")
        live = cluster.get("ConfigMap", name, namespace)
        gitops.require_untracked([live])
        _require_unasked(live)
        given = given_settings(module)
        reading = merge_options(keep_names(given, live), live, f"{namespace}/{name}")
        settings = require(reading)
        lock = open_lock(cluster, [(group_of(live or {}), settings)], params, whole=False)
        if lock:
            lock.require()
        decided, choice = with_strategy(cluster, settings, openshift=is_openshift(cluster))
        if choice.refused:
            raise RuntimeError(f"{choice.refused}. Nothing was changed")
        installation = objects.Installation(deployment_name=image_set.deployment_name)
        wanted = set_config_map(installation, Wanted(name, group_of(live or {}), settings, kept_options(given, live)))
        more: dict[str, Any] = {"objects": [wanted], "lock": lock.lock if lock else None}
        plan = preflight(cluster, [decided], params, **more) if params["preflight"] else None
        require_classes(cluster, [settings], None)
        told = [f"strategy {AUTO} takes {choice.strategy}: {choice.why}"] if settings.strategy == AUTO else []
        if lock:
            lock.write(module.check_mode)
        change = cluster.keep(wanted, live, dry_run=module.check_mode)
        return {
            "changed": change.changed or bool(lock and lock.action != "none"),
            "settings": to_options(settings),
            "cost": cost_per_node(decided),
            "notes": [*reading.notes, *told],
            "warnings": [*change.notes, *(warnings_of(plan) if plan else ())],
            "diff": [*diff_of([change]), *(lock.diff() if lock else ())],
            **({"plan": plan} if plan else {}),
            **({"lock": lock.as_dict()} if lock else {}),
        }

    def absent(cluster: Cluster) -> dict[str, Any]:
        if params["sets"] == "all":
            found = installed_config_maps(cluster, image_set)
        else:
            live = cluster.get("ConfigMap", name, namespace)
            found = {name: live} if live else {}
        gitops.require_untracked(found.values())
        for config_map in found.values():
            if not is_ours(config_map):
                raise RuntimeError(
                    f"{describe(config_map)} was not made by the Image Puller and is left alone. Delete it by hand"
                )
        for each, config_map in found.items():
            cluster.delete("ConfigMap", each, namespace, uid=config_map["metadata"]["uid"], dry_run=module.check_mode)
        reading = from_config_map((found.get(name) or {}).get("data") or {})
        changes = [Change("deleted", "ConfigMap", describe(config_map), config_map) for config_map in found.values()]
        return {
            "changed": bool(found),
            "settings": to_options(reading.settings) if name in found and reading.settings else None,
            "notes": list(reading.notes) if name in found else [],
            "diff": diff_of(changes),
        }

    run(module, present if params["state"] == "present" else absent)


def _require_unasked(live: Mapping[str, Any] | None) -> None:
    """RuntimeError where an operator keeps the ConfigMap for a resource, and would put back what is changed here."""
    for owner in metadata(live or {}).get("ownerReferences") or ():
        if owner["kind"] == KIND and owner.get("controller"):
            raise RuntimeError(
                f"{describe(live or {})} is kept by an operator for {KIND} {owner['name']}; nothing was changed. "
                "Change the resource, or run image_puller_install with its install_method"
            )


if __name__ == "__main__":
    main()
