#!/usr/bin/python
# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_puller_install
short_description: Install the Image Puller, or remove it
version_added: 0.1.0
description:
  - Keeps the namespace, ServiceAccounts, Role, RoleBinding, read access to nodes, PriorityClass, ConfigMap and the
    controller's Deployment, and with O(daemonset=true) the DaemonSet, all in one call.
  - Where the known Go implementation runs in the namespace, it is taken over. Its settings stay where none are given
    here, its controller is stopped in a way that its DaemonSet stays, and its objects are adopted as they are.
  - Objects are read and compared first, and written by server-side apply only where a field differs that belongs to the
    Image Puller. What others added to the objects stays.
  - What the user may not create cluster-wide is left out with a warning that names the missing right, unless it was
    asked for.
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
      - V(present) keeps the objects.
      - V(absent) removes those that V(present) made, and tells what it left and why. Remove the DaemonSet first, with
        M(kubecache.image_puller.image_puller_config) and M(kubecache.image_puller.image_puller_daemonset).
    type: str
    choices: [present, absent]
    default: present
  groups:
    description:
      - Sets of images of their own, for example for nodes with a GPU, as a list of mappings or as JSON or YAML text.
      - Each has a C(name), C(images), and any option of the settings. What it does not say, it takes over from the
        options of this task.
      - The ConfigMap and the DaemonSet of group C(gpu) are called as the main ones with C(-gpu) behind.
      - When left out, the groups that are there stay as they are. The ConfigMap of a group that left the list is
        deleted, and its DaemonSet goes with it.
      - With groups there is a main set only if O(images) are given or if it is there. An empty list of images then
        takes the main set away.
    type: raw
  image:
    description:
      - The controller's image. Default is V(ghcr.io/kubecache/image-puller) in the version of this collection.
    type: str
  service_account_name:
    description:
      - The ServiceAccount of the controller.
    type: str
    default: k8s-image-puller
  create_namespace:
    description:
      - Whether to create a namespace that does not exist. V(true) insists on it, V(false) fails when it is missing.
      - When left out, it is created where that is allowed. On OpenShift it is requested as a project where namespaces
        may not be created.
    type: bool
  create_priority_class:
    description:
      - Whether to create the PriorityClass V(image-puller-cache), with which the cache gives way before any user's pod.
        V(true) insists on it, V(false) does without.
      - When left out, it is created where that is allowed and O(priority_class_name) names no other.
    type: bool
  read_nodes:
    description:
      - Whether the controller may read nodes. V(true) insists on it, V(false) takes the right away; then the controller
        infers the nodes from its pods.
      - When left out, the right is granted where that is allowed.
    type: bool
  install_method:
    description:
      - How the installation comes to the cluster.
      - V(manifests) applies the objects as they are.
      - V(openshift_template) makes the ServiceAccount with its Role, the ConfigMaps and the Deployment from the
        documented OpenShift Templates, on any cluster. They name no user for the controller and have no probes.
      - V(operator) installs the operator and its definition of C(KubernetesImagePuller), writes such a resource, and
        waits at most O(wait_timeout) until the operator has brought about the rest.
      - V(olm) does the same, but has the Operator Lifecycle Manager install the operator, from O(olm_catalog).
        An OperatorGroup that is there is used where it targets this namespace alone or all, and refused else.
      - Where another operator serves the namespace, V(operator) and V(olm) refuse before anything is changed.
      - Names are the same in every method. A method that follows another keeps the DaemonSets and their pods.
    type: str
    choices: [manifests, openshift_template, operator, olm]
    default: manifests
  olm_catalog:
    description: With O(install_method=olm) the CatalogSource that has the operator.
    type: str
    default: kubecache
  olm_catalog_namespace:
    description:
      - The namespace of O(olm_catalog).
      - When left out, C(openshift-marketplace) on OpenShift and C(olm) elsewhere.
    type: str
  render:
    description:
      - A directory to which the objects are written, one file each, for a Git repository or C(kubectl apply -f).
        Nothing is asked of a cluster then, and nothing is changed there.
      - The files are the same for the same options. Of other files there, those go that were written in this way.
      - The DaemonSets are among them with O(controller=false) alone, since a controller makes them itself.
      - What is left to the user's rights is written. O(preflight), O(daemonset), O(wait) and the connection mean
        nothing here.
    type: path
  openshift:
    description:
      - Whether O(render) is for OpenShift, which assigns the users of the pods, so that none is named.
      - Without O(render) the cluster is asked.
    type: bool
    default: false
  controller:
    description:
      - Whether the controller runs in the cluster. With V(false) its objects are removed, and Ansible alone keeps the
        DaemonSet.
    type: bool
    default: true
  daemonset:
    description:
      - Whether to keep the DaemonSets, too, as M(kubecache.image_puller.image_puller_daemonset) does, and to return
        what was done to them and how their images are. That spares a task of its own.
      - With V(false) the DaemonSets are left to the controller or to that module.
      - With O(state=absent) none is deleted here. They go with the ConfigMap and the Deployment that own them.
    type: bool
    default: false
  deployment_priority_class_name:
    description:
      - PriorityClass of the controller's pod.
    type: str
  deployment_cpu_request:
    description:
      - CPU request of the controller's container.
    type: str
    default: 50m
  deployment_memory_request:
    description:
      - Memory request of the controller's container.
    type: str
    default: 64Mi
  deployment_cpu_limit:
    description:
      - CPU limit of the controller's container.
    type: str
    default: 200m
  deployment_memory_limit:
    description:
      - Memory limit of the controller's container.
    type: str
    default: 256Mi
  registry_ca_config_map:
    description:
      - A ConfigMap in O(namespace) with certificates of authorities, in the form PEM, under any keys. The controller
        trusts them besides those of the system when it asks registries what tags stand for.
      - It is not made here. Where it is not there, the installation warns, and the controller says that it can't ask.
    type: str
  registry_proxy:
    description:
      - Proxies on the controller's way to registries, a mapping or JSON or YAML text with C(HTTPS_PROXY), C(HTTP_PROXY)
        and C(NO_PROXY). Its way to the API server has none.
      - They are in the environment of the controller's Deployment, so a password in a URL can be read there.
      - Modules use the proxies of the environment in which they run.
    type: raw
  preflight:
    description:
      - Whether to look before anything is changed what the installation costs and what stands against it.
      - V(report) returns it as C(plan), V(warn) also warns of what may not work, V(enforce) fails, before anything is
        written, if something is sure not to work.
    type: str
    choices: ["off", "report", "warn", "enforce"]
    default: "off"
  wait:
    description:
      - Whether to wait until the controller is available. An image that can't be pulled ends the wait at once.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait for the controller, or with O(state=absent) for the namespace to go.
    type: int
    default: 120
  wait_for:
    description:
      - What M(kubecache.image_puller.image_puller_daemonset) will be asked to wait for afterwards. Here it is only
        checked, so that nothing is changed where it can't be meant.
    type: raw
  on_timeout:
    description:
      - What M(kubecache.image_puller.image_puller_daemonset) will be asked to do when the time is over, V(fail) or
        V(warn). Here it is only checked.
    type: str
    choices: [fail, warn]
    default: fail
  min_nodes:
    description:
      - How many nodes must match the node selector, affinity and tolerations, as
        M(kubecache.image_puller.image_puller_daemonset) will be asked. Here it is checked, and O(preflight) warns where
        fewer do.
    type: int
    default: 1
