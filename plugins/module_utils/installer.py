# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install and uninstall: bring all objects but the DaemonSet to a cluster, and take away exactly those."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils import takeover
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Change, Cluster, grant
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Plan, Wanted
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import PERMANENT, REMEDIES, pull_failure
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    installed_config_maps,
    installed_daemonsets,
    wait_until_gone,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import MANIFESTS, METHODS
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    MANAGED_BY,
    MANAGER,
    describe,
    is_ours,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings

_LONGEST_PAUSE = 2.0
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# What a cluster puts into every namespace by itself.
_EVERYWHERE = {
    ("serviceaccounts", "default"),
    ("serviceaccounts", "builder"),
    ("serviceaccounts", "deployer"),
    ("configmaps", "kube-root-ca.crt"),
    ("configmaps", "openshift-service-ca.crt"),
}
_TRANSIENT_KINDS = {"events", "podmetrics", "endpoints", "endpointslices", "leases"}


@dataclass(frozen=True)
class Choices:
    """What somebody who installs may ask for (True), refuse (False), or leave to what their rights allow (None)."""

    create_namespace: bool | None = None
    create_priority_class: bool | None = None
    read_nodes: bool | None = None
    controller: bool = True
    install_method: str = MANIFESTS


@dataclass
class Outcome:
    """What happened to each object, what was left out or left there and why, and the sets as written."""

    sets: tuple[Wanted, ...] = ()
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plan: dict[str, Any] | None = None


def install(
    cluster: Cluster,
    installation: Installation,
    plan: Plan,
    choices: Choices,
    outcome: Outcome,
    live: Mapping[str, dict[str, Any]],
    *,
    dry_run: bool = False,
) -> None:
    """Keep all objects of an installation, in an order in which each finds what it needs.

    :param outcome: filled as it goes, so that after an error it tells what had been done.
    :param live: the ConfigMaps of the installation's sets as just read, by name.
    """
    common, method = plan.required(), METHODS[choices.install_method]
    _take_over(cluster, installation, plan, choices, outcome, live, dry_run=dry_run)
    _install_namespace(cluster, installation, common, choices, outcome, dry_run)
    class_name = _install_priority_class(cluster, plan.sets, choices, outcome, dry_run)
    outcome.sets = tuple(_with_names(wanted, class_name) for wanted in plan.sets)
    _keep(cluster, objects.cache_service_account(common), outcome, dry_run)
    for part in method.sets(installation, outcome.sets):
        _keep(cluster, part, outcome, dry_run, live)
    for name in plan.leaving:
        _remove(cluster, "ConfigMap", name, common.namespace, outcome, dry_run)
    _keep_nodes_access(cluster, installation, common, choices, outcome, dry_run)
    if choices.controller:
        for part in method.controller(installation, common):
            _keep(cluster, part, outcome, dry_run)
    else:
        for part in objects.controller(installation, common):
            data = part["metadata"]
            _remove(cluster, part["kind"], data["name"], data["namespace"], outcome, dry_run)


def _take_over(
    cluster: Cluster,
    installation: Installation,
    plan: Plan,
    choices: Choices,
    outcome: Outcome,
    live: Mapping[str, dict[str, Any]],
    *,
    dry_run: bool,
) -> None:
    """Stop an Image Puller of another kind that runs there, so that what follows adopts its objects as they are."""
    deployment = takeover.find(cluster, plan.required().namespace, installation.image)
    if deployment is None:
        return
    daemonset_names = [wanted.settings.daemonset_name for wanted in plan.sets]
    takeover.require_names(deployment, installation, live.get(installation.config_map_name), daemonset_names)
    if not choices.controller:
        raise RuntimeError(
            f"{describe(deployment)} runs an Image Puller of another kind, which a controller has to take over. "
            "Remedy: install with controller=true, and then with controller=false"
        )
    outcome.notes.append(
        f"{describe(deployment)} runs an Image Puller of another kind and is taken over: it loses the right to delete "
        "its DaemonSet and is stopped, and the DaemonSet stays and is rolled node by node"
    )
    changes, warnings = takeover.stop(cluster, deployment, dry_run=dry_run)
    outcome.changes += changes
    outcome.warnings += warnings


