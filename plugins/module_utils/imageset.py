# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One image set on a cluster: read its settings, make what is wanted, observe, carry a decision out.

The modules and the controller share these steps; the decision between them is ``reconcile.decide``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    build_daemonsets,
    builder_number,
    held_images,
    overruled_labels,
    strategy_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import UNTOLD, without
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import sets_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    Grace,
    Report,
    assess,
    is_ready,
    matching_nodes,
    not_followed,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    DEPLOYMENT,
    GUARD,
    HOME,
    IMAGE_SET,
    describe,
    is_ours,
    label_selector,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import (
    DELETION_GRACE,
    Decision,
    Observed,
    decide,
    is_adoptable,
    judged,
    made_from,
    unreadable,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import next_step
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    AUTO,
    CONFIG_MAP_NAME,
    IMAGE_VOLUME,
    SLEEP,
    CachedImage,
    Settings,
    fingerprint,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import PAGE, Shared, node_slimmer, pod_slimmer
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import (
    Admission,
    Choice,
    annotation,
    choose,
)

_REFUSALS = (400, 403, 422)  # What admission and validation answer with; anything else says nothing of the pod.
_MADE_BEFORE = ("serviceAccountName", "priorityClassName")  # What an installation makes before the pods that need it.
_ANY_NAMESPACE = "default"
_GONE_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_SURELY_ENDED = 10.0  # Seconds in which a pod ends where its kubelet is at work.
# What is said besides where there is no DaemonSet either: perhaps it was looked for in the wrong place.
NO_IMAGE_PULLER = (
    "There is no Image Puller. Install it with the playbook kubecache.image_puller.install, or correct namespace and "
    "config_map_name"
)
Digests = Mapping[str, Sequence[str]]  # Reference -> digests, as Lock.digests.


@dataclass(frozen=True)
class ImageSet:
    """The names by which a set is found: one ConfigMap is one set, its controller a Deployment (or none)."""

    namespace: str
    config_map_name: str = CONFIG_MAP_NAME
    deployment_name: str = ""


def absence(image_set: ImageSet) -> str:
    """What is said of a set without a ConfigMap."""
    return f"ConfigMap {image_set.namespace}/{image_set.config_map_name} does not exist"


def config_maps(cluster: Cluster, image_set: ImageSet) -> dict[str, dict[str, Any]]:
    """The ConfigMaps of all sets of an installation by name, that of ``image_set``, the main one, first."""
    found, _version = cluster.list("ConfigMap", image_set.namespace, labels=IMAGE_SET)
    if all(config_map["metadata"]["name"] != image_set.config_map_name for config_map in found):
        main = cluster.get("ConfigMap", image_set.config_map_name, image_set.namespace)  # A foreign one has no label.
        found += [main] if main else []
    return sets_of(found, image_set.config_map_name, image_set.deployment_name)


def installed_config_maps(cluster: Cluster, image_set: ImageSet) -> dict[str, dict[str, Any]]:
    """Of the ConfigMaps of all sets those that belong to this installation alone: what goes along with it."""

    def belongs(name: str, config_map: dict[str, Any]) -> bool:
        labels = metadata(config_map).get("labels") or {}
        return name == image_set.config_map_name or labels.get(DEPLOYMENT) == image_set.deployment_name

    return {name: found for name, found in config_maps(cluster, image_set).items() if belongs(name, found)}


def installed_daemonsets(cluster: Cluster, image_set: ImageSet, sets: Collection[str]) -> list[dict[str, Any]]:
    """The DaemonSets of these sets, and those of sets of the same installation whose ConfigMap is gone."""
    found = _labelled(cluster, image_set, IMAGE_SET)
    return [daemonset for daemonset in found if belongs_to(cluster, image_set, sets, daemonset)]


def belongs_to(cluster: Cluster, image_set: ImageSet, sets: Collection[str], daemonset: Mapping[str, Any]) -> bool:
    """Whether a DaemonSet is ours and one of these sets', or of a set of the same installation that is gone."""
    of, main = set_of(daemonset), image_set.config_map_name
    name = of.config_map_name
    if not (name and is_ours(daemonset) and of.namespace == image_set.namespace):
        return False
    if of.deployment_name:
        kept = of.deployment_name == image_set.deployment_name
    else:
        kept = name == main or name.startswith(f"{main}-")
    return name in sets or (kept and cluster.get("ConfigMap", name, image_set.namespace) is None)


def set_of(daemonset: Mapping[str, Any]) -> ImageSet:
    """The set that a DaemonSet was made for, and the Deployment that keeps it; empty names where nothing tells.

    Its label and its owners tell; in another namespace than its ConfigMap's it can't have any, and an annotation does.
    """
    data = metadata(daemonset)
    namespace, _slash, keeper = str((data.get("annotations") or {}).get(HOME, "")).partition("/")
    owners = [owner["name"] for owner in data.get("ownerReferences") or () if owner["kind"] == "Deployment"]
    name = (data.get("labels") or {}).get(IMAGE_SET, "")
    return ImageSet(namespace or data["namespace"], name, keeper or next(iter(owners), ""))


def is_of(daemonset: Mapping[str, Any], image_set: ImageSet) -> bool:
    """Whether we made a DaemonSet for this set, whatever its name and namespace."""
    of = set_of(daemonset)
    return is_ours(daemonset) and (of.namespace, of.config_map_name) == (image_set.namespace, image_set.config_map_name)


def controller_of(config_map: Mapping[str, Any] | None, image_set: ImageSet) -> str:
    """The Deployment whose controller keeps a set: its ConfigMap's label names it, else it is the installation's."""
    return str((metadata(config_map or {}).get("labels") or {}).get(DEPLOYMENT) or image_set.deployment_name)


def desired_daemonset(
    settings: Settings,
    image_set: ImageSet,
    live: Mapping[str, Any] | None,
    *,
    config_map: Mapping[str, Any] | None,
    deployment: Mapping[str, Any] | None,
    openshift: bool,
    may_delete_pods: bool = True,
    in_cluster: bool = False,
    choice: Choice | None = None,
) -> dict[str, Any]:
    """The DaemonSet that is wanted, with the owners that exist and the selector of the one that is there.

    :param config_map: the set's; :param deployment: its controller's; None where there is none.
    :param may_delete_pods: whether the controller has the right that its own roll needs; without a controller that
        runs, or without that right, the DaemonSet controller rolls.
    :param in_cluster: the caller is the controller. Without its Deployment it is about to end, and leaves the strategy
        to whoever comes after it.
    :param choice: the strategy to take, None where the settings name it.
    """
    owners = []
    if settings.namespace == image_set.namespace:  # An owner in another namespace does not exist for the API.
        owners = [owner for owner in (config_map, deployment) if owner and not metadata(owner).get("deletionTimestamp")]
    runs = deployment is not None and (deployment.get("spec") or {}).get("replicas", 1) != 0
    if deployment is None and in_cluster and live is not None:
        runs = _is_ours_to_roll(live)
    (daemonset,) = build_daemonsets(
        choice.applied(settings) if choice else settings,
        config_map_name=image_set.config_map_name,
        owners=owners,
        selector=((live or {}).get("spec") or {}).get("selector", {}).get("matchLabels"),
        openshift=openshift,
        rolled_by_controller=runs and may_delete_pods,
    )
    notes = annotation(choice) if choice and settings.strategy == AUTO else {}
    if settings.namespace != image_set.namespace:
        notes = {**notes, HOME: f"{image_set.namespace}/{controller_of(config_map, image_set)}"}
    if notes:
        data = daemonset["metadata"]
        data["annotations"] = {**data.get("annotations", {}), **notes}
    return daemonset


def choice_for(
    cluster: Cluster, settings: Settings, live: Mapping[str, Any] | None, *, openshift: bool, read_nodes: bool = True
) -> Choice:
    """The strategy that a set takes on this cluster; what has to be read for it is read, and nothing is changed."""
    share = Shared()

    def nodes() -> list[Mapping[str, Any]] | None:
        return matching(settings, _nodes(cluster, share) if read_nodes else None)

    return choose(settings, live, nodes, lambda: ask_admission(cluster, settings, openshift=openshift))


def with_strategy(
    cluster: Cluster, settings: Settings, *, openshift: bool, read_nodes: bool = True
) -> tuple[Settings, Choice]:
    """The settings with the strategy that the set will take, and why; nothing is changed.

    RuntimeError is for the caller, where ``refused`` says that what is asked for can't be.
    """
    if settings.strategy == SLEEP:
        return settings, Choice(SLEEP, "it is asked for")
    try:
        live = cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
    except ApiError as error:
        if not error.forbidden:
            raise
        live = None  # Who may not look at it can't keep it either: this is for who only wants to know.
    choice = choice_for(cluster, settings, live, openshift=openshift, read_nodes=read_nodes)
    return (settings if choice.refused else choice.applied(settings)), choice


def matching(settings: Settings, nodes: Iterable[Mapping[str, Any]] | None) -> list[Mapping[str, Any]] | None:
    """Those of the nodes on which the set's pods are to be; None where they are unknown."""
    if nodes is None:
        return None
    (daemonset,) = build_daemonsets(settings)
    return list(matching_nodes(daemonset["spec"]["template"]["spec"], nodes)[0].values())


def ask_admission(cluster: Cluster, settings: Settings, *, openshift: bool) -> Admission:
    """What the API server says to a pod of the set with image volumes: a dry run, nothing is made.

    It is to blame for a refusal only where the same pod without them is let in: a quota refuses either. Before an
    installation a pod's ServiceAccount and PriorityClass are missing, and perhaps the namespace: then a pod without
    them tells, or one in another namespace.
    """
    try:
        answer = _ask_admission(cluster, settings, openshift=openshift)
    except ApiError as error:
        if error.status != 404:
            return Admission(None, f"unknown ({error})")
        answer, settings = Admission(None, f"unknown ({error})"), replace(settings, namespace=_ANY_NAMESPACE)
    else:
        if answer.allowed is not None:
            return answer
    try:
        bare = _ask_admission(cluster, settings, openshift=openshift, bare=True)
    except ApiError:
        return answer
    return answer if bare.allowed is None else bare


def _ask_admission(cluster: Cluster, settings: Settings, *, openshift: bool, bare: bool = False) -> Admission:
    """Raises ApiError where what is answered says nothing of the pod."""
    said = ""
    for pod_resources in (True, False):
        volumes = replace(settings, strategy=IMAGE_VOLUME, pod_resources=pod_resources)
        try:
            made = cluster.create(_pod_of(volumes, openshift, bare=bare), dry_run=True)
        except ApiError as error:
            if error.forbidden or error.status not in _REFUSALS:
                raise
            said = said or str(error)
        else:
            # Before 1.31 the source of the volumes is pruned as an unknown field, and an emptyDir takes its place.
            if strategy_of(made["spec"]) != IMAGE_VOLUME:
                return Admission(False, "the API server has no image volumes")
            return Admission(True, "", "resources" in made["spec"])
    try:
        cluster.create(_pod_of(replace(settings, strategy=SLEEP), openshift, bare=bare), dry_run=True)
    except ApiError:
        return Admission(None, f"unknown, since no pod of the set is let in ({said})")
    return Admission(False, said)


def _pod_of(settings: Settings, openshift: bool, *, bare: bool = False) -> dict[str, Any]:
    """A pod of the set; ``bare``: of the namespace's own account, and without a priority."""
    (daemonset,) = build_daemonsets(settings, openshift=openshift)
    template = daemonset["spec"]["template"]
    if bare:
        spec = {key: value for key, value in template["spec"].items() if key not in _MADE_BEFORE}
        template = {**template, "spec": spec}
    named = {"generateName": f"{settings.daemonset_name}-", "namespace": settings.namespace}
    return {**template, "apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], **named}}


def read_owners(
    cluster: Cluster, image_set: ImageSet, live: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The set's ConfigMap and its controller's Deployment."""
    config_map = _owner(cluster, "ConfigMap", image_set.config_map_name, image_set.namespace, live)
    name = controller_of(config_map, image_set)
    return config_map, _owner(cluster, "Deployment", name, image_set.namespace, live) if name else None


def _owner(
    cluster: Cluster, kind: str, name: str, namespace: str, live: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """An owner as it is; where it may not be read, as the DaemonSet that is there names it."""
    try:
        return cluster.get(kind, name, namespace)
    except ApiError as error:
        if not error.forbidden:
            raise
    references = ((live or {}).get("metadata") or {}).get("ownerReferences") or ()
    named = next((r for r in references if (r["kind"], r["name"]) == (kind, name)), None)
    return {**named, "metadata": {"name": name, "uid": named["uid"]}} if named else None


def is_openshift(cluster: Cluster) -> bool:
    """Whether the cluster is OpenShift: it serves route.openshift.io."""
    try:
        cluster.raw("/apis/route.openshift.io")
    except ApiError as error:
        if error.status in (403, 404):
            return False
        raise
    return True


def observe(
    cluster: Cluster,
    settings: Settings,
    live: dict[str, Any] | None,
    *,
    read_nodes: bool = True,
    locked: Digests | None = None,
) -> Observed:
    """Read what tells of the set and judge it; nodes that may not be read are inferred from the pods."""
    if live is None:
        return Observed(None, (), assess(settings.images, None, [], [] if read_nodes else None))
    share = Shared()
    slim = pod_slimmer(share, starts=True)
    pods = [kept for pod in _pods(cluster, live) if (kept := slim(pod))]
    events = _events(cluster, live["metadata"]["namespace"], {_uid(live), *map(_uid, pods)})
    nodes = _nodes(cluster, share) if read_nodes else None
    report = assess(settings.images, live, pods, nodes, events, grace=Grace.of(settings), locked=locked)
    return Observed(live, pods, report)


def look(cluster: Cluster, settings: Settings, *, read_nodes: bool = True, locked: Digests | None = None) -> Report:
    """The truth about one set as it is now, with how far a roll has come; ``locked`` as of ``assess``."""
    return look_at(
        cluster,
        settings,
        cluster.get("DaemonSet", settings.daemonset_name, settings.namespace),
        read_nodes=read_nodes,
        locked=locked,
    )


def look_at(
    cluster: Cluster,
    settings: Settings,
    live: dict[str, Any] | None,
    *,
    read_nodes: bool = True,
    locked: Digests | None = None,
) -> Report:
    """The truth about this DaemonSet; if somebody else made it, also about images that only it has.

    What its controller can't or will not do, and so only the controller knows, is taken from what that has published.
    """
    asked_for = fingerprint(settings)
    if live is not None and not is_ours(live):
        settings = replace(settings, images=(*settings.images, *_others(settings, live)))
    observed = observe(cluster, settings, live, read_nodes=read_nodes, locked=locked)
    if live is None or live["metadata"].get("deletionTimestamp"):
        return observed.report
    step = next_step(live, observed.pods, observed.report, settings.max_unavailable, now())
    why = not_followed(live, asked_for)
    return judged(observed.report, Decision("refuse" if why else "none", why, step=step))


def _others(settings: Settings, live: Mapping[str, Any]) -> tuple[CachedImage, ...]:
    """The images of the DaemonSet's containers that the settings don't have."""
    known = {image.name for image in settings.images}
    held = held_images(live["spec"]["template"]["spec"])
    return tuple(CachedImage(name, image) for name, image in held.items() if name not in known)


def settings_of(live: Mapping[str, Any]) -> Settings:
    """What a DaemonSet tells of the settings that it was made from: its images and its names."""
    data = live["metadata"]
    unread = Settings((), namespace=data["namespace"], daemonset_name=data["name"])
    return replace(unread, images=_others(unread, live))


def find_daemonset(cluster: Cluster, image_set: ImageSet, name: str) -> dict[str, Any] | None:
    """The DaemonSet of a set whose settings can't be read: that of this name, else the only one that may be meant."""
    named = cluster.get("DaemonSet", name, image_set.namespace)
    if named is not None:
        return named
    found, _version = cluster.list("DaemonSet", image_set.namespace)
    sets = [(metadata(daemonset).get("labels") or {}).get(IMAGE_SET) for daemonset in found]
    meant = [d for d, set_ in zip(found, sets, strict=True) if set_ == image_set.config_map_name]
    meant = meant or [d for d, set_ in zip(found, sets, strict=True) if set_ is None and is_adoptable(d)]
    return meant[0] if len(meant) == 1 else None


def now() -> datetime:
    """The time, as the pure core takes it."""
    return datetime.now(timezone.utc)


def keep(
    cluster: Cluster,
    image_set: ImageSet,
    settings: Settings,
    *,
    openshift: bool,
    recreate: str = "unhealthy",
    read_nodes: bool = True,
    dry_run: bool = False,
) -> tuple[Decision, Change, tuple[str, ...]]:
    """One pass over one set, as a module makes it: read, decide, carry out; and warnings."""
    live = cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
    config_map, deployment = read_owners(cluster, image_set, live)
    choice = choice_for(cluster, settings, live, openshift=openshift, read_nodes=read_nodes)
    desired = desired_daemonset(
        settings,
        image_set,
        live,
        config_map=config_map,
        deployment=deployment,
        openshift=openshift,
        may_delete_pods=_may_delete_pods(live, deployment),
        choice=choice,
    )
    guard, warning = Guard.read(config_map, now())
    decision = decide(
        desired,
        observe(cluster, settings, live, read_nodes=read_nodes),
        now=now(),
        recreate=recreate,
        guard=guard,
        max_unavailable=settings.max_unavailable,
    )
    decision = because_of(choice, decision, settings)
    if decision.action == "roll":  # The controller's; a pass of Ansible's exchanges no pod that it can't wait for.
        decision = replace(decision, action="none")
    change = carry_out(cluster, decision, desired, live, image_set=image_set, config_map=config_map, dry_run=dry_run)
    overruled, ignored = overruled_labels(settings, desired), unreadable(live) if live else ""
    told = (warning, ignored, decision.paused, _waits_in_vain(decision, desired, deployment), overruled)
    return decision, change, tuple(sentence for sentence in told if sentence)


def because_of(choice: Choice, decision: Decision, settings: Settings) -> Decision:
    """The decision with what the choice of a strategy adds: that there is none, or why there is this one."""
    if choice.refused:
        return Decision("refuse", (choice.refused,))
    if settings.strategy != AUTO or decision.action not in ("create", "patch", "recreate"):
        return decision
    return replace(decision, reasons=(*decision.reasons, f"strategy {choice.strategy}: {choice.why}"))


def _may_delete_pods(live: Mapping[str, Any] | None, deployment: Mapping[str, Any] | None) -> bool:
    """Whether the controller has the right that its roll needs: only it can know, and a strategy of its own tells."""
    runs = bool(((deployment or {}).get("status") or {}).get("availableReplicas"))
    if live is None or not runs or not builder_number(live):
        return True
    return _is_ours_to_roll(live)


def _is_ours_to_roll(live: Mapping[str, Any]) -> bool:
    return bool((live["spec"].get("updateStrategy") or {}).get("type") == "OnDelete")


def _waits_in_vain(decision: Decision, desired: Mapping[str, Any], deployment: Mapping[str, Any] | None) -> str:
    """That pods of the former list are there, and the controller that exchanges them is not; else empty."""
    if not decision.step.old or deployment is None or desired["spec"]["updateStrategy"]["type"] != "OnDelete":
        return ""
    if (deployment.get("status") or {}).get("availableReplicas"):
        return ""
    return (
        f"{decision.step.sentence}, and goes on only with the controller, but {describe(deployment)} is not available. "
        "Remedy: look at its pod, or install with controller=false"
    )


def pods_of(cluster: Cluster, daemonset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pods that belong to this very DaemonSet."""
    return list(_pods(cluster, daemonset))


def _pods(cluster: Cluster, daemonset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    uid, labels = _uid(daemonset), label_selector(daemonset)
    for pods, _version in cluster.pages("Pod", daemonset["metadata"]["namespace"], labels=labels, limit=PAGE):
        yield from (pod for pod in pods if any(o["uid"] == uid for o in pod["metadata"].get("ownerReferences") or ()))


def carry_out(
    cluster: Cluster,
    decision: Decision,
    desired: dict[str, Any],
    live: dict[str, Any] | None,
    *,
    image_set: ImageSet,
    config_map: Mapping[str, Any] | None,
    dry_run: bool = False,
    wait: bool = True,
    may_patch: bool = True,
) -> Change:
    """Do what was decided, the guard first; RuntimeError for ``refuse`` and for a DaemonSet that does not go.

    :param wait: False leaves it at the deletion where a DaemonSet is to be made anew; who comes back creates it.
    :param may_patch: without that right it is created by POST, since server-side apply is a patch.
    """
    if decision.action == "refuse":
        raise RuntimeError("; ".join(decision.reasons))
    if decision.action == "none":
        return Change("none", "DaemonSet", describe(desired))
    if decision.action in ("roll", "delete_pods"):
        return _delete_pods(cluster, decision, desired, dry_run)
    if live is None and not may_patch:
        created = cluster.create(made_from(desired), dry_run=dry_run)
        return Change("created", "DaemonSet", describe(desired), after=created)
    if decision.action in ("create", "patch") or live is None:
        change = cluster.keep(desired, live, dry_run=dry_run)
        if decision.guard and change.changed and decision.guard.worth_keeping("patch"):
            notes = _write_guard(cluster, decision.guard, image_set, config_map, dry_run)
            return replace(change, notes=(*change.notes, *notes))
        return change
    if dry_run:
        return Change("recreated", "DaemonSet", describe(desired), live, desired)
    notes = _write_guard(cluster, decision.guard, image_set, config_map, dry_run) if decision.guard else ()
    if decision.action != "wait":
        _delete(cluster, live)
    if not wait:
        return Change("deleted", "DaemonSet", describe(desired), live, notes=notes)
    try:
        wait_until_gone(cluster, live, DELETION_GRACE)
    except RuntimeError:
        # In the foreground it waits for its pods, and one on a dead node never goes: once more, in the background.
        _delete(cluster, live)
        wait_until_gone(cluster, live, DELETION_GRACE)
    made = cluster.keep(desired, None)
    return Change("recreated", "DaemonSet", describe(desired), live, made.after, notes=notes)


def _delete(cluster: Cluster, live: Mapping[str, Any]) -> None:
    data = live["metadata"]
    cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"])


def _delete_pods(cluster: Cluster, decision: Decision, desired: Mapping[str, Any], dry_run: bool) -> Change:
    forced = 0 if decision.action == "delete_pods" else None
    for pod in decision.pods:
        namespace = desired["metadata"]["namespace"]
        cluster.delete("Pod", pod.name, namespace, uid=pod.uid, grace_seconds=forced, dry_run=dry_run)
    return Change("restarted", "DaemonSet", describe(desired))


def _write_guard(
    cluster: Cluster, guard: Guard, image_set: ImageSet, config_map: Mapping[str, Any] | None, dry_run: bool
) -> tuple[str, ...]:
    """Nothing where there is no ConfigMap: then a person asks for this by hand, once. A note where it may not be."""
    if config_map is None:
        return ()
    annotations = {GUARD: guard.annotation()}
    try:
        cluster.annotate("ConfigMap", image_set.config_map_name, image_set.namespace, annotations, dry_run=dry_run)
    except ApiError as error:
        if not error.forbidden:
            raise
        return (f"what was done is not remembered: {error}",)
    return ()


def is_namespace_going(cluster: Cluster, name: str) -> bool:
    """Whether a namespace is being deleted, or gone; False where nobody may say so."""
    try:
        namespace = cluster.get("Namespace", name)
    except ApiError as error:
        if error.forbidden:
            return False
        raise
    return namespace is None or bool(namespace["metadata"].get("deletionTimestamp"))


def wait_until_gone(cluster: Cluster, live: Mapping[str, Any], timeout: float) -> None:
    """Wait until the object with this uid is gone; RuntimeError after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    data = live["metadata"]
    while True:
        now = cluster.get(live["kind"], data["name"], data.get("namespace"))
        if now is None or _uid(now) != data["uid"]:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{describe(live)} is still being deleted after {timeout:.0f} s")
        time.sleep(_GONE_PAUSE)


def wait_until_ended(cluster: Cluster, daemonsets: Iterable[Mapping[str, Any]], timeout: float) -> list[str]:
    """Wait until DaemonSets that were deleted, and their pods, are gone; RuntimeError after ``timeout`` seconds.

    A node that is not ready ends no pod. Those are not waited for, but returned, as sentences call them.
    """
    deleted, began, pause = list(daemonsets), time.monotonic(), _GONE_PAUSE
    for daemonset in deleted:
        wait_until_gone(cluster, daemonset, max(0.0, began + timeout - time.monotonic()))
    while pods := [pod for daemonset in deleted for pod in _pods(cluster, daemonset)]:
        waited, ending = time.monotonic() - began, pods
        if waited > min(_SURELY_ENDED, timeout):
            unready = {node["metadata"]["name"] for node in _nodes(cluster, Shared()) or () if not is_ready(node)}
            ending = [pod for pod in pods if (pod.get("spec") or {}).get("nodeName") not in unready]
        if not ending:
            return [f"{describe(pod)} on {pod['spec']['nodeName']}" for pod in pods]
        if waited > timeout:
            raise RuntimeError(f"{some(map(describe, ending))}: still being deleted after {timeout:.0f} s")
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)
    return []


def remove_former_daemonsets(
    cluster: Cluster, image_set: ImageSet, settings: Settings, *, dry_run: bool = False
) -> list[str]:
    """Delete the set's DaemonSets that are not where the settings have it any more; what was deleted."""
    namespaces = dict.fromkeys((image_set.namespace, settings.namespace))
    found = [d for where in namespaces for d in cluster.list("DaemonSet", where, labels=_label_of(image_set))[0]]
    former = [daemonset for daemonset in found if is_former(daemonset, image_set, settings)]
    for daemonset in former:
        if not daemonset["metadata"].get("deletionTimestamp"):
            data = daemonset["metadata"]
            cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"], dry_run=dry_run)
    return [describe(daemonset) for daemonset in former]


def is_former(daemonset: Mapping[str, Any], image_set: ImageSet, settings: Settings) -> bool:
    """Whether we made a DaemonSet for this set before its name or namespace was changed to that of the settings."""
    data = metadata(daemonset)
    there = (data["namespace"], data["name"]) == (settings.namespace, settings.daemonset_name)
    return is_of(daemonset, image_set) and not there


def our_daemonsets(cluster: Cluster, image_set: ImageSet) -> list[dict[str, Any]]:
    """The DaemonSets of this set that we made, whatever their name and namespace."""
    return [d for d in _labelled(cluster, image_set, _label_of(image_set)) if is_of(d, image_set)]


def _label_of(image_set: ImageSet) -> str:
    return f"{IMAGE_SET}={image_set.config_map_name}"


def _labelled(cluster: Cluster, image_set: ImageSet, label: str) -> list[dict[str, Any]]:
    """DaemonSets with a label in all namespaces; in the set's own where no more may be listed."""
    try:
        return cluster.list("DaemonSet", labels=label)[0]
    except ApiError as error:
        if not error.forbidden:
            raise
    return cluster.list("DaemonSet", image_set.namespace, labels=label)[0]


def _nodes(cluster: Cluster, share: Shared) -> list[dict[str, Any]] | None:
    slim = node_slimmer(share, sizes=True)
    try:
        return [slim(node) for nodes, _version in cluster.pages("Node", limit=PAGE) for node in nodes]
    except ApiError as error:
        if error.forbidden:
            return None
        raise


def _events(cluster: Cluster, namespace: str, uids: Collection[str]) -> Iterator[dict[str, Any]]:
    """Events of these objects, read while they are asked for; none where they may not be read."""
    try:
        for events, _version in cluster.pages("Event", namespace, fields=without(UNTOLD)):
            yield from (event for event in events if (event.get("involvedObject") or {}).get("uid") in uids)
    except ApiError as error:
        if not error.forbidden:
            raise


def _uid(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"]["uid"])
