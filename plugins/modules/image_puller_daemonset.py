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
  - The settings come from the ConfigMap O(config_map_name), unless O(settings) or O(images) are given, of which only
    one may be. Further options of the settings, such as O(tolerations), need O(images). Without all of these, and
    without a ConfigMap, the task fails.
extends_documentation_fragment:
  - kubecache.image_puller.attributes
  - kubecache.image_puller.kubernetes
  - kubecache.image_puller.settings
  - kubecache.image_puller.settings.names
  - kubecache.image_puller.settings.deployment
  - kubecache.image_puller.settings.lock
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
  sets:
    description:
      - V(one) means the set of the ConfigMap O(config_map_name).
      - V(all) means every set of the installation with this O(config_map_name) and O(deployment_name), its groups
        included. What is wrong with one set keeps none of the others from being mended. The settings are those of the
        ConfigMaps.
    type: str
    choices: [one, all]
    default: one
  recreate:
    description:
      - V(unhealthy) does the least that helps. It makes a DaemonSet anew that is being deleted, or whose pods do not
        end even by force. What that can't mend, as an image that can't be pulled, is reported only.
      - V(always) deletes the DaemonSet and makes it again although nothing is wrong.
      - V(never) leaves a DaemonSet that is being deleted to whoever deletes it.
      - What was made anew is not made anew within a pause that begins with a minute and doubles with each time, up to
        an hour. A warning then says until when, and why.
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
      - Whether to wait until every image is cached on every node, or as much of it as O(wait_for) asks for. Failures
        that only a person can mend end the wait. Nodes that go away, are not ready or are cordoned are excused.
      - While a play waits, a line tells each time that something has moved.
    type: bool
    default: false
  wait_for_controller:
    description:
      - Whether the wait is also for the Deployment O(deployment_name), so that one O(wait_timeout) and one
        O(on_timeout) are for both. A controller's image that can't be pulled ends the wait.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait.
    type: int
    default: 900
  wait_for:
    description:
      - What the wait waits for, a mapping or the same as JSON or YAML text. What is left out is asked for in full.
      - C(nodes) is how many of the nodes must have the images, a number or a percentage such as V(95%). More than there
        are is waited for, since nodes may still join, and said when the time is over.
      - C(images) are the names of the images that must be there, a list or text with commas between them.
      - C(excuse) is what may be missing, a list of names of nodes, in which V(*) and V(?) may stand, and of classes of
        failures such as V(no_space).
    type: raw
  on_timeout:
    description:
      - V(fail) fails when the time is over.
      - V(warn) goes on with a warning that says what is missing. Failures that only a person can mend still fail.
    type: str
    choices: [fail, warn]
    default: fail
  min_nodes:
    description:
      - How many nodes must match the node selector, affinity and tolerations. A set that matches none at all fails a
        wait at once, unless this is V(0).
    type: int
    default: 1
  wait_slice:
    description:
      - Ends the call after a slice of the wait. Each call returns the RV(wait_slice) for the next one.
      - This is how the action plugin of this module shows progress. There is no use for it elsewhere.
    type: dict
    suboptions:
      seconds:
        description: Seconds that one call waits.
        type: float
        required: true
      waited:
        description: Seconds that were waited before.
        type: float
        default: 0
      unknown:
        description: Images whose registry's host was unknown in the call before.
        type: dict
        default: {}
seealso:
  - module: kubecache.image_puller.image_puller_info
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Check the health of the cache, and mend it
  kubecache.image_puller.image_puller_daemonset:
    namespace: k8s-image-puller

- name: Check the health of all groups, too
  kubecache.image_puller.image_puller_daemonset:
    sets: all

- name: Keep a set without a controller, and wait for its images
  kubecache.image_puller.image_puller_daemonset:
    images:
      java11: registry.example.com/team/java11:2.1
    wait: true
    wait_timeout: 600

- name: Wait until nearly all nodes have the image that matters most, and go on in any case after five minutes
  kubecache.image_puller.image_puller_daemonset:
    wait: true
    wait_timeout: 300
    wait_for:
      nodes: 95%
      images: [java11]
      excuse: [spot-*, no_space]
    on_timeout: warn
"""

RETURN = r"""
action:
  description:
    - What was done, or in check mode would be done; of several sets the strongest.
    - One of V(none), V(created), V(patched), V(restarted), V(recreated), V(deleted).
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
  description:
    - One of V(Absent), V(Progressing), V(Healthy), V(Degraded), V(NoMatchingNodes), and with O(sets=all)
      V(InvalidSettings), at the end of the task; of several sets the worst.
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
  returned: with O(sets=one)
  type: dict
  sample:
    verdict: Healthy