seealso:
  - module: kubecache.image_puller.image_puller_daemonset
  - module: kubecache.image_puller.image_puller_config
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Install the Image Puller
  kubecache.image_puller.image_puller_install:
    images:
      java11: registry.example.com/team/java11:2.1
      theia: registry.example.com/team/theia:2.1
    wait: true

- name: Cache one list on all nodes, and one more on those with a GPU
  kubecache.image_puller.image_puller_install:
    images:
      java11: registry.example.com/team/java11:2.1
    groups:
      - name: gpu
        images:
          cuda: registry.example.com/team/cuda:12.4
        node_selector:
          example.com/gpu: "true"
        tolerations:
          - key: nvidia.com/gpu
            operator: Exists

- name: Install the Image Puller and its DaemonSet in one call, and wait for nothing
  kubecache.image_puller.image_puller_install:
    images: java11=registry.example.com/team/java11:2.1;
    daemonset: true

- name: Install into a namespace that is there, without rights outside it
  kubecache.image_puller.image_puller_install:
    namespace: team-cache
    create_namespace: false
    create_priority_class: false
    read_nodes: false
    images: java11=registry.example.com/team/java11:2.1;

- name: Write the manifests for a Git repository
  kubecache.image_puller.image_puller_install:
    images:
      java11: registry.example.com/team/java11:2.1
    render: clusters/production/image-puller