def _with_names(wanted: Wanted, priority_class_name: str) -> Wanted:
    settings = wanted.settings
    account = settings.cache_service_account_name or objects.CACHE_SERVICE_ACCOUNT_NAME
    class_name = settings.priority_class_name or priority_class_name
    settings = replace(settings, cache_service_account_name=account, priority_class_name=class_name)
    return replace(wanted, settings=settings)


def sets_to_be(plan: Plan, choices: Choices) -> list[Settings]:
    """The settings of all sets as :func:`install` will write them if it may do all that it tries."""
    class_name = "" if choices.create_priority_class is False else objects.PRIORITY_CLASS_NAME
    return [_with_names(wanted, class_name).settings for wanted in plan.sets]


def uninstall(
    cluster: Cluster, installation: Installation, settings: Settings, outcome: Outcome, *, dry_run: bool, timeout: float
) -> None:
    """Remove what :func:`install` made, say what stays and why, and wait until it is gone."""
    namespace = settings.namespace
    image_set = ImageSet(namespace, installation.config_map_name, installation.deployment_name)
    sets = installed_config_maps(cluster, image_set)
    for wanted in reversed(objects.controller(installation, settings)):
        _remove(cluster, wanted["kind"], wanted["metadata"]["name"], namespace, outcome, dry_run)
    for name in sets:
        _remove(cluster, "ConfigMap", name, namespace, outcome, dry_run)
    _remove(cluster, "ServiceAccount", objects.CACHE_SERVICE_ACCOUNT_NAME, namespace, outcome, dry_run)
    _remove_if_allowed(cluster, "ClusterRoleBinding", objects.nodes_binding_name(namespace), None, outcome, dry_run)
    _remove_shared(cluster, image_set, sets, outcome, dry_run)
    _remove_namespace(cluster, installation, settings, outcome, dry_run, timeout)


def wait_for_controller(cluster: Cluster, installation: Installation, namespace: str, timeout: float) -> None:
    """Wait until the Deployment's new pod is available; RuntimeError says why it is not."""
    end, pause = time.monotonic() + timeout, 0.25
    while True:
        deployment = cluster.get("Deployment", installation.deployment_name, namespace)
        if deployment is None:
            raise RuntimeError(f"Deployment {namespace}/{installation.deployment_name} has gone")
        if _is_available(deployment):
            return
        labels = deployment["spec"]["selector"]["matchLabels"]
        pods, _version = cluster.list("Pod", namespace, labels=",".join(f"{k}={v}" for k, v in labels.items()))
        trouble, final = _controller_trouble(deployment, pods)
        if final or time.monotonic() > end:
            raise RuntimeError(
                f"Deployment {namespace}/{installation.deployment_name} is not available"
                f"{'' if final else f' after {timeout:.0f} s'}: {trouble or 'its pod is still starting'}"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _is_available(deployment: dict[str, Any]) -> bool:
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
        and status.get("replicas", 0) == wanted
    )


def _controller_trouble(deployment: dict[str, Any], pods: list[dict[str, Any]]) -> tuple[str, bool]:
    """What keeps the controller from running, and whether waiting can't help."""
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"its pod can't be created: {condition.get('message')}", False
    wanted = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    for pod in pods:
        if pod["spec"]["containers"][0]["image"] != wanted or pod["metadata"].get("deletionTimestamp"):
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            failure = pull_failure(status)
            if failure:
                class_, message = failure
                remedy = (
                    "Build and push the controller's image as the README says (make image), or name one that the "
                    f"nodes can pull with image; {REMEDIES[class_]}"
                )
                return f"its image {wanted} can't be pulled ({class_}). The kubelet says: {message}. {remedy}", (
                    class_ in PERMANENT
                )
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") == "CrashLoopBackOff":
                log = f"kubectl logs -n {pod['metadata']['namespace']} {pod['metadata']['name']} --previous"
                return f"its container ends again and again. Look at: {log}", False
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"its pod can't be scheduled: {condition.get('message')}", False
    return "", False


# --- install ---------------------------------------------------------------------------------------------------------


