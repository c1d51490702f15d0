# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pods cost: a set on each node that holds it, and what its namespace and nodes have to give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import format_quantity, parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings

ZERO = Decimal(0)
AMOUNTS = ("cpu_requests", "cpu_limits", "memory_requests", "memory_limits")


@dataclass(frozen=True)
class Cost:
    """A number of pods, and the sums of their requests and limits (CPU in cores, memory in bytes)."""

    pods: int = 0
    cpu_requests: Decimal = ZERO
    cpu_limits: Decimal = ZERO
    memory_requests: Decimal = ZERO
    memory_limits: Decimal = ZERO

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.pods + other.pods, *(getattr(self, name) + getattr(other, name) for name in AMOUNTS))

    def __mul__(self, count: int) -> Cost:
        return Cost(self.pods * count, *(getattr(self, name) * count for name in AMOUNTS))

    def as_dict(self) -> dict[str, Any]:
        """The same as canonical quantities."""
        texts = {name: show(getattr(self, name), name.partition("_")[0]) for name in AMOUNTS}
        return {"pods": self.pods, **texts}


def show(amount: Decimal, resource: str) -> str:
    """An amount of cpu or memory (or of anything that is counted) as a canonical quantity."""
    return format_quantity(amount, binary=resource not in ("cpu", "pods"))


def cost_of(specs: Iterable[Mapping[str, Any]]) -> Cost:
    """The cost of pods with these specs."""
    return sum((_cost(spec) for spec in specs), Cost())


def cost_per_node(settings: Settings) -> dict[str, Any]:
    """Pod slots, and CPU and memory requests and limits of one node's pods, as canonical quantities."""
    cost = cost_of(daemonset["spec"]["template"]["spec"] for daemonset in build_daemonsets(settings)).as_dict()
    return {"pods": cost.pop("pods"), "images": len(settings.images), **cost}


def _cost(spec: Mapping[str, Any]) -> Cost:
    amounts = (_amount(spec, kind, resource) for resource in ("cpu", "memory") for kind in ("requests", "limits"))
    return Cost(1, *amounts)


def _amount(spec: Mapping[str, Any], kind: str, resource: str) -> Decimal:
    """What a pod counts for, to the scheduler and to quotas alike.

    The larger of what runs in the end and of each init container with the sidecars that started before it; what the
    pod says as a whole goes before that; and what its runtime class adds.
    """
    whole = _quantity(spec, kind, resource)
    overhead = parse_quantity(str((spec.get("overhead") or {}).get(resource, 0)))
    if whole is not None:
        return whole + overhead
    sidecars = peak = ZERO
    for container in spec.get("initContainers") or ():
        own = _quantity(container, kind, resource) or ZERO
        peak = max(peak, sidecars + own)
        sidecars += own if container.get("restartPolicy") == "Always" else ZERO
    running = sum((_quantity(container, kind, resource) or ZERO for container in spec.get("containers") or ()), ZERO)
    amount = max(running + sidecars, peak)
    return amount + overhead if amount or kind == "requests" else amount


def _quantity(owner: Mapping[str, Any], kind: str, resource: str) -> Decimal | None:
    text = ((owner.get("resources") or {}).get(kind) or {}).get(resource)
    return None if text is None else parse_quantity(str(text))


# --- the namespace ---------------------------------------------------------------------------------------------------

PODS = "pods"


def counted_of_pods(resource: str) -> tuple[str, str] | None:
    """(requests or limits, resource) that a ResourceQuota's resource counts of pods, ("", PODS) for their number."""
    if resource in (PODS, f"count/{PODS}"):
        return "", PODS
    kind, dot, rest = resource.partition(".")
    if dot and kind in ("requests", "limits"):
        return kind, rest
    return ("requests", resource) if resource in ("cpu", "memory", "ephemeral-storage") else None


def _counts(pod: Mapping[str, Any], kind: str, resource: str) -> Decimal:
    return Decimal(1) if resource == PODS else _amount(pod, kind, resource)


@dataclass(frozen=True)
class Quota:
    """One resource of one ResourceQuota: what may be used, what is used by others, and what an installation needs."""

    name: str
    resource: str
    hard: Decimal
    used: Decimal
    needed: Decimal

    @property
    def missing(self) -> Decimal:
        return max(ZERO, self.used + self.needed - self.hard)

    @property
    def unit(self) -> str:
        """What it is a quota of, as :func:`show` takes it."""
        return (counted_of_pods(self.resource) or ("", PODS))[1]

    def as_dict(self) -> dict[str, Any]:
        """The same as canonical quantities."""
        amounts = {name: show(getattr(self, name), self.unit) for name in ("hard", "used", "needed", "missing")}
        return {"name": self.name, "resource": self.resource, **amounts}