- name: Remove the settings first, so that the controller stands down
  kubecache.image_puller.image_puller_config:
    state: absent
    sets: all

- name: Remove the DaemonSets and wait for the end of their pods
  kubecache.image_puller.image_puller_daemonset:
    state: absent
    sets: all

- name: Remove the rest
  kubecache.image_puller.image_puller_install:
    state: absent
"""

RETURN = r"""
settings:
  description: The settings of the main set as they were understood, or null where there is none.
  returned: always
  type: dict
  sample:
    daemonset_name: kubernetes-image-puller
    images:
      - name: java11
        image: registry.example.com/team/java11:2.1
cost:
  description: What the main set asks of each node that caches it, as Kubernetes quantities, or null.
  returned: when O(state=present)
  type: dict
  sample:
    pods: 1
    images: 2
    cpu_requests: 100m
    cpu_limits: 400m
    memory_requests: 20Mi
    memory_limits: 40Mi
sets:
  description:
    - The main set, if there is one, and one for each of O(groups).
    - Those that left the list follow, with null for settings and cost.
  returned: always
  type: list
  elements: dict
  sample:
    - config_map_name: k8s-image-puller-gpu
      group: gpu
      settings:
        daemonset_name: kubernetes-image-puller-gpu
        images:
          - name: cuda
            image: registry.example.com/team/cuda:12.4
      cost:
        pods: 1
        images: 1
        cpu_requests: 50m
        cpu_limits: 200m
        memory_requests: 10Mi
        memory_limits: 20Mi
objects:
  description: What was done, or in check mode would be done, to each object; with O(render) to each file.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: The object's kind, or V(File).
      type: str
      sample: ConfigMap
    name:
      description: Kind, namespace and name, or a file's path.
      type: str
      sample: ConfigMap k8s-image-puller/k8s-image-puller
    action:
      description: One of V(none), V(created), V(patched), V(deleted), and for a DaemonSet V(recreated).
      type: str
      sample: created
    fields:
      description: The fields that were the reason for V(patched).
      type: list
      elements: str
      sample: ["data.IMAGES"]
daemonset:
  description:
    - What M(kubecache.image_puller.image_puller_daemonset) returns with C(sets=all) of the DaemonSets and their images.
      These were looked at before any waiting.
  returned: when O(daemonset=true) and O(state=present), and the DaemonSet was looked at
  type: dict
  sample:
    action: created
    reasons: ["DaemonSet k8s-image-puller/kubernetes-image-puller does not exist"]
    verdict: Progressing
notes:
  description: Sentences about the settings which are no problems.
  returned: always
  type: list
  elements: str
  sample: []
lock:
  description:
    - The file O(lock), what was done to it or in check mode would be (C(action), V(none), V(created) or V(patched)),
      and its text.
  returned: with O(lock) and O(state=present)
  type: dict
  sample: {"path": "/srv/puller.lock.yml", "action": "created", "text": "version: 1"}
