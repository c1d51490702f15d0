# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install and uninstall: bring all objects but the DaemonSet to a cluster, and take away exactly those."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import gitops, olm, operated, operator, takeover
from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import (
    METADATA_LIST,
    ApiError,
    Change,
    Cluster,
    grant,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.deployment import (
    controller_trouble,
    is_available,
    look_at_controller,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.drift import differences
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Plan, Wanted, secrets_of, settings_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    belongs_to,
    installed_config_maps,
    is_namespace_going,
    set_of,
    wait_until_gone,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import (
    MANIFESTS,
    METHODS,
    OLM,
    OPENSHIFT_TEMPLATE,
    OPERATOR,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    IMAGE_SET,
    MANAGED_BY,
    MANAGER,
    describe,
    is_ours,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.operated import Hands, wait_until
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import crd, read_resource
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings

_PROJECT_SECONDS, _PROJECT_PAUSE = 30, 0.25
# From Kubernetes 1.30 on, and as 1.27 had it.
_DISCOVERY = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList" for v in ("v2", "v2beta1")
)
# What a cluster puts into every namespace by itself.
_EVERYWHERE = {
    ("serviceaccounts", "default"),
    ("serviceaccounts", "builder"),
    ("serviceaccounts", "deployer"),
    ("configmaps", "kube-root-ca.crt"),
    ("configmaps", "openshift-service-ca.crt"),
    ("rolebindings", "system:deployers"),
    ("rolebindings", "system:image-builders"),
    ("rolebindings", "system:image-pullers"),
}
# On the logins for the cluster's own registry that OpenShift makes for each ServiceAccount, 4.16 and before.
_LOGIN = {"openshift.io/internal-registry-auth-token.service-account", "openshift.io/token-secret.name"}
_TRANSIENT_KINDS = {"events", "endpoints", "endpointslices", "leases"}
# Groups without objects of their own: what others measure, and what catalogs offer in every namespace.
_VIEWS = {"metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io", "packages.operators.coreos.com"}


@dataclass(frozen=True)
class Choices:
    """What somebody who installs may ask for (True), refuse (False), or leave to what their rights allow (None)."""

    create_namespace: bool | None = None
    create_priority_class: bool | None = None
    read_nodes: bool | None = None
    controller: bool = True
    install_method: str = MANIFESTS
    wait_timeout: float = 900.0


@dataclass
class Outcome:
    """What happened to each object, what was left out or left there and why, and the sets as written."""

    sets: tuple[Wanted, ...] = ()
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plan: dict[str, Any] | None = None
    decided: dict[str, Settings] = field(default_factory=dict)  # DaemonSet -> its settings with the strategy it takes.


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
    beside = _beside(cluster, installation, common.namespace)
    installation = _with_secrets(installation, plan, {**_sets_beside(cluster, beside, common.namespace), **live})
    hands = _hands(cluster, common.namespace, outcome, dry_run, choices.wait_timeout)
    account, settings = objects.cache_service_account(common), method.sets(installation, plan.sets)
    if method.operated:
        _require_controller(choices)
        operated.refuse_others(hands)
    if choices.install_method == OLM:
        operated.require_olm(hands)

    def require(going: Iterable[Mapping[str, Any]]) -> None:
        gitops.require_untracked(going)
        _read(cluster, [account, *settings, *method.controller(installation, common)], live)

    operated.leave_others(hands, choices.install_method, require)
    _look_for_authorities(cluster, installation, common.namespace, outcome)
    if method.operated:
        _install_operator(hands, installation, plan, choices, outcome, live, beside=beside)
        return
    running = _shared(method.controller(installation, common), beside) if choices.controller else []
    found = _read(cluster, [account, *settings, *running], live)
    gitops.require_untracked(live[name] for name in plan.leaving)
    if _take_over(cluster, installation, plan, choices, outcome, live, dry_run=dry_run):
        found = _read(cluster, [account, *settings, *running], live)
    _install_namespace(cluster, installation, common, choices, outcome, dry_run)
    class_name = _install_priority_class(cluster, plan.sets, choices, outcome, dry_run)
    outcome.sets = tuple(_with_names(wanted, class_name) for wanted in plan.sets)
    for part in (account, *method.sets(installation, outcome.sets)):
        _keep(cluster, part, outcome, dry_run, found)
    for name in plan.leaving:
        _remove(cluster, "ConfigMap", name, common.namespace, outcome, dry_run)
    _keep_nodes_access(cluster, installation, common, choices, outcome, beside, dry_run=dry_run)
    for part in running:
        _keep(cluster, part, outcome, dry_run, found)
    if not choices.controller:
        for part in _of_this_alone(objects.controller(installation, common), beside, outcome):
            data = part["metadata"]
            _remove(cluster, part["kind"], data["name"], data["namespace"], outcome, dry_run)


def _install_operator(
    hands: Hands,
    installation: Installation,
    plan: Plan,
    choices: Choices,
    outcome: Outcome,
    live: Mapping[str, dict[str, Any]],
    *,
    beside: Sequence[Mapping[str, Any]],
) -> None:
    """The operator, the resource, and what no operator keeps; wait until it has brought about the rest."""
    cluster, dry_run, common, method = hands.cluster, hands.dry_run, plan.required(), METHODS[choices.install_method]
    _take_over(cluster, installation, plan, choices, outcome, live, dry_run=dry_run)  # Which refuses.
    running, settings = method.controller(installation, common), method.sets(installation, plan.sets)
    kept = [objects.cache_service_account(common), *objects.controller(installation, common)]
    found = _read(cluster, [*running, *settings, *kept], live)
    gitops.require_untracked(live[name] for name in plan.leaving)
    main = live.get(installation.config_map_name)
    _install_namespace(cluster, installation, common, choices, outcome, dry_run)
    class_name = _install_priority_class(cluster, plan.sets, choices, outcome, dry_run)
    outcome.sets = tuple(_with_names(wanted, class_name) for wanted in plan.sets)
    operated.hand_over(hands, [obj for obj in (main, *(found[describe(part)] for part in kept)) if obj])
    if choices.install_method == OLM:
        running = operated.beside_groups(hands, running)
    else:
        operated.keep_definition(hands, crd())
    for part in running:
        _keep(cluster, part, outcome, dry_run, found)
    if choices.install_method == OLM:
        operated.wait_for_csv(hands)
    resource, *groups = method.sets(installation, outcome.sets)
    asked = operated.keep_resource(hands, resource)
    if asked["spec"] != resource["spec"]:  # The DaemonSet is to follow what the operator is told.
        told = read_resource(asked, openshift=installation.openshift).settings
        outcome.sets = tuple(
            wanted if wanted.group or told is None else replace(wanted, settings=told) for wanted in outcome.sets
        )
    for part in groups:
        _keep(cluster, part, outcome, dry_run, found)
    operated.wait_until_kept(hands, resource)
    for name in plan.leaving:
        _remove(cluster, "ConfigMap", name, common.namespace, outcome, dry_run)
    _keep_nodes_access(cluster, installation, common, choices, outcome, beside, dry_run=dry_run)


def _require_controller(choices: Choices) -> None:
    if not choices.controller:
        raise RuntimeError(
            f"install_method {choices.install_method} runs a controller. "
            f"Remedy: leave controller=false out, or let install_method be {MANIFESTS}"
        )


def _hands(cluster: Cluster, namespace: str, outcome: Outcome, dry_run: bool, timeout: float) -> Hands:
    def trouble(name: str) -> tuple[str, bool]:
        deployment = cluster.get("Deployment", name, namespace)
        if deployment is None:
            return f"Deployment {namespace}/{name} is not there", False
        if is_available(deployment):
            return "", False
        why, final = controller_trouble(cluster, deployment)
        return f"{describe(deployment)}: {why or 'its pod is still starting'}", final

    return Hands(
        cluster=cluster,
        namespace=namespace,
        keep=lambda wanted: _keep(cluster, wanted, outcome, dry_run),
        remove=lambda kind, name, where: _remove(cluster, kind, name, where, outcome, dry_run),
        did=outcome.changes.append,
        say=outcome.warnings.append,
        left=outcome.left.append,
        trouble=trouble,
        dry_run=dry_run,
        timeout=timeout,
    )


def _take_over(
    cluster: Cluster,
    installation: Installation,
    plan: Plan,
    choices: Choices,
    outcome: Outcome,
    live: Mapping[str, dict[str, Any]],
    *,
    dry_run: bool,
) -> bool:
    """Stop an Image Puller of another kind, so that what follows adopts its objects; whether one runs there."""
    deployment = takeover.find(cluster, plan.required().namespace, installation.image)
    if deployment is None:
        return False
    daemonset_names = [wanted.settings.daemonset_name for wanted in plan.sets]
    takeover.require_names(deployment, installation, live.get(installation.config_map_name), daemonset_names)
    if not choices.controller or choices.install_method not in (MANIFESTS, OPENSHIFT_TEMPLATE):
        raise RuntimeError(
            f"{describe(deployment)} runs an Image Puller of another kind, which a controller has to take over that "
            f"Ansible installs. Remedy: install with install_method={MANIFESTS} and controller=true first, and then as "
            "you like: the cache stays"
        )
    outcome.notes.append(
        f"{describe(deployment)} runs an Image Puller of another kind and is taken over: it loses the right to delete "
        "its DaemonSet and is stopped, and the DaemonSet stays and is rolled node by node"
    )
    takeover.stop(cluster, deployment, outcome.changes, outcome.warnings, dry_run=dry_run)
    return True


def rendered(installation: Installation, plan: Plan, choices: Choices) -> list[dict[str, Any]]:
    """All objects that :func:`install` keeps where it may do all that it tries.

    Without a controller the DaemonSets, too. A controller makes them, and who applied them besides would fight with it.
    """
    common, method = plan.required(), METHODS[choices.install_method]
    installation = _with_secrets(installation, plan)
    sets = _sets_to_be(plan, choices)
    made = [] if choices.create_namespace is False else [objects.namespace(common, installation.openshift)]
    made += [objects.priority_class()] if _wants_priority_class(plan.sets, choices) else []
    if method.operated:
        _require_controller(choices)
        made += [crd()] if choices.install_method == OPERATOR else []
        made += [] if choices.read_nodes is False else objects.nodes_access(installation, common)
        return [*made, *method.controller(installation, common), *method.sets(installation, sets)]
    made += [objects.cache_service_account(common), *method.sets(installation, sets)]
    if choices.controller:
        made += [] if choices.read_nodes is False else objects.nodes_access(installation, common)
        return [*made, *method.controller(installation, common)]
    for wanted in sets:
        name = wanted.config_map_name
        made += build_daemonsets(wanted.settings, config_map_name=name, openshift=installation.openshift)
    return made


def brought(installation: Installation, plan: Plan, choices: Choices) -> list[dict[str, Any]]:
    """All objects that there will be in the namespace, but for the DaemonSets: those that an operator makes, too.

    Of the Deployments the controller's comes first.
    """
    common, made = plan.required(), rendered(installation, plan, choices)
    if METHODS[choices.install_method].operated:
        account = objects.cache_service_account(common)
        made = [account, objects.config_map(installation, common), *objects.controller(installation, common), *made]
        made.append({"kind": "Lease", "metadata": {"name": operator.NAME, "namespace": common.namespace}})
    if choices.install_method == OLM:
        made += [operator.service_account(common.namespace), olm.deployment(common.namespace)]
    return [obj for obj in made if obj["metadata"].get("namespace") and obj["kind"] != "DaemonSet"]


def _with_secrets(
    installation: Installation, plan: Plan, live: Mapping[str, Mapping[str, Any]] | None = None
) -> Installation:
    """With the pull secrets of all sets that there will be: also of those that stay although nobody names them."""
    known = {*plan.leaving, *(wanted.config_map_name for wanted in plan.sets)}
    staying = settings_of(config_map for name, config_map in (live or {}).items() if name not in known)
    return replace(installation, pull_secrets=secrets_of([*(wanted.settings for wanted in plan.sets), *staying]))


def _beside(cluster: Cluster, installation: Installation, namespace: str) -> list[dict[str, Any]]:
    """The controllers' Deployments of other installations in the namespace, as far as they may be listed."""
    label = f"{MANAGED_BY}={MANAGER},app.kubernetes.io/component=controller"
    try:
        found, _version = cluster.list("Deployment", namespace, labels=label)
    except ApiError as error:
        if not error.forbidden:
            raise
        return []
    return [one for one in found if one["metadata"]["name"] != installation.deployment_name]


def _sets_beside(cluster: Cluster, beside: Sequence[Mapping[str, Any]], namespace: str) -> dict[str, dict[str, Any]]:
    """The ConfigMaps of all sets of the namespace, if not all are of one installation: they share a Role."""
    found = cluster.list("ConfigMap", namespace, labels=IMAGE_SET)[0] if beside else ()
    return {config_map["metadata"]["name"]: config_map for config_map in found}


def _accounts(deployments: Iterable[Mapping[str, Any]]) -> set[str]:
    return {one["spec"]["template"]["spec"].get("serviceAccountName") or "default" for one in deployments}


def _shared(made: list[dict[str, Any]], beside: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The objects with the bindings as all installations of the namespace need them, whoever applies them last."""
    for binding in made:
        if subjects := binding.get("subjects"):
            accounts = sorted({subjects[0]["name"], *_accounts(beside)})
            binding["subjects"] = [{**subjects[0], "name": name} for name in accounts]
    return made


def _of_this_alone(
    made: Iterable[dict[str, Any]], beside: Sequence[Mapping[str, Any]], outcome: Outcome
) -> Iterator[dict[str, Any]]:
    """Those of the objects that no other installation of the namespace uses; says which stay."""
    accounts = _accounts(beside)
    for obj in made:
        kind, name = obj["kind"], obj["metadata"]["name"]
        if beside and (kind in ("Role", "RoleBinding", "ClusterRoleBinding") or name in accounts):
            outcome.left.append(_in_use(describe(obj), [describe(one) for one in beside]))
        else:
            yield obj


def _in_use(what: str, users: Sequence[str]) -> str:
    return f"{what} stays: {', '.join(users[:3])} still use{'s' if len(users) == 1 else ''} it"


def _look_for_authorities(cluster: Cluster, installation: Installation, namespace: str, outcome: Outcome) -> None:
    name = installation.registries.authorities
    try:
        if not name or cluster.get("ConfigMap", name, namespace):
            return
    except ApiError as error:
        if not error.forbidden:
            raise
        return
    outcome.warnings.append(
        f"ConfigMap {namespace}/{name} with the registries' authorities is not there. Until it is, the controller "
        "trusts those of the system only. Remedy: create it with their certificates in the form PEM"
    )


def _with_names(wanted: Wanted, priority_class_name: str) -> Wanted:
    settings = wanted.settings
    account = settings.cache_service_account_name or objects.CACHE_SERVICE_ACCOUNT_NAME
    class_name = settings.priority_class_name or priority_class_name
    settings = replace(settings, cache_service_account_name=account, priority_class_name=class_name)
    return replace(wanted, settings=settings)


def classes_made(plan: Plan, choices: Choices) -> tuple[str, ...]:
    """The PriorityClasses that :func:`install` makes if it may."""
    return (objects.PRIORITY_CLASS_NAME,) if _wants_priority_class(plan.sets, choices) else ()


def sets_to_be(plan: Plan, choices: Choices) -> list[Settings]:
    """The settings of all sets as :func:`install` will write them if it may do all that it tries."""
    return [wanted.settings for wanted in _sets_to_be(plan, choices)]


def _sets_to_be(plan: Plan, choices: Choices) -> list[Wanted]:
    class_name = "" if choices.create_priority_class is False else objects.PRIORITY_CLASS_NAME
    return [_with_names(wanted, class_name) for wanted in plan.sets]


def uninstall(
    cluster: Cluster, installation: Installation, settings: Settings, outcome: Outcome, *, dry_run: bool, timeout: float
) -> None:
    """Remove what :func:`install` made, say what stays and why, and wait until it is gone."""
    namespace = settings.namespace
    image_set = ImageSet(namespace, installation.config_map_name, installation.deployment_name)
    sets = installed_config_maps(cluster, image_set)
    if not operated.uninstall(_hands(cluster, namespace, outcome, dry_run, timeout)):
        return
    sets |= installed_config_maps(cluster, image_set)  # An operator heals until its resource has gone.
    beside = _beside(cluster, installation, namespace)
    for wanted in _of_this_alone(reversed(objects.controller(installation, settings)), beside, outcome):
        _remove(cluster, wanted["kind"], wanted["metadata"]["name"], namespace, outcome, dry_run)
    for name in sets:
        _remove(cluster, "ConfigMap", name, namespace, outcome, dry_run)
    account = objects.cache_service_account(settings)
    daemonsets, _version = cluster.list("DaemonSet", namespace, labels=IMAGE_SET)
    if users := [describe(one) for one in daemonsets if not _is_going(cluster, image_set, sets, one)]:
        outcome.left.append(_in_use(describe(account), users))
    else:
        _remove(cluster, "ServiceAccount", account["metadata"]["name"], namespace, outcome, dry_run)
    for wanted in _of_this_alone(objects.nodes_access(installation, settings)[1:], beside, outcome):
        _remove_if_allowed(cluster, wanted["kind"], wanted["metadata"]["name"], None, outcome, dry_run)
    _remove_shared(cluster, image_set, sets, beside, outcome, dry_run)
    _remove_namespace(cluster, installation, settings, outcome, dry_run, timeout)


def wait_for_controller(cluster: Cluster, installation: Installation, namespace: str, timeout: float) -> None:
    """Wait until the Deployment's new pod is available; RuntimeError says why it is not."""
    name = installation.deployment_name
    look = partial(look_at_controller, cluster, name, namespace)
    wait_until(look, timeout, f"Deployment {namespace}/{name} is not available")


# --- install ---------------------------------------------------------------------------------------------------------


def _read(
    cluster: Cluster, wanted: Iterable[dict[str, Any]], config_maps: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any] | None]:
    """The live objects, by how sentences call the wanted ones; RuntimeError where they are not ours to change."""
    found = {}
    for obj in wanted:
        kind, name, namespace = obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace")
        with _advice(kind, namespace):
            found[describe(obj)] = config_maps.get(name) if kind == "ConfigMap" else cluster.get(kind, name, namespace)
    gitops.require_untracked(found.values())
    return found


@contextmanager
def _advice(kind: str, namespace: str | None) -> Iterator[None]:
    """Whoever lacks one of the verbs is spared the next errors."""
    try:
        yield
    except ApiError as error:
        if not error.advice:
            raise
        advice = grant(kind, ("get", "create", "patch"), namespace)
        raise ApiError(error.message, error.status, error.reason, advice) from error


def _keep(
    cluster: Cluster,
    wanted: dict[str, Any],
    outcome: Outcome,
    dry_run: bool,
    found: Mapping[str, dict[str, Any] | None] | None = None,
) -> None:
    """Keep one object; ``found`` has it if it was read before."""
    kind, data = wanted["kind"], wanted["metadata"]
    with _advice(kind, data.get("namespace")):
        live = cluster.get(kind, data["name"], data.get("namespace")) if found is None else found[describe(wanted)]
        if live is not None and kind == "Deployment":
            wanted = objects.adopt_selector(wanted, live)
        if live is not None and (who := gitops.tracker(live)) and differences(wanted, live):
            # What installations share; the objects of this one were asked before.
            outcome.warnings.append(f"{describe(wanted)} differs, and is left as it is: it is kept by {who}")
            return
        change = cluster.keep(wanted, live, dry_run=dry_run)
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
    if settings.namespace == cluster.missing:
        _request_project(cluster, settings, outcome, dry_run)
        return
    try:
        _keep(cluster, objects.namespace(settings, installation.openshift), outcome, dry_run)
    except ApiError as error:
        if not (error.forbidden and installation.openshift):
            raise
        _request_project(cluster, settings, outcome, dry_run)


def find_project(cluster: Cluster, namespace: str) -> None:
    """On OpenShift: tell ``cluster`` if the namespace is not there, where it may not be asked for.

    Who is no administrator may read no namespace but his own, and has no right in one before it is there.
    """
    try:
        cluster.get("Namespace", namespace)
    except ApiError as error:
        if not error.forbidden:
            raise
        try:
            projects, _version = cluster.list("Project")  # Everybody may, and sees his own.
        except ApiError as other:
            if other.status not in (403, 404):
                raise
            return
        if all(project["metadata"]["name"] != namespace for project in projects):
            cluster.missing = namespace


def _request_project(cluster: Cluster, settings: Settings, outcome: Outcome, dry_run: bool) -> None:
    """Ask OpenShift for the namespace as a project, whose administrator the user then is, and wait for that."""
    name, request = settings.namespace, objects.project_request(settings)
    outcome.changes.append(Change("created", "ProjectRequest", describe(request), {}, request))
    cluster.missing = name
    if dry_run:
        return
    try:
        cluster.create(request)
    except ApiError as error:
        if error.status == 409:
            raise RuntimeError(
                f"Project {name} belongs to somebody else: it is there, and you may not look into it. "
                "Name another namespace, or let its administrator give you the role admin in it"
            ) from error
        raise
    cluster.missing = ""
    end = time.monotonic() + _PROJECT_SECONDS
    while not _is_admitted(cluster, name):
        if time.monotonic() > end:
            raise RuntimeError(f"Project {name} was requested, and still gives no rights after {_PROJECT_SECONDS} s")
        time.sleep(_PROJECT_PAUSE)
    namespace = cluster.get("Namespace", name) or {}
    if objects.NODE_SELECTOR not in (metadata(namespace).get("annotations") or {}):
        outcome.warnings.append(
            f"Project {name} has no annotation {objects.NODE_SELECTOR}, and you may not set it: a default node "
            'selector of the cluster narrows the nodes. Let an administrator annotate it with an empty value, ""'
        )


def _is_admitted(cluster: Cluster, namespace: str) -> bool:
    """Whether the rights in a new project have arrived."""
    try:
        cluster.list("ConfigMap", namespace)
        return cluster.get("Namespace", namespace) is not None
    except ApiError as error:
        if error.forbidden:
            return False
        raise


def _keep_nodes_access(
    cluster: Cluster,
    installation: Installation,
    settings: Settings,
    choices: Choices,
    outcome: Outcome,
    beside: Sequence[Mapping[str, Any]],
    *,
    dry_run: bool,
) -> None:
    made = objects.nodes_access(installation, settings)
    if not choices.controller or choices.read_nodes is False:
        for binding in _of_this_alone(made[1:], beside, outcome):
            _remove_if_allowed(cluster, binding["kind"], binding["metadata"]["name"], None, outcome, dry_run)
        return
    for access in _shared(made, beside):
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
    if not _wants_priority_class(sets, choices):
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


def _wants_priority_class(sets: Sequence[Wanted], choices: Choices) -> bool:
    unnamed = not all(wanted.settings.priority_class_name for wanted in sets)
    return unnamed and choices.create_priority_class is not False


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
    cluster: Cluster,
    image_set: ImageSet,
    sets: Collection[str],
    beside: Sequence[Mapping[str, Any]],
    outcome: Outcome,
    dry_run: bool,
) -> None:
    """The cluster-scoped objects that other installations may use, too."""
    going = () if beside else (objects.nodes_binding_name(image_set.namespace),)
    try:
        bindings, _version = cluster.list("ClusterRoleBinding", labels=f"{MANAGED_BY}={MANAGER}")
        users = [b["metadata"]["name"] for b in bindings if b["metadata"]["name"] not in going]
        if users:
            outcome.left.append(_in_use(f"ClusterRole {objects.NODES_ROLE_NAME}", users))
        else:
            _remove(cluster, "ClusterRole", objects.NODES_ROLE_NAME, None, outcome, dry_run)
        daemonsets, _version = cluster.list("DaemonSet")
        users = [
            describe(daemonset)
            for daemonset in daemonsets
            if daemonset["spec"]["template"]["spec"].get("priorityClassName") == objects.PRIORITY_CLASS_NAME
            if not _is_going(cluster, image_set, sets, daemonset)
        ]
        if users:
            outcome.left.append(_in_use(f"PriorityClass {objects.PRIORITY_CLASS_NAME}", users))
        else:
            _remove(cluster, "PriorityClass", objects.PRIORITY_CLASS_NAME, None, outcome, dry_run)
    except ApiError as error:
        if not error.forbidden:
            raise
        outcome.left.append(
            f"ClusterRole {objects.NODES_ROLE_NAME} and PriorityClass {objects.PRIORITY_CLASS_NAME} stay, "
            f"if they are there: {error}"
        )


def _is_going(cluster: Cluster, image_set: ImageSet, sets: Collection[str], daemonset: Mapping[str, Any]) -> bool:
    """Whether a DaemonSet is being removed: with its namespace, by the garbage collector, or with this installation."""
    data = daemonset["metadata"]
    if data.get("deletionTimestamp"):
        return True
    of = set_of(daemonset)
    if of.namespace != image_set.namespace:
        return is_namespace_going(cluster, data["namespace"])
    kept = is_ours(daemonset) and of.deployment_name == image_set.deployment_name
    return kept or belongs_to(cluster, image_set, sets, daemonset)


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
    requested = objects.is_requested_project(live)
    if not (is_ours(live) or requested):
        outcome.left.append(f"Namespace {settings.namespace} stays: it was not made by the Image Puller")
        return
    removed = {change.name for change in outcome.changes}
    if requested:  # What made whoever requested it its administrator.
        removed.add(f"RoleBinding {settings.namespace}/admin")
    try:
        foreign = list(_foreign_objects(cluster, settings.namespace, removed))
    except ApiError as error:
        outcome.left.append(f"Namespace {settings.namespace} stays: can't tell whether it is empty ({error})")
        return
    if foreign:
        outcome.left.append(f"Namespace {settings.namespace} stays: it has {some(foreign)}")
        return
    if requested:  # Its administrator may delete the project, and no namespace.
        cluster.delete("Project", settings.namespace, dry_run=dry_run)
    else:
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
            looked_at = set(_TRANSIENT_KINDS)
            for version in () if name in _VIEWS else item["versions"]:  # No version need have all kinds of a group.
                prefix = f"/apis/{name}/{version['version']}" if name else f"/api/{version['version']}"
                for resource in version.get("resources") or ():
                    kind, listable = resource["resource"], "list" in resource["verbs"]
                    if listable and resource["scope"] == "Namespaced" and kind not in looked_at:
                        looked_at.add(kind)
                        yield from _foreign_of_kind(
                            cluster, f"{prefix}/namespaces/{namespace}/{kind}", resource, removed
                        )


def _foreign_of_kind(cluster: Cluster, path: str, resource: dict[str, Any], removed: set[str]) -> Iterator[str]:
    kind = resource["responseKind"]["kind"]
    for item in cluster.raw(path, METADATA_LIST).get("items") or ():
        item["kind"] = kind
        data = item["metadata"]
        generated = data.get("ownerReferences") or data.get("deletionTimestamp")
        generated = generated or _LOGIN & set(data.get("annotations") or ())
        if not (
            generated or describe(item) in removed or (resource["resource"], item["metadata"]["name"]) in _EVERYWHERE
        ):
            yield describe(item)