sets:
  description: One for each set, the main one first, with what was done to it and how its images are.
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
    action:
      description: As above, of this set.
      type: str
      sample: none
    reasons:
      description: As above, of this set.
      type: list
      elements: str
      sample: []
    verdict:
      description: As above, of this set.
      type: str
      sample: Healthy
    verdict_reasons:
      description: As above, of this set.
      type: list
      elements: str
      sample: []
    summary:
      description: As below, of this set.
      type: dict
      sample: {"images": 1, "nodes": 1, "cached": 1}
    report:
      description: As above, of this set, with O(sets=all).
      type: dict
      sample: {"verdict": "Healthy"}
summary:
  description: Counts of images, nodes, and of each state of an image on a node; of several sets the sums.
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
wait_slice:
  description: Where the next call goes on, and the C(progress) so far; null when the wait is over.
  returned: with O(wait_slice)
  type: dict
  sample: {"seconds": 10, "waited": 10.2, "unknown": {}, "progress": "14 of 40 cached on 2 nodes; 26 waiting"}
notes:
  description: Sentences about the settings which are no problems.
  returned: always
  type: list
  elements: str
  sample: []
"""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.deployment import look_at_controller
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    NO_IMAGE_PULLER,
    ImageSet,
    absence,
    installed_config_maps,
    installed_daemonsets,
    is_openshift,
    our_daemonsets,
    wait_until_ended,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    Kept,
    Member,
    errors_of,
    keep_sets,
    lockable,
    look,
    read_members,
    result_of,
    titled,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.lockfile import LOCK_ARGUMENT, misfits, read_lock
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETS_ARGUMENT,
    SETTINGS_ARGUMENTS,
    Failure,
    diff_of,
    given_settings,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    describe,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import Policy, read_policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import FIELDS, Reading, from_options
from ansible_collections.kubecache.image_puller.plugins.module_utils.waiting import (
    WHOLE,
    Controller,
    NotCached,
    Slice,
    wait_until_cached,
)

ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "settings": {"type": "dict"},
    "recreate": {"type": "str", "choices": ["unhealthy", "always", "never"], "default": "unhealthy"},
    "read_nodes": {"type": "bool", "default": True},
    "wait": {"type": "bool", "default": False},
    "wait_for_controller": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 900},
    "wait_for": {"type": "raw"},
    "on_timeout": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
    "min_nodes": {"type": "int", "default": 1},
    "wait_slice": {
        "type": "dict",
        "options": {
            "seconds": {"type": "float", "required": True},
            "waited": {"type": "float", "default": 0},
            "unknown": {"type": "dict", "default": {}},
        },
    },
}


def main() -> None:
    module = make_module(
        NAME_ARGUMENTS,
        DEPLOYMENT_ARGUMENT,
        SETS_ARGUMENT,
        SETTINGS_ARGUMENTS,
        LOCK_ARGUMENT,
        ARGUMENTS,
        mutually_exclusive=[("settings", "images")],
    )
    names = (module.params[name] for name in ("namespace", "config_map_name", "deployment_name"))
    image_set = ImageSet(*names)
    work = _present if module.params["state"] == "present" else _absent
    run(module, lambda cluster: work(cluster, module, image_set))


def _present(cluster: Cluster, module: AnsibleModule, image_set: ImageSet) -> dict[str, Any]:
    params, several = module.params, module.params["sets"] == "all"
    policy = read_policy(params["wait_for"], params["min_nodes"], params["wait_timeout"])
    lock = read_lock(params["lock"]) if params["lock"] else None
    locked = lock.digests if lock else None
    members = _members(cluster, module, image_set)
    policy.require_images_of(member.reading.settings for member in members)
    kept = keep_sets(
        cluster,
        members,
        openshift=is_openshift(cluster),
        recreate=params["recreate"],
        read_nodes=params["read_nodes"],
        dry_run=module.check_mode,
    )

    def result(reports: list[Report]) -> dict[str, Any]:
        told = result_of(kept, reports, several=several)
        notes = [titled(member, note) for member in members for note in member.reading.notes]
        told["warnings"] += misfits(lock, lockable(members), whole=several) if lock else []
        return {**told, "notes": notes, "diff": diff_of(change for each in kept for change in each.changes)}

    observers = {
        member.title: functools.partial(look, cluster, member, read_nodes=params["read_nodes"], locked=locked)
        for member in members
    }
    if why := errors_of(kept):
        raise Failure(RuntimeError(why), result([observe() for observe in observers.values()]))
    if not params["wait"] or module.check_mode:
        return result([observe() for observe in observers.values()])
    controller = functools.partial(_controller, cluster, image_set) if params["wait_for_controller"] else _no_controller
    return _wait(module, observers, policy, result, controller)


def _controller(cluster: Cluster, image_set: ImageSet) -> tuple[str, bool]:
    """What keeps the installation's controller from running, and whether waiting can't help."""
    name, namespace = image_set.deployment_name, image_set.namespace
    available, why, final = look_at_controller(cluster, name, namespace)
    return ("" if available else f"Deployment {namespace}/{name} is not available: {why}"), final


def _no_controller() -> tuple[str, bool]:
    return "", False


def _wait(
    module: AnsibleModule,
    observers: Mapping[str, Callable[[], Report]],
    policy: Policy,
    result: Callable[[list[Report]], dict[str, Any]],
    controller: Controller,
) -> dict[str, Any]:
    """The result after the wait or a slice of it; Failure where it ended without success."""
    asked = module.params["wait_slice"]
    try:
        waited = wait_until_cached(
            observers,
            timeout=module.params["wait_timeout"],
            policy=policy,
            slice_=Slice(**asked) if asked else WHOLE,
            controller=controller,
        )
    except NotCached as error:
        told = result(list(error.reports.values()))
        if error.timed_out and module.params["on_timeout"] == "warn":
            told["warnings"] = [*told["warnings"], str(error)]
            return {**told, **({"wait_slice": None} if asked else {})}
        del told["verdict_reasons"]  # The message says them.
        raise Failure(error, told) from error
    told = result(list(waited.reports.values()))
    following = {**asdict(waited.slice_), "progress": waited.progress} if waited.slice_ else None
    return {**told, **({"wait_slice": following} if asked else {})}


def _members(cluster: Cluster, module: AnsibleModule, image_set: ImageSet) -> list[Member]:
    """The sets that are meant, with their settings."""
    params = module.params
    given = _given(params) or (given_settings(module) if params["images"] not in (None, "") else None)
    several = params["sets"] == "all"
    if given and several:
        raise RuntimeError("sets=all takes the settings of the ConfigMaps. Leave images and settings out")
    members = [Member(image_set, from_options(given))] if given else read_members(cluster, image_set, several)
    if not members:
        raise RuntimeError(f"{absence(image_set)}. {NO_IMAGE_PULLER}")
    return members


def _given(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The option ``settings``; RuntimeError where settings would be taken for others than were meant, or ignored."""
    settings: dict[str, Any] | None = params["settings"]
    known = [field.option for field in FIELDS]
    if settings is not None and not settings.get("images"):
        raise RuntimeError("settings name no images. Remedy: give all settings, as image_puller_config returned them")
    for name in settings or ():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            meant = f"write {nearest[0]}" if nearest else "leave it out"
            raise RuntimeError(f"settings has {name}, which is no setting. Remedy: {meant}")
    lone = [name for name in SETTINGS_ARGUMENTS if name != "images" and params[name] not in (None, "")]
    if lone and params["images"] in (None, ""):
        raise RuntimeError(
            f"{', '.join(lone)} would do nothing: without images the settings are those of the ConfigMap. "
            "Remedy: change it with image_puller_config, or give images here, too"
        )
    return settings


