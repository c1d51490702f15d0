# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installations that an operator keeps: what install and uninstall do besides keeping and removing single objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import olm, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import (
    METADATA_LIST,
    RESOURCES,
    ApiError,
    Change,
    Cluster,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import is_namespace_going, wait_until_gone
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import METHODS, OLM, OPERATOR
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    MANAGED_BY,
    MANAGER,
    describe,
    is_ours,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    CRD_NAME,
    KIND,
    Refusal,
    read_resource,
    spec_fields,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import to_config_map

# Whether it is so; what is in the way, and whether waiting can't help.
Look = Callable[[], tuple[bool, str, bool]]

_PAUSES = (0.2, 2.0)  # Seconds, the first and the longest.
_ESTABLISHED = 30.0  # Seconds until a new definition has to be served.
_GONE = 60.0
# What a resource says that waiting won't change.
_FINAL = ("OtherOperator", "ForeignObject", "Superseded", "InvalidSettings")
_OPERATOR = ("Deployment", "RoleBinding", "Role", "ServiceAccount")


@dataclass(frozen=True)
class Hands:
    """What an installation works with: it reads, keeps and removes objects of one namespace, and tells of them.

    ``remove`` takes a kind, a name and a namespace; ``did`` is told what was done besides. ``say`` is told what a user
    should know, ``left`` what stays behind. ``trouble`` tells what keeps a Deployment from running (or nothing), and
    whether waiting can't help.
    """

    cluster: Cluster
    namespace: str
    keep: Callable[[dict[str, Any]], None]
    remove: Callable[[str, str, str | None], None]
    did: Callable[[Change], None]
    say: Callable[[str], None]
    left: Callable[[str], None]
    trouble: Callable[[str], tuple[str, bool]]
    dry_run: bool
    timeout: float


# --- install ---------------------------------------------------------------------------------------------------------


def refuse_others(hands: Hands) -> None:
    """RuntimeError, before anything is written, where another operator serves the resources of the namespace."""
    refusals = [operator.served_by_che(resource) for resource in _resources(hands.cluster, hands.namespace)]
    refusals += [other_deployment(hands.cluster, hands.namespace, operator.KNOWN_DEPLOYMENTS)]
    try:
        refusals += [other_csv(hands.cluster, hands.namespace)]
    except ApiError as error:
        if error.status != 404 and not error.forbidden:  # No OLM, or not for us to ask.
            raise
    if refusal := next(filter(None, refusals), None):
        raise RuntimeError(refusal.message)


def other_deployment(cluster: Cluster, namespace: str, names: Iterable[str]) -> Refusal | None:
    """Whether an operator of one of these names serves the namespace; one that is scaled to nothing does not."""
    for name in names:
        found = cluster.get("Deployment", name, namespace)
        if found is not None and (found.get("spec") or {}).get("replicas", 1):
            return operator.served_by_deployment(found)
    return None


def other_csv(cluster: Cluster, namespace: str) -> Refusal | None:
    """Whether OLM has installed the known operator for the namespace; ApiError where there is no OLM."""
    found = cluster.raw(RESOURCES["ClusterServiceVersion"].path(namespace), METADATA_LIST)
    return operator.served_by_olm([metadata(item)["name"] for item in found.get("items") or ()])


def leave_others(hands: Hands, method: str, require: Callable[[Iterable[Mapping[str, Any]]], object]) -> None:
    """Take the former method's operator away where another method follows, and let what it kept stay.

    RuntimeError where a resource is somebody else's: two who keep the same objects would fight.

    :param require: given what is there of the former method before the first of it goes; raises where it must stay.
    """
    resources = _resources(hands.cluster, hands.namespace)
    deployment = hands.cluster.get("Deployment", operator.NAME, hands.namespace)
    if not METHODS[method].operated and not resources and deployment is None:
        return
    leaving = [] if METHODS[method].operated else resources
    if foreign := next((resource for resource in leaving if not is_ours(resource)), None):
        raise RuntimeError(
            f"{describe(foreign)} asks an operator to keep this installation, and was not made by Ansible. "
            f"Delete it with kubectl delete --cascade=orphan, or let install_method be {OPERATOR}"
        )
    subscription = _subscription(hands)
    if (method != OLM and subscription) or (method != OPERATOR and deployment) or leaving:
        require([obj for obj in (*leaving, subscription, deployment) if obj])
    left = False
    if subscription is not None and method != OLM:
        left = _remove_olm(hands, subscription)
    elif subscription is None and deployment is not None and method != OPERATOR:
        left = _remove_operator(hands)
    for resource in leaving:
        # Orphaned, its objects lose their owner and stay; the garbage collector takes the reference off.
        name = metadata(resource)["name"]
        hands.cluster.delete(KIND, name, hands.namespace, propagation="Orphan", dry_run=hands.dry_run)
        hands.did(Change("deleted", KIND, describe(resource), resource))
        if not hands.dry_run:
            wait_until_gone(hands.cluster, resource, _GONE)
    if left and not METHODS[method].operated:
        _remove_definition(hands)