def quotas_for(
    quotas: Iterable[Mapping[str, Any]],
    wanted: Iterable[tuple[Mapping[str, Any], int]],
    present: Iterable[Mapping[str, Any]],
    objects: Mapping[str, tuple[int, int]] | None = None,
) -> list[Quota]:
    """What the quotas of a namespace have for an installation.

    :param wanted: (pod spec as admission makes it, number of pods with it) as they are to be.
    :param present: the specs of those pods that are there now, which the quotas count among what is used.
    :param objects: resource of a quota -> how many other objects of that kind are to be, and are there now.
    """
    wanted, present = list(wanted), list(present)
    found = []
    for quota in quotas:
        status, spec = quota.get("status") or {}, quota.get("spec") or {}
        counted = [(pod, count) for pod, count in wanted if _in_scope(spec, pod)]
        there = [pod for pod in present if _in_scope(spec, pod)]
        for resource, hard in (status.get("hard") or spec.get("hard") or {}).items():
            if of_pods := counted_of_pods(resource):
                needed = sum((_counts(pod, *of_pods) * count for pod, count in counted), ZERO)
                held = sum((_counts(pod, *of_pods) for pod in there), ZERO)
            else:
                needed, held = map(Decimal, (objects or {}).get(resource, (0, 0)))
            if needed:
                used = parse_quantity(str((status.get("used") or {}).get(resource, 0))) - held
                amounts = (parse_quantity(str(hard)), max(ZERO, used), needed)
                found.append(Quota(quota["metadata"]["name"], resource, *amounts))
    return found


def _in_scope(quota: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a quota counts a pod: its scopes must all fit."""
    expressions = [{"scopeName": name, "operator": "Exists"} for name in quota.get("scopes") or ()]
    expressions += (quota.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_scope_fits(expression, pod) for expression in expressions)


def _scope_fits(expression: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    scope, operator, values = expression.get("scopeName"), expression.get("operator"), expression.get("values") or ()
    if scope == "PriorityClass":
        name = pod.get("priorityClassName") or ""
        return {
            "In": name in values,
            "NotIn": name not in values,
            "Exists": bool(name),
            "DoesNotExist": not name,
        }.get(str(operator), False)
    if scope == "CrossNamespacePodAffinity":
        return _looks_beyond(pod.get("affinity") or {})
    best_effort = not any(getattr(_cost(pod), name) for name in AMOUNTS)
    return {
        "Terminating": pod.get("activeDeadlineSeconds") is not None,
        "NotTerminating": pod.get("activeDeadlineSeconds") is None,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }.get(str(scope), False)


def _looks_beyond(affinity: Mapping[str, Any]) -> bool:
    """Whether a term of a pod's affinity to pods names other namespaces."""
    terms: list[Mapping[str, Any]] = []
    for name in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(name) or {}
        terms += rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [term.get("podAffinityTerm") or {} for term in preferred]
    return any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms)


def with_defaults(spec: Mapping[str, Any], ranges: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A pod with what the LimitRanges of its namespace give to containers that say nothing of a resource.

    The API server makes such defaults of a bound, too: who writes a ``max`` alone has given every container that much.
    """
    items = [item for each in ranges for item in (each.get("spec") or {}).get("limits") or ()]
    defaults = [item for item in items if item.get("type") == "Container"]

    def filled(container: Mapping[str, Any]) -> dict[str, Any]:
        own = container.get("resources") or {}
        limits = {**(own.get("limits") or {})}
        requests = {**limits, **(own.get("requests") or {})}
        for item in defaults:
            requests = {**(item.get("defaultRequest") or {}), **requests}
            limits = {**(item.get("default") or {}), **limits}
        return {**container, "resources": {**own, "requests": requests, "limits": limits}}

    names = [name for name in ("initContainers", "containers") if spec.get(name)]
    return {**spec, **{name: [filled(container) for container in spec[name]] for name in names if defaults}}


@dataclass(frozen=True)
class Breach:
    """What a LimitRange refuses: the bound (min, max, maxLimitRequestRatio), of a Container or of the Pod.

    ``asked``: what the pod has instead; empty where it says nothing of the resource, which is refused as well.
    """

    name: str
    kind: str
    bound: str
    resource: str
    allowed: str
    asked: str


def limit_breaches(ranges: Iterable[Mapping[str, Any]], spec: Mapping[str, Any]) -> list[Breach]:
    """What the LimitRanges of a namespace refuse about a pod (with their defaults), each once."""
    found = []
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    for limit_range in ranges:
        for item in (limit_range.get("spec") or {}).get("limits") or ():
            owners = {"Container": containers, "Pod": [_as_one(spec)]}.get(item.get("type"), [])
            breaches = (breach for owner in owners for breach in _breaches(limit_range, item, owner))
            found += list(dict.fromkeys(breaches))
    return found


def _as_one(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The pod as if it were a container: of each resource that it says anything of what it counts for."""
    owners = [spec, *(spec.get("initContainers") or ()), *spec["containers"]]
    return {
        "resources": {
            kind: {
                resource: str(_amount(spec, kind, resource))
                for owner in owners
                for resource in (owner.get("resources") or {}).get(kind) or ()
            }
            for kind in ("requests", "limits")
        }
    }


def _breaches(limit_range: Mapping[str, Any], item: Mapping[str, Any], owner: Mapping[str, Any]) -> Iterable[Breach]:
    for bound in ("min", "max", "maxLimitRequestRatio"):
        for resource, text in (item.get(bound) or {}).items():
            request, limit = (_quantity(owner, kind, resource) for kind in ("requests", "limits"))
            allowed = parse_quantity(str(text))
            if bound == "maxLimitRequestRatio":
                asked = limit / request if limit and request else None
            else:
                asked = request if bound == "min" else limit
            if asked is None or (asked < allowed if bound == "min" else asked > allowed):
                ratio = bound == "maxLimitRequestRatio"
                shown = "" if asked is None else f"{asked:.3g}" if ratio else show(asked, resource)
                yield Breach(limit_range["metadata"]["name"], item["type"], bound, resource, str(text), shown)
