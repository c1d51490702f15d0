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

#: The resources of a ResourceQuota that pods count for -> the field of Cost.
QUOTA_FIELDS = {
    "pods": "pods",
    "count/pods": "pods",
    "cpu": "cpu_requests",
    "requests.cpu": "cpu_requests",
    "limits.cpu": "cpu_limits",
    "memory": "memory_requests",
    "requests.memory": "memory_requests",
    "limits.memory": "memory_limits",
}


@dataclass(frozen=True)
class Quota:
    """One resource of one ResourceQuota: what may be used, what is used by others, and what the pods need of it."""

    name: str
    resource: str
    hard: Decimal
    used: Decimal
    needed: Decimal

    @property
    def missing(self) -> Decimal:
        return max(ZERO, self.used + self.needed - self.hard)

    def as_dict(self) -> dict[str, Any]:
        """The same as canonical quantities."""
        kind = QUOTA_FIELDS[self.resource].partition("_")[0]
        amounts = {name: show(getattr(self, name), kind) for name in ("hard", "used", "needed", "missing")}
        return {"name": self.name, "resource": self.resource, **amounts}


def quotas_for(
    quotas: Iterable[Mapping[str, Any]],
    wanted: Iterable[tuple[Mapping[str, Any], int]],
    present: Iterable[Mapping[str, Any]],
) -> list[Quota]:
    """What the quotas of a namespace have for pods.

    :param wanted: (pod spec, number of pods with it) as they are to be.
    :param present: the specs of those pods that are there now, which the quotas count among what is used.
    """
    wanted, present = list(wanted), list(present)
    found = []
    for quota in quotas:
        status, spec = quota.get("status") or {}, quota.get("spec") or {}
        needed = sum((_cost(pod) * count for pod, count in wanted if _in_scope(spec, pod)), Cost())
        held = cost_of(pod for pod in present if _in_scope(spec, pod))
        for resource, hard in (status.get("hard") or spec.get("hard") or {}).items():
            field = QUOTA_FIELDS.get(resource)
            if field and getattr(needed, field):
                used = parse_quantity(str((status.get("used") or {}).get(resource, 0))) - getattr(held, field)
                amounts = (parse_quantity(str(hard)), max(ZERO, used), Decimal(getattr(needed, field)))
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
    best_effort = not any(getattr(_cost(pod), name) for name in AMOUNTS)
    return {
        "Terminating": pod.get("activeDeadlineSeconds") is not None,
        "NotTerminating": pod.get("activeDeadlineSeconds") is None,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }.get(str(scope), False)


@dataclass(frozen=True)
class Breach:
    """What a LimitRange refuses: the bound (min, max, maxLimitRequestRatio), of a Container or of the Pod."""

    name: str
    kind: str
    bound: str
    resource: str
    allowed: str
    asked: str


def limit_breaches(ranges: Iterable[Mapping[str, Any]], spec: Mapping[str, Any]) -> list[Breach]:
    """What the LimitRanges of a namespace refuse about a pod, each once."""
    found = []
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    for limit_range in ranges:
        for item in (limit_range.get("spec") or {}).get("limits") or ():
            owners = {"Container": containers, "Pod": [_as_one(spec)]}.get(item.get("type"), [])
            breaches = (breach for owner in owners for breach in _breaches(limit_range, item, owner))
            found += list(dict.fromkeys(breaches))
    return found


def _as_one(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "resources": {
            kind: {resource: str(_amount(spec, kind, resource)) for resource in ("cpu", "memory")}
            for kind in ("requests", "limits")
        }
    }


def _breaches(limit_range: Mapping[str, Any], item: Mapping[str, Any], owner: Mapping[str, Any]) -> Iterable[Breach]:
    for resource in ("cpu", "memory"):
        request = _quantity(owner, "requests", resource) or ZERO
        limit = _quantity(owner, "limits", resource) or ZERO
        for bound in ("min", "max", "maxLimitRequestRatio"):
            text = (item.get(bound) or {}).get(resource)
            if text is None:
                continue
            allowed = parse_quantity(str(text))
            asked = {"min": request, "max": limit}.get(bound, limit / request if request else ZERO)
            if asked < allowed if bound == "min" else asked > allowed:
                shown = f"{asked:.3g}" if bound == "maxLimitRequestRatio" else show(asked, resource)
                yield Breach(limit_range["metadata"]["name"], item["type"], bound, resource, str(text), shown)