def hand_over(hands: Hands, found: Iterable[Mapping[str, Any]]) -> None:
    """Label what the operator is to keep and somebody else made: it takes nothing without that."""
    for obj in found:
        if is_ours(obj):
            continue
        data = metadata(obj)
        labels = {"metadata": {"labels": {MANAGED_BY: MANAGER}}}
        hands.cluster.merge(obj["kind"], data["name"], data["namespace"], labels, dry_run=hands.dry_run)
        hands.did(Change("patched", obj["kind"], describe(obj), fields=("metadata.labels",)))
        hands.say(f"{describe(obj)} was made by somebody else and has been taken over")


def require_olm(hands: Hands) -> None:
    """RuntimeError where there is no OLM, or the namespace has an OperatorGroup beside which ours can't be."""
    try:
        hands.cluster.raw("/apis/operators.coreos.com")
    except ApiError as error:
        if error.status != 404:
            raise
        raise RuntimeError(
            "The Operator Lifecycle Manager is not on this cluster (it does not serve operators.coreos.com). "
            f"Remedy: install it, or let install_method be {OPERATOR}"
        ) from error
    if trouble := olm.group_trouble(_foreign_groups(hands), hands.namespace):
        raise RuntimeError(trouble)


def beside_groups(hands: Hands, asked: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is asked of OLM, without an OperatorGroup where the namespace has one; then ours goes, if it is there."""
    if not _foreign_groups(hands):
        return list(asked)
    hands.remove("OperatorGroup", operator.PACKAGE, hands.namespace)
    return [obj for obj in asked if obj["kind"] != "OperatorGroup"]


def _foreign_groups(hands: Hands) -> list[dict[str, Any]]:
    """The OperatorGroups of the namespace but ours."""
    found, _version = hands.cluster.list("OperatorGroup", hands.namespace)
    return [group for group in found if not (is_ours(group) and metadata(group)["name"] == operator.PACKAGE)]


def keep_definition(hands: Hands, definition: dict[str, Any]) -> None:
    """Keep the CustomResourceDefinition, unless somebody else's or a newer one is there."""
    try:
        live = hands.cluster.get("CustomResourceDefinition", CRD_NAME)
    except ApiError as error:
        if not error.forbidden:
            raise
        return  # Who may not look at it finds out whether it is there.
    if live is None:
        hands.keep(definition)
    elif not is_ours(live):
        hands.say(f"{describe(live)} was made by somebody else and is left as it is")
    elif missing := _fields(live) - set(spec_fields()):
        hands.say(f"{describe(live)} is newer, and is left as it is: it knows {', '.join(sorted(missing))}, too")
    else:
        hands.keep(definition)


def wait_for_csv(hands: Hands) -> None:
    """Wait until OLM has installed the operator; RuntimeError with OLM's reason where it does not."""

    def look() -> tuple[bool, str, bool]:
        subscription = hands.cluster.get("Subscription", operator.PACKAGE, hands.namespace)
        name = ((subscription or {}).get("status") or {}).get("currentCSV") or ""
        csv = hands.cluster.get("ClusterServiceVersion", name, hands.namespace) if name else None
        phase = ((csv or {}).get("status") or {}).get("phase")
        return phase == "Succeeded", olm.csv_trouble(csv, subscription), phase == "Failed"

    _wait(hands, look)


def understood(cluster: Cluster, resource: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The resource in the fields that the cluster's definition knows, and those that are left out."""
    try:
        live = cluster.get("CustomResourceDefinition", CRD_NAME)
    except ApiError as error:
        if not error.forbidden:
            raise
        live = None
    known = _fields(live) if live else set(spec_fields())
    left = tuple(field for field in resource["spec"] if field not in known)
    spec = {field: text for field, text in resource["spec"].items() if field in known}
    return {**resource, "spec": spec}, left


def keep_resource(hands: Hands, resource: dict[str, Any]) -> dict[str, Any]:
    """Keep the resource as soon as the cluster serves its kind; it, in the fields that the cluster knows."""
    asked, left = understood(hands.cluster, resource)
    if left:
        hands.say(
            f"the definition {CRD_NAME} on the cluster is the known project's, which does not know "
            f"{', '.join(left)}: their defaults are used"
        )
    end = time.monotonic() + (0 if hands.dry_run else _ESTABLISHED)
    while True:
        try:
            hands.keep(asked)
        except ApiError as error:
            if error.status != 404 or time.monotonic() > end:
                raise
            time.sleep(_PAUSES[0])
        else:
            return asked


def wait_until_kept(hands: Hands, resource: dict[str, Any]) -> None:
    """Wait until the operator has brought about what the resource asks for; RuntimeError says why it does not."""
    name = metadata(resource)["name"]

    def look() -> tuple[bool, str, bool]:
        live = hands.cluster.get(KIND, name, hands.namespace)
        if live is None:
            raise RuntimeError(f"{describe(resource)} has gone")
        asked = read_resource(live)
        config_map = hands.cluster.get("ConfigMap", asked.installation.config_map_name, hands.namespace) or {}
        deployment = hands.cluster.get("Deployment", asked.installation.deployment_name, hands.namespace)
        wanted = to_config_map(asked.settings) if asked.settings else None
        kept = wanted is not None and wanted.items() <= (config_map.get("data") or {}).items()
        owned = deployment is not None and is_ours(deployment) and _ruled_by(config_map, live)
        said = _refused(live)
        if said is None:
            return kept and owned, *hands.trouble(operator.NAME)
        return False, said[1], said[0] in _FINAL

    _wait(hands, look, f"{describe(resource)} is not kept by the operator")


def _refused(resource: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and message where the operator refuses the resource as it is."""
    for condition in (resource.get("status") or {}).get("conditions") or ():
        about = condition.get("observedGeneration") == metadata(resource).get("generation")
        refused = condition["status"] == "True" and condition["reason"] in (*_FINAL, "MissingRight", "ReconcileError")
        if condition["type"] == "Degraded" and about and refused:
            return condition["reason"], condition["message"]
    return None


def _ruled_by(obj: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    """Whether it is the resource that rules: those that wait own it, too."""
    owners = metadata(obj).get("ownerReferences") or ()
    return any(owner["uid"] == metadata(resource)["uid"] and owner.get("controller") for owner in owners)


def _wait(hands: Hands, look: Look, what: str = "") -> None:
    if not hands.dry_run:
        wait_until(look, hands.timeout, what)


def wait_until(look: Look, timeout: float, what: str = "") -> None:
    """Until ``look`` says so; RuntimeError after ``timeout`` seconds, or where waiting can't help.

    :param what: begins the sentence of the error, before what is in the way.
    """
    end, (pause, longest) = time.monotonic() + timeout, _PAUSES
    while True:
        done, trouble, final = look()
        if done:
            return
        if final or time.monotonic() > end:
            late = "" if final else f" after {timeout:.0f} s"
            why = f"{what}{late}: {trouble or 'it has said nothing'}" if what else f"{trouble}{late}"
            raise RuntimeError(why)
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


# --- uninstall -------------------------------------------------------------------------------------------------------


def uninstall(hands: Hands) -> bool:
    """Remove the resource, the operator and the definition; False where somebody else's resource keeps the rest."""
    foreign = [resource for resource in _resources(hands.cluster, hands.namespace) if not is_ours(resource)]
    if foreign:
        hands.left(
            f"{describe(foreign[0])} stays, and with it what it asks for: it was not made by Ansible. "
            "Delete it, and uninstall again"
        )
        return False
    for resource in _resources(hands.cluster, hands.namespace):
        hands.remove(KIND, metadata(resource)["name"], hands.namespace)
    left = False
    if subscription := _subscription(hands):
        left = _remove_olm(hands, subscription)
    elif hands.cluster.get("Deployment", operator.NAME, hands.namespace) is not None:
        left = _remove_operator(hands)
    if left:
        _remove_definition(hands)
    return True


def _remove_definition(hands: Hands) -> None:
    """The definition goes when no resource is left: with it they would all go."""
    try:
        live = hands.cluster.get("CustomResourceDefinition", CRD_NAME)
        if live is None:
            return
        others = [r for r in _resources(hands.cluster, None) if metadata(r)["namespace"] != hands.namespace]
        labels = metadata(live).get("labels") or {}
        mark = f"operators.coreos.com/{operator.PACKAGE}."
        elsewhere = [n.removeprefix(mark) for n in labels if n.startswith(mark) and n != mark + hands.namespace]
        found, _version = hands.cluster.list("Deployment", fields=f"metadata.name={operator.NAME}")
        places = [metadata(each)["namespace"] for each in found if metadata(each)["namespace"] != hands.namespace]
        serving = next((name for name in places if not is_namespace_going(hands.cluster, name)), None)
        if elsewhere:
            hands.left(f"{describe(live)} stays: OLM has the operator in {', '.join(sorted(elsewhere))}, too")
        elif serving:
            hands.left(f"{describe(live)} stays: Deployment {serving}/{operator.NAME} needs it")
        elif others:
            hands.left(f"{describe(live)} stays: {some(map(describe, others))} would go with it")
        else:
            hands.remove("CustomResourceDefinition", CRD_NAME, None)
            if (
                is_ours(live) and not hands.dry_run
            ):  # The API server looks for resources first, and until then nothing can bring it anew.
                wait_until_gone(hands.cluster, live, _GONE)
    except ApiError as error:
        if not error.forbidden:
            raise
        hands.left(f"CustomResourceDefinition {CRD_NAME} stays, if it is there: {error}")


def _remove_operator(hands: Hands) -> bool:
    for kind in _OPERATOR:
        hands.remove(kind, operator.NAME, hands.namespace)
    return True


def _remove_olm(hands: Hands, subscription: Mapping[str, Any]) -> bool:
    """The Subscription first, so that OLM does not bring back what goes next; False where it is not ours to remove."""
    status = subscription.get("status") or {}
    if not is_ours(subscription):
        hands.left(f"{describe(subscription)} stays, and with it the operator: it was not made by Ansible")
        return False
    hands.remove("Subscription", operator.PACKAGE, hands.namespace)
    for name in dict.fromkeys(filter(None, (status.get("installedCSV"), status.get("currentCSV")))):
        if hands.cluster.delete("ClusterServiceVersion", name, hands.namespace, dry_run=hands.dry_run):
            where = f"ClusterServiceVersion {hands.namespace}/{name}"
            hands.did(Change("deleted", "ClusterServiceVersion", where))
    asked, _version = hands.cluster.list("Subscription", hands.namespace)
    others = [other for other in asked if metadata(other)["name"] != operator.PACKAGE]
    if others and hands.cluster.get("OperatorGroup", operator.PACKAGE, hands.namespace) is not None:
        hands.left(f"OperatorGroup {hands.namespace}/{operator.PACKAGE} stays: {describe(others[0])} needs one")
    else:
        hands.remove("OperatorGroup", operator.PACKAGE, hands.namespace)
    deployment = hands.cluster.get("Deployment", operator.NAME, hands.namespace)
    if deployment is not None and not hands.dry_run:
        wait_until_gone(hands.cluster, deployment, _GONE)  # It goes with its ClusterServiceVersion.
    return True


# --- what is there ---------------------------------------------------------------------------------------------------


def _resources(cluster: Cluster, namespace: str | None) -> list[dict[str, Any]]:
    """The resources of a namespace, or of all; none where the cluster does not serve them, or not to us."""
    try:
        found, _version = cluster.list(KIND, namespace)
    except ApiError as error:
        if error.status == 404 or (error.forbidden and namespace):
            return []
        raise
    return [resource for resource in found if not metadata(resource).get("deletionTimestamp")]


def _subscription(hands: Hands) -> dict[str, Any] | None:
    """What asks OLM for our operator here; None where there is none, or nobody may say so."""
    try:
        return hands.cluster.get("Subscription", operator.PACKAGE, hands.namespace)
    except ApiError as error:
        if not error.forbidden:
            raise
        return None


def _fields(definition: Mapping[str, Any]) -> set[str]:
    """The fields of the spec that a definition knows."""
    known: set[str] = set()
    for version in definition["spec"]["versions"]:
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        known |= set(((schema.get("properties") or {}).get("spec") or {}).get("properties") or ())
    return known