plan:
  description:
    - What the set costs, what its registries say, and what stands against it. Nothing of it is changed by looking.
    - The shape is the same whatever is known; what nobody could tell is null.
  returned: when O(state=present), null with O(preflight=off)
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
left:
  description: With O(state=absent), what stays in the cluster and why.
  returned: always
  type: list
  elements: str
  sample: ["Namespace team-cache stays: it was not made by the Image Puller"]
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kubecache.image_puller.plugins.module_utils.access import proxy_passwords, read_registry_access
from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import cost_per_node
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Plan, read_plan
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    Digests,
    ImageSet,
    config_maps,
    is_openshift,
    with_strategy,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import (
    CATALOG,
    IMAGE,
    SERVICE_ACCOUNT_NAME,
    Installation,
    Resources,
    controller,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installer import (
    Choices,
    Outcome,
    brought,
    classes_made,
    find_project,
    install,
    rendered,
    sets_to_be,
    uninstall,
    wait_for_controller,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    Member,
    errors_of,
    keep_sets,
    lockable,
    look,
    members_of,
    remove_left,
    result_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import at_odds
from ansible_collections.kubecache.image_puller.plugins.module_utils.lockfile import (
    LOCK_ARGUMENTS,
    LockFile,
    compare,
    open_lock,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import MANIFESTS, METHODS
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    SETTINGS_ARGUMENTS,
    Failure,
    diff_of,
    given_settings,
    make_module,
    run,
    run_here,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import Policy, read_policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.render import to_files, write
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    InvalidSettings,
    Settings,
    from_options,
    require,
    to_options,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import (
    REGISTRY_ARGUMENTS,
    preflight,
    refusal,
    require_classes,
    warnings_of,
)

_DEFAULT_RESOURCES = Resources()
ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "groups": {"type": "raw"},
    "image": {"type": "str"},
    "service_account_name": {"type": "str", "default": SERVICE_ACCOUNT_NAME},
    "create_namespace": {"type": "bool"},
    "create_priority_class": {"type": "bool"},
    "read_nodes": {"type": "bool"},
    "install_method": {"type": "str", "choices": list(METHODS), "default": MANIFESTS},
    "render": {"type": "path"},
    "openshift": {"type": "bool", "default": False},
    "olm_catalog": {"type": "str", "default": CATALOG},
    "olm_catalog_namespace": {"type": "str"},
    "controller": {"type": "bool", "default": True},
    "daemonset": {"type": "bool", "default": False},
    "deployment_priority_class_name": {"type": "str"},
    "deployment_cpu_request": {"type": "str", "default": _DEFAULT_RESOURCES.cpu_request},
    "deployment_memory_request": {"type": "str", "default": _DEFAULT_RESOURCES.memory_request},
    "deployment_cpu_limit": {"type": "str", "default": _DEFAULT_RESOURCES.cpu_limit},
    "deployment_memory_limit": {"type": "str", "default": _DEFAULT_RESOURCES.memory_limit},
    "registry_ca_config_map": {"type": "str"},
    "registry_proxy": {"type": "raw"},
    "preflight": {"type": "str", "choices": ["off", "report", "warn", "enforce"], "default": "off"},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 120},
    "wait_for": {"type": "raw"},
    "on_timeout": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
    "min_nodes": {"type": "int", "default": 1},
}


def main() -> None:
    module = make_module(
        NAME_ARGUMENTS, DEPLOYMENT_ARGUMENT, SETTINGS_ARGUMENTS, REGISTRY_ARGUMENTS, LOCK_ARGUMENTS, ARGUMENTS
    )
    params = module.params
    # Ansible hides what no_log options hold: the whole value, which would hide the names of hosts everywhere.
    module.no_log_values.update(proxy_passwords(params["registry_proxy"]))

    def work(cluster: Cluster) -> dict[str, Any]:
        installation = _installation(params, is_openshift(cluster))
        if params["state"] == "absent":
            return _absent(cluster, module, installation)
        image_set = ImageSet(params["namespace"], installation.config_map_name, installation.deployment_name)
        return _present(cluster, module, installation, image_set)

    if params["render"]:
        run_here(module, lambda: _render(module, _installation(params, params["openshift"])))
    else:
        run(module, work)


def _installation(params: Mapping[str, Any], openshift: bool) -> Installation:
    registries, problems = read_registry_access(params)
    if problems:
        raise InvalidSettings(problems)
    return Installation(
        config_map_name=params["config_map_name"],
        deployment_name=params["deployment_name"],
        service_account_name=params["service_account_name"],
        image=params["image"] or IMAGE,
        deployment_priority_class_name=params["deployment_priority_class_name"] or "",
        resources=Resources(*(params[f"deployment_{name}"] for name in Resources.__annotations__)),
        openshift=openshift,
        catalog=params["olm_catalog"],
        catalog_namespace=params["olm_catalog_namespace"] or "",
        registries=registries,
    )


def _choices(params: Mapping[str, Any]) -> Choices:
    return Choices(**{name: params[name] for name in Choices.__annotations__})


def _render(module: AnsibleModule, installation: Installation) -> dict[str, Any]:
    """Write the files; the result has the shape of that of an installation."""
    params = module.params
    if params["state"] == "absent":
        raise RuntimeError("render writes the objects of an installation. Leave it out, or let state be present")
    plan = read_plan(given_settings(module), params["groups"], installation.config_map_name)
    made = rendered(installation, plan, _choices(params))
    if params["lock_update"]:
        raise RuntimeError("lock_update asks registries, and render asks nobody. Leave one of them out")
    warnings: list[str] = []
    if params["lock"]:
        warnings = at_odds(wanted.settings for wanted in plan.sets) if params["controller"] else []
        sets = [(wanted.group, wanted.settings) for wanted in plan.sets]
        compare(params["lock"], sets, installation.image if params["controller"] else "").require()
    try:
        changes = write(Path(params["render"]), to_files(made), dry_run=module.check_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise RuntimeError(f"The files can't be written: {error}. Correct render, or the permissions") from error
    result = {**_result_of_present(Outcome(plan.sets, changes, warnings), plan), "notes": list(plan.notes)}
    texts = ("before", "after")
    return {**result, "diff": [{**each, **{t: each[t].get("text", "") for t in texts}} for each in result["diff"]]}


def _present(
    cluster: Cluster, module: AnsibleModule, installation: Installation, image_set: ImageSet
) -> dict[str, Any]:
    params = module.params
    policy = read_policy(params["wait_for"], params["min_nodes"], params["wait_timeout"])
    if installation.openshift:
        find_project(cluster, image_set.namespace)
    live = config_maps(cluster, image_set)
    plan = read_plan(given_settings(module), params["groups"], image_set.config_map_name, live)
    plan.required()
    policy.require_images_of(member.reading.settings for member in members_of(image_set, live, plan.sets, plan.leaving))
    outcome, told = Outcome(plan.sets), dict[str, Any]()
    try:
        choices = _choices(params)
        kept = [member.reading.settings for member in members_of(image_set, live, (), plan.leaving)]
        sets = sets_to_be(plan, choices) or [settings for settings in kept if settings]
        deployment = controller(installation, plan.required())[-1] if choices.controller else None
        outcome.decided = {s.daemonset_name: _decide(cluster, s, installation.openshift, params, outcome) for s in sets}
        members = members_of(image_set, live, plan.sets, plan.leaving)
        lock = open_lock(cluster, lockable(members), params, controller=installation.image if deployment else "")
        if lock and params["preflight"] != "report":
            lock.require()
        if lock and deployment:
            outcome.warnings += at_odds(sets)
        objects = brought(installation, plan, choices) if params["preflight"] != "off" else []
        made = classes_made(plan, choices)
        ahead = _Ahead(list(outcome.decided.values()), deployment, objects, made, lock, policy)
        _look_ahead(cluster, ahead, params, outcome)
        if lock:
            told["lock"] = lock.as_dict()
            lock.write(module.check_mode)
        install(cluster, installation, plan, choices, outcome, live, dry_run=module.check_mode)
        if params["daemonset"]:
            members = members_of(image_set, live, outcome.sets, plan.leaving)
            locked = lock.lock.digests if lock else None
            told["daemonset"], why = _keep_daemonsets(cluster, module, members, plan.leaving, locked, outcome)
            if why:
                raise RuntimeError(why)
        if params["wait"] and params["controller"] and not module.check_mode:
            wait_for_controller(cluster, installation, image_set.namespace, params["wait_timeout"])
    except (InvalidSettings, ApiError, RuntimeError) as error:
        raise Failure(error, {**_result_of_present(outcome, plan), **told}) from error
    result = {**_result_of_present(outcome, plan), **told, "notes": [*plan.notes, *outcome.notes]}
    if lock:
        result = {
            **result,
            "changed": result["changed"] or lock.action != "none",
            "diff": [*result["diff"], *lock.diff()],
        }
    return result


def _decide(
    cluster: Cluster, settings: Settings, openshift: bool, params: Mapping[str, Any], outcome: Outcome
) -> Settings:
    """The settings with the strategy that the set will take; RuntimeError where the one that is asked for can't be."""
    read_nodes = params["read_nodes"] is not False
    decided, choice = with_strategy(cluster, settings, openshift=openshift, read_nodes=read_nodes)
    if choice.refused and params["preflight"] != "report":
        raise RuntimeError(f"{choice.refused}. Nothing was changed")
    if choice.refused:
        outcome.warnings.append(choice.refused)
    return decided


@dataclass(frozen=True)
class _Ahead:
    """What there is to look at: ``sets`` that are asked for, or, where only groups stay that are there, these;
    ``objects``: what the installation has in the namespace besides the DaemonSets; ``made``: PriorityClasses that it
    makes; ``policy``: what will be waited for.
    """

    sets: Sequence[Settings]
    deployment: Mapping[str, Any] | None
    objects: Sequence[Mapping[str, Any]]
    made: Collection[str]
    lock: LockFile | None
    policy: Policy


def _look_ahead(cluster: Cluster, ahead: _Ahead, params: Mapping[str, Any], outcome: Outcome) -> None:
    """What the installation costs and what stands against it; RuntimeError if that is to be heeded."""
    mode, lock = params["preflight"], ahead.lock
    if mode != "off" and ahead.sets:
        more: dict[str, Any] = {"lock": lock.lock, "problems": lock.problems} if lock else {}
        more |= {"objects": ahead.objects, "made": ahead.made, "policy": ahead.policy}
        outcome.plan = preflight(cluster, ahead.sets, params, **more)
        if mode == "warn":
            outcome.warnings += warnings_of(outcome.plan)
        if mode == "enforce" and outcome.plan["verdict"] == "Blocked":
            raise RuntimeError(refusal(outcome.plan))
        wrong = [finding for finding in outcome.plan["findings"] if finding["about"] == "lock"]
        if mode != "report" and any(finding["level"] == "error" for finding in wrong):
            raise RuntimeError(refusal({"findings": wrong}))
    if mode != "report":
        require_classes(cluster, ahead.sets, ahead.deployment, ahead.made)


def _keep_daemonsets(
    cluster: Cluster,
    module: AnsibleModule,
    members: list[Member],
    leaving: Collection[str],
    locked: Digests | None,
    outcome: Outcome,
) -> tuple[dict[str, Any], str]:
    """What was done to the DaemonSets of all sets, and why some could not be kept."""
    read_nodes = module.params["read_nodes"] is not False
    kept = keep_sets(
        cluster, members, openshift=is_openshift(cluster), read_nodes=read_nodes, dry_run=module.check_mode
    )
    left = remove_left(cluster, module.params["namespace"], leaving, dry_run=module.check_mode)
    outcome.changes += [*(change for each in kept for change in each.changes), *left]
    result = result_of(kept, [look(cluster, member, read_nodes=read_nodes, locked=locked) for member in members], left)
    outcome.warnings += result.pop("warnings")
    return result, errors_of(kept)


def _absent(cluster: Cluster, module: AnsibleModule, installation: Installation) -> dict[str, Any]:
    settings, outcome = require(from_options({"namespace": module.params["namespace"]})), Outcome()
    timeout = module.params["wait_timeout"]
    try:
        uninstall(cluster, installation, settings, outcome, dry_run=module.check_mode, timeout=timeout)
    except (ApiError, RuntimeError) as error:
        raise Failure(error, {**_result(outcome), "settings": None, "sets": []}) from error
    return {**_result(outcome), "settings": None, "sets": [], "notes": []}


def _result_of_present(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    sets = [
        {
            "config_map_name": wanted.config_map_name,
            "group": wanted.group,
            "settings": to_options(wanted.settings),
            "cost": cost_per_node(outcome.decided.get(wanted.settings.daemonset_name, wanted.settings)),
        }
        for wanted in outcome.sets
    ]
    left = [{"config_map_name": name, "group": None, "settings": None, "cost": None} for name in plan.leaving]
    main = next((told for told in sets if not told["group"]), {"settings": None, "cost": None})
    return {
        **_result(outcome),
        "settings": main["settings"],
        "cost": main["cost"],
        "sets": [*sets, *left],
        "plan": outcome.plan,
    }


def _result(outcome: Outcome) -> dict[str, Any]:
    changed = [change for change in outcome.changes if change.changed]
    return {
        "changed": bool(changed),
        "objects": [
            {"kind": c.kind, "name": c.name, "action": c.action, "fields": list(c.fields)} for c in outcome.changes
        ],
        "left": outcome.left,
        "warnings": outcome.warnings,
        "diff": diff_of(changed),
    }


if __name__ == "__main__":
    main()