def _keep(
    cluster: Cluster,
    wanted: dict[str, Any],
    outcome: Outcome,
    dry_run: bool,
    read: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Keep one object; ``read`` has the ConfigMaps by name, where they were read before."""
    kind, data = wanted["kind"], wanted["metadata"]
    try:
        if read is not None and kind == "ConfigMap":
            live = read.get(data["name"])
        else:
            live = cluster.get(kind, data["name"], data.get("namespace"))
        if live is not None and kind == "Deployment":
            wanted = objects.adopt_selector(wanted, live)
        change = cluster.keep(wanted, live, dry_run=dry_run)
    except ApiError as error:
        if not error.advice:
            raise
        # Whoever lacks one of the verbs is spared the next errors.
        advice = grant(kind, ("get", "create", "patch"), data.get("namespace"))
        raise ApiError(error.message, error.status, error.reason, advice) from error
    if live is not None and change.changed and not is_ours(live):
        outcome.warnings.append(f"{describe(wanted)} was made by somebody else and has been taken over")
    outcome.warnings += change.notes
    outcome.changes.append(change)


def _keep_if_allowed(
    cluster: Cluster,
    wanted: dict[str, Any],
    outcome: Outcome,
    dry_run: bool,
    *,
    asked_for: bool | None,
    consequence: str,
) -> bool:
    try:
        _keep(cluster, wanted, outcome, dry_run)
    except ApiError as error:
        if not error.forbidden or asked_for:
            raise
        outcome.warnings.append(f"{describe(wanted)} was left out: {error}. So {consequence}")
        return False
    return True


def _install_namespace(
    cluster: Cluster, installation: Installation, settings: Settings, choices: Choices, outcome: Outcome, dry_run: bool
) -> None:
    try:
        live = cluster.get("Namespace", settings.namespace)
    except ApiError as error:
        if error.forbidden:
            return  # Who may not look at namespaces works in one that is there; what follows would tell otherwise.
        raise
    if live is not None:
        if live["metadata"].get("deletionTimestamp"):
            raise RuntimeError(
                f"Namespace {settings.namespace} is being deleted. Wait until it is gone, or name another"
            )
        return
    if choices.create_namespace is False:
        raise RuntimeError(f"Namespace {settings.namespace} does not exist. Create it, or let create_namespace be true")
    _keep(cluster, objects.namespace(settings, installation.openshift), outcome, dry_run)


def _keep_nodes_access(
    cluster: Cluster, installation: Installation, settings: Settings, choices: Choices, outcome: Outcome, dry_run: bool
) -> None:
    if not choices.controller or choices.read_nodes is False:
        name = objects.nodes_binding_name(settings.namespace)
        _remove_if_allowed(cluster, "ClusterRoleBinding", name, None, outcome, dry_run)
        return
    for access in objects.nodes_access(installation, settings):
        _keep_if_allowed(
            cluster,
            access,
            outcome,
            dry_run,
            asked_for=choices.read_nodes,
            consequence="the controller can't read nodes and infers them from its pods",
        )


def _install_priority_class(
    cluster: Cluster, sets: Sequence[Wanted], choices: Choices, outcome: Outcome, dry_run: bool
) -> str:
    """The class of the cache's pods where a set names none: ours, or none."""
    if choices.create_priority_class is False or all(wanted.settings.priority_class_name for wanted in sets):
        return ""
    allowed = _keep_if_allowed(
        cluster,
        objects.priority_class(),
        outcome,
        dry_run,
        asked_for=choices.create_priority_class,
        consequence="under pressure the cache does not give way before the users' pods",
    )
    return objects.PRIORITY_CLASS_NAME if allowed else ""


# --- uninstall -------------------------------------------------------------------------------------------------------


def _remove(cluster: Cluster, kind: str, name: str, namespace: str | None, outcome: Outcome, dry_run: bool) -> None:
    live = cluster.get(kind, name, namespace)
    if live is None:
        return
    if not is_ours(live):
        outcome.left.append(f"{describe(live)} stays: it was not made by the Image Puller")
        return
    cluster.delete(kind, name, namespace, uid=live["metadata"]["uid"], dry_run=dry_run)
    outcome.changes.append(Change("deleted", kind, describe(live), live))


def _remove_if_allowed(
    cluster: Cluster, kind: str, name: str, namespace: str | None, outcome: Outcome, dry_run: bool
) -> None:
    try:
        _remove(cluster, kind, name, namespace, outcome, dry_run)
    except ApiError as error:
        if not error.forbidden:
            raise
        outcome.left.append(f"{kind} {name} stays, if it is there: {error}")


def _remove_shared(
    cluster: Cluster, image_set: ImageSet, sets: Collection[str], outcome: Outcome, dry_run: bool
) -> None:
    """The cluster-scoped objects that other installations may use, too."""
    binding = objects.nodes_binding_name(image_set.namespace)
    try:
        bindings, _version = cluster.list("ClusterRoleBinding", labels=f"{MANAGED_BY}={MANAGER}")
        users = [b["metadata"]["name"] for b in bindings if b["metadata"]["name"] != binding]
        if users:
            outcome.left.append(f"ClusterRole {objects.NODES_ROLE_NAME} stays: {', '.join(users[:3])} still use it")
        else:
            _remove(cluster, "ClusterRole", objects.NODES_ROLE_NAME, None, outcome, dry_run)
        going = {daemonset["metadata"]["uid"] for daemonset in installed_daemonsets(cluster, image_set, sets)}
        others, _version = cluster.list("DaemonSet")
        users = [
            describe(daemonset)
            for daemonset in others
            if daemonset["metadata"]["uid"] not in going
            and daemonset["spec"]["template"]["spec"].get("priorityClassName") == objects.PRIORITY_CLASS_NAME
        ]
        if users:
            outcome.left.append(
                f"PriorityClass {objects.PRIORITY_CLASS_NAME} stays: {', '.join(users[:3])} still use it"
            )
        else:
            _remove(cluster, "PriorityClass", objects.PRIORITY_CLASS_NAME, None, outcome, dry_run)
    except ApiError as error:
        if not error.forbidden:
            raise
        outcome.left.append(
            f"ClusterRole {objects.NODES_ROLE_NAME} and PriorityClass {objects.PRIORITY_CLASS_NAME} stay, "
            f"if they are there: {error}"
        )


def _remove_namespace(
    cluster: Cluster, installation: Installation, settings: Settings, outcome: Outcome, dry_run: bool, timeout: float
) -> None:
    try:
        live = cluster.get("Namespace", settings.namespace)
    except ApiError as error:
        if error.forbidden:
            return  # Who may not look at namespaces did not make one.
        raise
    if live is None:
        return
    if not is_ours(live):
        outcome.left.append(f"Namespace {settings.namespace} stays: it was not made by the Image Puller")
        return
    removed = {change.name for change in outcome.changes}
    try:
        foreign = list(_foreign_objects(cluster, settings.namespace, removed))
    except ApiError as error:
        outcome.left.append(f"Namespace {settings.namespace} stays: can't tell whether it is empty ({error})")
        return
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        outcome.left.append(f"Namespace {settings.namespace} stays: it has {', '.join(foreign[:3])}{more}")
        return
    cluster.delete("Namespace", settings.namespace, uid=live["metadata"]["uid"], dry_run=dry_run)
    outcome.changes.append(Change("deleted", "Namespace", describe(live), live))
    if not dry_run:
        try:
            wait_until_gone(cluster, live, timeout)
        except RuntimeError as error:
            outcome.left.append(str(error))


def _foreign_objects(cluster: Cluster, namespace: str, removed: set[str]) -> Iterator[str]:
    """Objects of any kind in the namespace that neither the cluster, nor we, nor a controller made there."""
    for group in ("/api", "/apis"):
        for item in cluster.raw(group, _DISCOVERY).get("items") or ():
            name = item["metadata"].get("name", "")
            for version in item["versions"][:1]:  # The preferred version serves every kind that is still stored.
                prefix = f"/apis/{name}/{version['version']}" if name else f"/api/{version['version']}"
                for resource in version.get("resources") or ():
                    listable = "list" in resource["verbs"] and resource["scope"] == "Namespaced"
                    if listable and resource["resource"] not in _TRANSIENT_KINDS:
                        path = f"{prefix}/namespaces/{namespace}/{resource['resource']}"
                        yield from _foreign_of_kind(cluster, path, resource, removed)


def _foreign_of_kind(cluster: Cluster, path: str, resource: dict[str, Any], removed: set[str]) -> Iterator[str]:
    kind = resource["responseKind"]["kind"]
    for item in cluster.raw(path, _METADATA).get("items") or ():
        item["kind"] = kind
        generated = item["metadata"].get("ownerReferences") or item["metadata"].get("deletionTimestamp")
        if not (
            generated or describe(item) in removed or (resource["resource"], item["metadata"]["name"]) in _EVERYWHERE
        ):
            yield describe(item)