def _absent(cluster: Cluster, module: AnsibleModule, image_set: ImageSet) -> dict[str, Any]:
    _given(module.params)
    several = module.params["sets"] == "all"
    if several:
        found = installed_daemonsets(cluster, image_set, installed_config_maps(cluster, image_set))
    else:
        found = our_daemonsets(cluster, image_set)
    for daemonset in found:
        data = daemonset["metadata"]
        cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"], dry_run=module.check_mode)
    changes = [Change("deleted", "DaemonSet", describe(daemonset), daemonset) for daemonset in found]
    reasons = [f"{change.name} is asked to be absent" for change in changes]
    kept = Kept(Member(image_set, Reading(None)), tuple(changes), tuple(reasons))
    told = result_of([kept], [Report("Absent", ("it was asked to be absent",))], several=several)
    told |= {"notes": [], "diff": diff_of(changes)}
    try:
        stuck = [] if module.check_mode else wait_until_ended(cluster, found, module.params["wait_timeout"])
    except RuntimeError as error:
        raise Failure(error, told) from error
    if stuck:
        told["warnings"] = [
            *told["warnings"],
            f"{some(stuck)} can't end, since the node is not ready: it ends once the node is back, or "
            "with its Node object",
        ]
    return told


if __name__ == "__main__":
    main()
