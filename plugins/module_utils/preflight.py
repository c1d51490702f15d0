# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an installation will cost and what would keep it from working, known before anything is changed: pure.

What was read is a :class:`Survey` (see survey.py); what it means is said here. What nobody could tell is unknown, and
never wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import (
    ZERO,
    Breach,
    Cost,
    Quota,
    cost_of,
    cost_per_node,
    counted_of_pods,
    limit_breaches,
    quotas_for,
    show,
    with_defaults,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import NODE_SELECTOR
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import CACHE, RENEW, Lock, drift
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import some
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import EVERYTHING, Policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import (
    parse_quantity,
    show_bytes,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.refresh import moving_images
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Facts, RegistryError
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import allowance
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import (
    is_going,
    lasting,
    selects,
    toleration_for,
    untolerated,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    AUTO,
    IMAGE_VOLUME,
    REFRESH_NEVER,
    SLEEP,
    Problem,
    Settings,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import unable

# How much larger an image is on a node than the sum of its compressed layers. An estimate: 2.8 is what a Debian root
# file system with Python has. A runtime keeps the compressed layers, too, so that a node needs 3.8 times their size.
UNPACK_FACTOR = Decimal("2.8")
# Above 85 % the kubelet begins to remove images (imageGCHighThresholdPercent), so that these 15 % are not to be had.
RESERVED = Decimal("0.15")
_MOST_TAINTS = 3  # Whose tolerations are told one by one: there may be one for each tenant.
MOST_ROWS = 50  # Nodes that the result lists; those that lack something first.
_LEVELS = ("error", "warning", "note")
_ENFORCE = "pod-security.kubernetes.io/enforce"
_CACHE = "the cache"
_OPTIONS = ("cpu", "memory")  # What options say for the pods.
_ROOM = {"cpu": "cpu_requests", "memory": "memory_requests", "pods": "pods"}
# Where the kubelet asks each pod for a login of its own, though the image is on the node.
_LOGIN_FOR_EACH = (1, 35)


@dataclass(frozen=True)
class PullSecret:
    """A secret that the settings name: ``state`` is found, missing or unknown."""

    name: str
    state: str
    keyring: Keyring = field(default_factory=Keyring)


@dataclass(frozen=True)
class Admission:
    """Which SCC OpenShift would admit a DaemonSet's pods with, asked as their ServiceAccount; "" and why not."""

    daemonset: str
    scc: str = ""
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Survey:
    """What was read. None (or a missing key) stands for what could not be; ``unread`` says why, in sentences.

    ``classes``: (kind, name) -> the class that pods are to have, None where there is none;
    ``namespace``: "" where it is not known whether it is there, None where it is not; ``taken``: node -> what the pods
    of others ask for there; ``own_pods``: the specs of the installation's pods that are there; ``objects``: a quota's
    resource -> how many objects the installation needs of it, and has already; ``answers``: image -> what its registry
    said; ``disk``: node -> (free, all) bytes of its image file system; ``admissions``: None where the cluster is no
    OpenShift.
    """

    namespace: Mapping[str, Any] | None = None
    nodes: Sequence[Mapping[str, Any]] | None = None
    taken: Mapping[str, Cost] | None = None
    own_pods: Sequence[Mapping[str, Any]] | None = ()
    objects: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    quotas: Sequence[Mapping[str, Any]] = ()
    limit_ranges: Sequence[Mapping[str, Any]] = ()
    pull_secrets: Sequence[PullSecret] = ()
    answers: Mapping[str, Facts | RegistryError] = field(default_factory=dict)
    disk: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    admissions: Sequence[Admission] | None = None
    classes: Mapping[tuple[str, str], Mapping[str, Any] | None] = field(default_factory=dict)
    unread: Sequence[str] = ()


@dataclass(frozen=True)
class _Finding:
    level: str
    about: str
    message: str


@dataclass(frozen=True)
class _Set:
    """One set of images: what is made of its settings."""

    settings: Settings
    spec: Mapping[str, Any]

    @property
    def cost(self) -> Cost:
        return cost_of([self.spec])


@dataclass(frozen=True)
class _Node:
    """A node that some set chooses: what the sets need there, and what it has to give (None: unknown).

    ``compressed``: bytes of the layers that are not there yet.
    """

    name: str
    platform: str
    sets: tuple[_Set, ...]
    need: Cost
    free: Mapping[str, Decimal | None]
    compressed: int | None
    disk_free: int | None
    labels: Mapping[str, str]

    @property
    def disk_need(self) -> int | None:
        """Bytes that the images take here, as an estimate."""
        return None if self.compressed is None else on_disk(self.compressed)

    def short(self) -> dict[str, Decimal]:
        """Resource -> how much of it is missing."""
        lacking = {}
        for resource, amount in _ROOM.items():
            free = self.free[resource]
            if free is not None and getattr(self.need, amount) > free:
                lacking[resource] = getattr(self.need, amount) - free
        if self.disk_need is not None and self.disk_free is not None and self.disk_need > self.disk_free:
            lacking["disk"] = Decimal(self.disk_need - self.disk_free)
        return lacking


def plan(
    sets: Sequence[Settings],
    survey: Survey,
    *,
    others: Sequence[Mapping[str, Any]] = (),
    images: Mapping[str, str] | None = None,
    lock: Lock | None = None,
    problems: Sequence[Problem] = (),
    policy: Policy = EVERYTHING,
) -> dict[str, Any]:
    """What the sets cost, and what stands against them; the shape is the same whatever is known.

    :param others: specs of further pods that the installation makes, as the controller's.
    :param images: further images that it needs: what it is for (helper, controller) -> the reference.
    :param lock: the lock from which it is to be; :param problems: where that does not fit the list.
    :param policy: what will be waited for.
    """
    made = [_Set(s, _as_admitted(d["spec"]["template"]["spec"], survey)) for s in sets for d in build_daemonsets(s)]
    others = [_as_admitted(spec, survey) for spec in others]
    nodes, skipped = _nodes(made, survey)
    counts = [sum(one in node.sets for node in nodes) for one in made]
    wanted = [*zip((one.spec for one in made), counts, strict=True), *((spec, 1) for spec in others)]
    quotas = quotas_for(survey.quotas, wanted, survey.own_pods or (), survey.objects)
    quotas = quotas if survey.nodes is not None else []
    if survey.own_pods is None:  # Then nobody knows how much of what is used is the installation's own.
        quotas = [quota for quota in quotas if not counted_of_pods(quota.resource)]
    rows = [*_image_rows(made, survey), *_further_rows(images or {}, survey)]
    findings = [
        *_about_nodes(survey, nodes, skipped, policy),
        *_about_wait(policy, made, nodes),
        *_about_room(nodes),
        *(_about_quota(quota, made, counts) for quota in quotas if quota.missing),
        *(_about_refresh(made, counts, wanted, survey, quotas) if others else ()),  # Only a controller refreshes.
        *_about_limits(made, others, survey),
        *_about_images(rows),
        *_about_platforms(rows, nodes, survey),
        *_about_secrets(survey, rows),
        *(_Finding("error", "classes", sentence) for sentence in missing_classes(survey.classes)),
        *_about_runtime(survey, nodes),
        *(_Finding("error", "lock", str(problem).rstrip(".")) for problem in problems),
        *(_about_lock(lock, rows, nodes) if lock else ()),
        *_about_consumers(rows, survey),
        *_about_admission(survey),
        *_about_strategy(made, survey, nodes),
        *(_Finding("note", "unread", sentence) for sentence in survey.unread),
    ]
    findings.sort(key=lambda finding: _LEVELS.index(finding.level))
    levels = {finding.level for finding in findings}
    known = survey.nodes is not None
    return {
        "verdict": "Blocked" if "error" in levels else "Doubtful" if "warning" in levels else "Fits",
        "findings": [vars(finding) for finding in findings],
        "sets": [_set_row(one, count if known else None) for one, count in zip(made, counts, strict=True)],
        "images": rows,
        "nodes": _node_summary(nodes, skipped, known),
        "cost": _costs(made, nodes, known),
        "quotas": [quota.as_dict() for quota in quotas],
        "pull_secrets": [
            {"name": secret.name, "state": secret.state, "registries": secret.keyring.registries}
            for secret in survey.pull_secrets
        ],
        "pod_security": _labels(survey.namespace).get(_ENFORCE) or None,
        "scc": ", ".join(dict.fromkeys(one.scc for one in survey.admissions or () if one.scc)) or None,
    }


# --- nodes -----------------------------------------------------------------------------------------------------------


def _nodes(sets: Sequence[_Set], survey: Survey) -> tuple[list[_Node], dict[str, str]]:
    """The nodes that hold a set, and the toleration that others would need, by their names."""
    found, skipped = [], {}
    disks: dict[tuple[Any, ...], int | None] = {}
    for node in survey.nodes or ():
        name = node["metadata"]["name"]
        chosen = tuple(one for one in sets if selects(one.spec, node) and not _is_going(one.spec, node))
        taints = {id(one): lasting(one.spec, node) for one in chosen}
        held = tuple(one for one in chosen if not taints[id(one)])
        if chosen and not held:
            tolerations = [toleration_for(taint) for taint in taints[id(chosen[0])]]
            skipped[name] = json.dumps(tolerations)
        if held:
            found.append(_node(node, held, survey, disks))
    return found, skipped


def _is_going(spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether an autoscaler takes the node away, and keeps pods off it until then."""
    return any(map(is_going, untolerated(spec, node)))


def _node(
    node: Mapping[str, Any], sets: tuple[_Set, ...], survey: Survey, disks: dict[tuple[Any, ...], int | None]
) -> _Node:
    status = node.get("status") or {}
    name, platform = node["metadata"]["name"], platform_of(node)
    present = frozenset(_present(sets, status))
    key = (platform, present, *map(id, sets))
    if key not in disks:
        disks[key] = _to_pull(sets, platform, present, survey)
    allocatable = status.get("allocatable") or {}
    taken = None if survey.taken is None else survey.taken.get(name, Cost())
    free: dict[str, Decimal | None] = {}
    for resource, amount in _ROOM.items():
        known = taken is not None and resource in allocatable
        free[resource] = parse_quantity(str(allocatable[resource])) - getattr(taken, amount) if known else None
    need, labels = sum((s.cost for s in sets), Cost()), _labels(node)
    return _Node(name, platform, sets, need, free, disks[key], _disk_free(node, survey), labels)


def platform_of(node: Mapping[str, Any]) -> str:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return f"{info.get('operatingSystem') or 'linux'}/{info.get('architecture') or '?'}"


def _present(sets: Iterable[_Set], status: Mapping[str, Any]) -> Iterator[str]:
    """Those of the images that the node lists: a proof that they are there."""
    listed = {name for image in status.get("images") or () for name in image.get("names") or ()}
    return (image for image in _references(sets) if str(parse_reference(image)) in listed)


def _references(sets: Iterable[_Set]) -> list[str]:
    """The images that a node with these sets holds."""
    sets = list(sets)
    cached = [image.image for one in sets for image in one.settings.images]
    return list(dict.fromkeys([*cached, *(one.settings.helper_image for one in sets)]))


def _to_pull(sets: Sequence[_Set], platform: str, present: Iterable[str], survey: Survey) -> int | None:
    """Bytes, compressed, of what is not on a node of this platform yet, each layer counted once; None: unknown."""
    missing: dict[str, int] = {}
    there: set[str] = set()
    present = set(present)
    helpers = {one.settings.helper_image for one in sets}
    for image in _references(sets):
        answer = survey.answers.get(image)
        if isinstance(answer, Facts):
            layers = {layer.digest: layer.size for layer in answer.layers_for(platform) or ()}
            there |= layers.keys() if image in present else set()
            missing |= {} if image in present else layers
        elif image not in present | helpers:  # A helper is too small to matter.
            return None
    return sum(size for digest, size in missing.items() if digest not in there)


def on_disk(compressed: int) -> int:
    """Bytes that a node needs for so many bytes of compressed layers: these, and what they unpack to (an estimate)."""
    return math.ceil(compressed * (1 + UNPACK_FACTOR))


def _disk_free(node: Mapping[str, Any], survey: Survey) -> int | None:
    """Bytes that images may take: what the kubelet measured, else what the node has for pods at most."""
    measured = survey.disk.get(node["metadata"]["name"])
    if measured:
        free, whole = measured
        return max(0, int(free - whole * RESERVED))
    text = ((node.get("status") or {}).get("allocatable") or {}).get("ephemeral-storage")
    return int(parse_quantity(str(text))) if text else None


def _about_nodes(
    survey: Survey, nodes: Sequence[_Node], skipped: Mapping[str, str], policy: Policy
) -> Iterator[_Finding]:
    if survey.nodes is None:
        return
    if not nodes:
        why = "no node would hold the images: none matches node_selector, affinity and tolerations"
        remedy = "Remedy: correct them, or set min_nodes to 0 if the pool may be empty"
        told = ("warning", f"{why}. {remedy}") if policy.min_nodes else ("note", f"{why} yet, as min_nodes 0 allows")
        yield _Finding(told[0], "nodes", told[1])
    by_toleration: dict[str, list[str]] = {}
    for name, toleration in skipped.items():
        by_toleration.setdefault(toleration, []).append(name)
    most = sorted(by_toleration.items(), key=lambda item: -len(item[1]))
    for toleration, names in most[:_MOST_TAINTS]:
        yield _Finding(
            "note",
            "nodes",
            f"{_count(len(names), 'node')} skipped for a taint ({some(names)}); the toleration would be {toleration}",
        )
    if others := most[_MOST_TAINTS:]:
        rest = [name for _toleration, names in others for name in names]
        why = _count(len(others), "other taint")
        yield _Finding("note", "nodes", f"{_count(len(rest), 'node')} skipped for {why} ({some(rest)})")


def _about_wait(policy: Policy, sets: Sequence[_Set], nodes: Sequence[_Node]) -> Iterator[_Finding]:
    for one in sets:
        names = [node.name for node in nodes if one in node.sets]
        if names and (why := policy.short(sum(not policy.excuses(name) for name in names), len(names))):
            yield _Finding(
                "warning",
                "nodes",
                f"{one.settings.daemonset_name}: {why}. Remedy: ask for fewer, or for a share such as 95%, unless more "
                "nodes join in time",
            )


def _about_room(nodes: Sequence[_Node]) -> Iterator[_Finding]:
    for resource in (*_ROOM, "disk"):
        short = {node.name: lack for node in nodes if (lack := node.short().get(resource))}
        if not short:
            continue
        worst = max(short, key=lambda name: short[name])
        # That an image takes so much space is an estimate, and room for a pod may be made; nowhere to run is certain.
        level = "error" if len(short) == len(nodes) and resource != "disk" else "warning"
        what = {"disk": "space for images", "pods": "pod slots"}.get(resource, resource)
        amount = show_bytes(int(short[worst])) if resource == "disk" else show(short[worst], resource)
        remedy = {
            "disk": "cache fewer images there, or enlarge the nodes' image file system",
            "pods": "leave these nodes out with node_selector, or raise the kubelet's maxPods",
        }.get(resource, f"lower caching_{resource}_request, free room there, or leave these nodes out")
        yield _Finding(
            level,
            resource,
            f"{_share(len(short), len(nodes))} too little {what} ({some(short)}): {worst} lacks {amount}. "
            f"Remedy: {remedy}",
        )


def _node_summary(nodes: Sequence[_Node], skipped: Mapping[str, str], known: bool) -> dict[str, Any]:
    order = sorted(nodes, key=lambda node: (not node.short(), node.name))
    return {
        "matching": len(nodes) if known else None,
        "skipped": len(skipped) if known else None,
        "short": sum(bool(node.short()) for node in nodes) if known else None,
        "platforms": dict(sorted(Counter(node.platform for node in nodes).items())),
        "rows": [_node_row(node) for node in order[:MOST_ROWS]],
        "omitted": max(0, len(nodes) - MOST_ROWS),
    }


def _node_row(node: _Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "platform": node.platform,
        "needs": {**node.need.as_dict(), "disk": node.disk_need},
        "free": {**_free(node), "disk": node.disk_free},
        "lacks": {r: int(a) if r == "disk" else show(a, r) for r, a in node.short().items()},
    }


def _free(node: _Node) -> dict[str, str | None]:
    return {resource: None if amount is None else show(amount, resource) for resource, amount in node.free.items()}


# --- what it costs ---------------------------------------------------------------------------------------------------


def _set_row(one: _Set, count: int | None) -> dict[str, Any]:
    return {
        "daemonset": one.settings.daemonset_name,
        "nodes": count,
        "cost": cost_per_node(one.settings),
        "documented": _documented(one.settings, count),
    }


def _documented(settings: Settings, nodes: int | None) -> str | None:
    """The formula of the known documentation: memory limit x images x nodes; None where it does not hold."""
    if nodes is None or (settings.strategy == IMAGE_VOLUME and settings.pod_resources):
        return None
    images, limit = len(settings.images), settings.caching_memory_limit
    total = show(parse_quantity(limit) * images * nodes, "memory")
    return f"{limit} x {_count(images, 'image')} x {_count(nodes, 'node')} = {total}"


def _costs(sets: Sequence[_Set], nodes: Sequence[_Node], known: bool) -> dict[str, Any]:
    """On the node that holds most, on all nodes, and what is free on the node that has least of it."""
    most = max((node.need for node in nodes), key=lambda cost: cost.memory_requests, default=Cost())
    one = most if nodes else sum((one.cost for one in sets), Cost())
    total = sum((node.need for node in nodes), Cost())
    layers = [node.compressed for node in nodes if node.compressed is not None]
    complete = bool(layers) and len(layers) == len(nodes)
    return {
        "node": {**one.as_dict(), **_disk([max(layers)] if complete else None)},
        "total": {
            **(total.as_dict() if known else dict.fromkeys(total.as_dict())),
            **_disk(layers if complete else None),
        },
        "unpack_factor": float(UNPACK_FACTOR),
        "least_free": {resource: _least(nodes, resource) for resource in (*_ROOM, "disk")},
    }


def _disk(nodes: Sequence[int] | None) -> dict[str, int | None]:
    """Bytes on nodes with so many of compressed layers: of these, unpacked (an estimate), and both."""
    if nodes is None:
        return dict.fromkeys(("compressed", "unpacked", "disk"))
    compressed, both = sum(nodes), sum(map(on_disk, nodes))
    return {"compressed": compressed, "unpacked": both - compressed, "disk": both}


def _least(nodes: Sequence[_Node], resource: str) -> dict[str, Any] | None:
    amounts = {n.name: n.disk_free if resource == "disk" else n.free[resource] for n in nodes}
    known = {name: amount for name, amount in amounts.items() if amount is not None}
    if not known:
        return None
    name = min(known, key=lambda key: known[key])
    return {"node": name, "free": known[name] if resource == "disk" else show(Decimal(known[name]), resource)}


# --- the namespace ---------------------------------------------------------------------------------------------------


def _about_quota(quota: Quota, sets: Sequence[_Set], counts: Sequence[int]) -> _Finding:
    side, kind = counted_of_pods(quota.resource) or ("", quota.unit)
    remedies = [f"raise its hard {quota.resource} to {show(quota.used + quota.needed, kind)}"]
    containers = sum(len(one.settings.images) * count for one, count in zip(sets, counts, strict=True))
    left = max(ZERO, quota.hard - quota.used)
    unit = Decimal(2**20) if kind == "memory" else Decimal("0.001")
    fixed = any(one.settings.strategy == IMAGE_VOLUME and one.settings.pod_resources for one in sets)
    if kind in _OPTIONS and side and not fixed and containers:
        cached = (getattr(o.cost, f"{kind}_{side}") * count for o, count in zip(sets, counts, strict=True))
        room = left - (quota.needed - sum(cached))  # What the other pods leave of it.
        if room > 0 and (each := (room / containers // unit) * unit):
            remedies.append(f"lower caching_{kind}_{side[:-1]} to {show(each, kind)}")
    if side and kind not in _OPTIONS:
        remedies.append(f"lower the default for {kind} that a LimitRange gives to containers")
    if counted_of_pods(quota.resource):
        remedies.append("cache fewer images" if side and not fixed else "cache on fewer nodes")
    return _Finding(
        "error",
        "quota",
        f"ResourceQuota {quota.name} is too small in {quota.resource}: {show(quota.needed, kind)} needed, "
        f"{show(left, kind)} of {show(quota.hard, kind)} left, {show(quota.missing, kind)} missing. "
        f"Remedy: {', or '.join(remedies)}",
    )


def _about_refresh(
    sets: Sequence[_Set],
    counts: Sequence[int],
    wanted: Sequence[tuple[Mapping[str, Any], int]],
    survey: Survey,
    quotas: Sequence[Quota],
) -> Iterator[_Finding]:
    """Moved tags are pulled by short-lived pods beside those of a set, on a few nodes at a time."""
    more = [
        (one.spec, min(count, allowance(one.settings.max_unavailable, count)))
        for one, count in zip(sets, counts, strict=True)
        if one.settings.refresh != REFRESH_NEVER and moving_images(one.settings)
    ]
    fits = {(quota.name, quota.resource) for quota in quotas if not quota.missing}
    for quota in quotas_for(survey.quotas, [*wanted, *more], survey.own_pods or (), survey.objects):
        if quota.missing and (quota.name, quota.resource) in fits and counted_of_pods(quota.resource):
            enough = f"raise its hard {quota.resource} to {show(quota.used + quota.needed, quota.unit)}"
            yield _Finding(
                "note",
                "quota",
                f"ResourceQuota {quota.name} has no room in {quota.resource} for the short-lived pods that bring moved "
                f"tags to the nodes: {show(quota.missing, quota.unit)} missing. Without them the nodes keep what the "
                f"tags stand for now. Remedy: {enough}, or set refresh to {REFRESH_NEVER}",
            )


def _about_limits(sets: Sequence[_Set], others: Sequence[Mapping[str, Any]], survey: Survey) -> Iterator[_Finding]:
    pods = [(_CACHE, one.spec) for one in sets] + [(_owner_of(spec), spec) for spec in others]
    for who, breach in dict.fromkeys((w, b) for w, spec in pods for b in limit_breaches(survey.limit_ranges, spec)):
        yield _Finding("error", "limit_range", _limit_sentence(who, breach))


def _owner_of(pod: Mapping[str, Any]) -> str:
    """Whose pod another one of the installation is."""
    return "the operator" if pod["containers"][0].get("name") == "operator" else "the controller"


def _limit_sentence(who: str, breach: Breach) -> str:
    one = "each container" if breach.kind == "Container" else "the pod"
    pods = "the pods" if who == _CACHE else f"{who}'s pod"
    times = " times" if breach.bound == "maxLimitRequestRatio" and breach.asked else ""
    said, asked = {
        "min": (f"must ask for {breach.allowed} {breach.resource} or more", "asks for"),
        "max": (f"may have {breach.allowed} {breach.resource} at most", "its limit is"),
        "maxLimitRequestRatio": (
            f"may have a {breach.resource} limit of {breach.allowed} times its request at most",
            "has",
        ),
    }[breach.bound]
    tail = f"{asked} {breach.asked}{times}" if breach.asked else "says nothing of it"
    return f"LimitRange {breach.name} refuses {pods}: {one} {said}, and {tail}. Remedy: {_limit_remedy(who, breach)}"


def _limit_remedy(who: str, breach: Breach) -> str:
    if breach.resource not in _OPTIONS:
        return f"give containers a default for {breach.resource} in a LimitRange of type Container, or lift this bound"
    prefix = {_CACHE: "caching", "the controller": "deployment"}.get(who)
    if prefix is None:
        return f"lift this bound, since nothing changes what {who} asks for"
    request, limit = (f"{prefix}_{breach.resource}_{side}" for side in ("request", "limit"))
    return {
        "min": f"raise {request}",
        "max": f"lower {limit}",
        "maxLimitRequestRatio": f"raise {request} or lower {limit}",
    }[breach.bound]


def _about_admission(survey: Survey) -> Iterator[_Finding]:
    if survey.admissions is None:
        return
    by_answer: dict[tuple[bool, str], list[str]] = {}
    for admission in survey.admissions:
        if not admission.scc:
            by_answer.setdefault((admission.refused, admission.reason), []).append(admission.daemonset)
    for (refused, reason), names in by_answer.items():
        whose = f"the pods of {some(names)}"
        if refused:
            yield _Finding(
                "error",
                "scc",
                f"no SecurityContextConstraints admit {whose} ({reason}). Remedy: grant their ServiceAccount the use "
                "of restricted-v2",
            )
        else:
            yield _Finding("note", "scc", f"which SecurityContextConstraints admit {whose} is unknown: {reason}")
    annotations = ((survey.namespace or {}).get("metadata") or {}).get("annotations") or {}
    if survey.namespace and NODE_SELECTOR not in annotations:
        yield _Finding(
            "note",
            "scc",
            f"the namespace has no annotation {NODE_SELECTOR}: a default node selector of the cluster narrows the "
            'nodes. Remedy: annotate it with an empty value, "", if the images belong on others, too',
        )


def _labels(obj: Mapping[str, Any] | None) -> dict[str, str]:
    found: dict[str, str] = ((obj or {}).get("metadata") or {}).get("labels") or {}
    return found


# --- classes ---------------------------------------------------------------------------------------------------------


def missing_classes(classes: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> list[str]:
    """What the API server would refuse pods for, a sentence for each class that is not there."""
    options = {
        "PriorityClass": "priority_class_name or deployment_priority_class_name",
        "RuntimeClass": "runtime_class_name",
    }
    return [
        f"the {kind} {name} does not exist, and pods with it are refused. Remedy: create it, or correct {options[kind]}"
        for (kind, name), found in classes.items()
        if found is None
    ]


def _as_admitted(spec: Mapping[str, Any], survey: Survey) -> Mapping[str, Any]:
    """The pod as admission makes it: with what its runtime takes for itself, and the defaults of LimitRanges."""
    overhead = (_runtime_class(spec, survey).get("overhead") or {}).get("podFixed")
    return with_defaults({**spec, "overhead": overhead} if overhead else spec, survey.limit_ranges)


def _runtime_class(spec: Mapping[str, Any], survey: Survey) -> Mapping[str, Any]:
    return survey.classes.get(("RuntimeClass", spec.get("runtimeClassName", ""))) or {}


def _about_runtime(survey: Survey, nodes: Sequence[_Node]) -> Iterator[_Finding]:
    """Admission narrows pods to their runtime's nodes, of which the DaemonSet controller does not know."""
    without: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        for one in node.sets:
            wanted = (_runtime_class(one.spec, survey).get("scheduling") or {}).get("nodeSelector") or {}
            if any(node.labels.get(key) != value for key, value in wanted.items()):
                name = str(one.spec["runtimeClassName"])
                without.setdefault((name, json.dumps(wanted, sort_keys=True)), []).append(node.name)
    for (name, selector), names in without.items():
        yield _Finding(
            "warning",
            "classes",
            f"the RuntimeClass {name} is for nodes with {selector} only, and {_count(len(names), 'node')} "
            f"({some(names)}) {'lacks' if len(names) == 1 else 'lack'} it: pods there would wait for ever. "
            "Remedy: set node_selector to it, too",
        )


def _about_strategy(sets: Sequence[_Set], survey: Survey, nodes: Sequence[_Node]) -> Iterator[_Finding]:
    """That image volumes would reserve less, where every node that is concerned can mount them."""
    for one in sets:
        now, then = (cost_per_node(replace(one.settings, strategy=strategy)) for strategy in (SLEEP, IMAGE_VOLUME))
        less = all(parse_quantity(now[key]) > parse_quantity(then[key]) for key in ("cpu_requests", "memory_requests"))
        names = {node.name for node in nodes if one in node.sets}
        concerned = [node for node in survey.nodes or () if node["metadata"]["name"] in names]
        if one.settings.strategy != SLEEP or not less or not concerned or unable(concerned, certain=True):
            continue
        yield _Finding(
            "note",
            "strategy",
            f"with image volumes a node would reserve {then['cpu_requests']} CPU and {then['memory_requests']} "
            f"for {_count(len(one.settings.images), 'image')}, instead of {now['cpu_requests']} and "
            f"{now['memory_requests']}, and every node here can mount them. Remedy: let strategy be {AUTO}",
        )


# --- images ----------------------------------------------------------------------------------------------------------


def _image_rows(sets: Sequence[_Set], survey: Survey) -> list[dict[str, Any]]:
    rows = [_image_row(image.name, image.image, "cache", survey) for one in sets for image in one.settings.images]
    helpers = dict.fromkeys(one.settings.helper_image for one in sets)
    return rows + [_image_row("helper", image, "helper", survey) for image in helpers]


def _further_rows(images: Mapping[str, str], survey: Survey) -> list[dict[str, Any]]:
    return [_image_row(use, image, use, survey) for use, image in images.items()]


def _image_row(name: str, image: str, use: str, survey: Survey) -> dict[str, Any]:
    reference, answer = parse_reference(image), survey.answers.get(image)
    row: dict[str, Any] = {
        "name": name,
        "image": image,
        "use": use,
        "state": "unknown",
        "class": None,
        "message": None,
        "digest": None,
        "platforms": [],
        "size": None,
        "login": None,
        "private": None,
        "moving": not reference.digest and reference.tag in ("", "latest"),
    }
    if isinstance(answer, Facts):
        sizes = [sum({layer.digest: layer.size for layer in layers}.values()) for layers in answer.layers.values()]
        return row | {
            "state": "found",
            "digest": answer.digest,
            "platforms": list(answer.platforms),
            "size": max(sizes, default=None),
            "login": answer.login or None,
            "private": answer.private,
        }
    if answer is None:
        return row | {"message": "its registry was not asked"}
    state = {"not_found": "missing", "unauthorized": "denied"}.get(answer.class_, "unknown")
    return row | {"state": state, "class": answer.class_, "message": str(answer)}


def _about_images(rows: Sequence[Mapping[str, Any]]) -> Iterator[_Finding]:
    by_message: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["message"]:
            by_message.setdefault((row["state"], row["message"]), []).append(_named(row))
    for (state, message), names in by_message.items():
        level, tail = {
            "missing": ("error", "Remedy: correct the tag or the repository, or push the image"),
            "denied": (
                ("error", "Remedy: correct the login in it")
                if "does not accept" in message
                else ("warning", "Remedy: name a pull secret with image_pull_secrets, unless the nodes can log in")
            ),
            "unknown": ("note", "This may be otherwise on the nodes"),
        }[state]
        yield _Finding(level, "images", f"{some(names)}: {message}. {tail}")
    moving = [row["name"] for row in rows if row["moving"]]
    if moving:
        yield _Finding(
            "note",
            "images",
            f"{some(moving)}: what the tag latest (or none) stands for changes, and nodes then hold different images. "
            "Remedy: name a version, where the consumers do, too",
        )
    for digest, names in _same(rows).items():
        yield _Finding("note", "images", f"{some(names)} are one and the same image ({digest[:19]}...)")


def _same(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The digests that several different references stand for."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["digest"] and row["use"] == "cache":
            found.setdefault(row["digest"], {}).setdefault(row["image"], row["name"])
    return {digest: list(names.values()) for digest, names in found.items() if len(names) > 1}


def _about_platforms(rows: Sequence[Mapping[str, Any]], nodes: Sequence[_Node], survey: Survey) -> Iterator[_Finding]:
    for row in rows:
        answer = survey.answers.get(row["image"])
        if not isinstance(answer, Facts) or not answer.platforms or row["use"] in ("controller", "operator"):
            continue
        holders = [n for n in nodes if row["image"] in _references(n.sets) and not n.platform.endswith("/?")]
        without = [node.name for node in holders if node.platform not in answer.platforms]
        if without:
            missing = sorted({node.platform for node in holders if node.name in without})
            yield _Finding(
                "error" if len(without) == len(holders) else "warning",
                "platforms",
                f"{_named(row)} does not exist for {', '.join(missing)}, which {_share(len(without), len(holders))} "
                f"({some(without)}). Remedy: name an image that does, or leave these nodes out with node_selector",
            )


def _about_secrets(survey: Survey, rows: Sequence[Mapping[str, Any]]) -> Iterator[_Finding]:
    cached = [row for row in rows if row["use"] == "cache"]
    for secret in survey.pull_secrets:
        for problem in secret.keyring.problems:
            yield _Finding("warning", "pull_secrets", problem)
        if secret.state == "missing":
            yield _Finding(
                "error",
                "pull_secrets",
                f"the pull secret {secret.name} is not in the namespace. Remedy: create it there, or correct "
                "image_pull_secrets",
            )
        elif secret.keyring.entries and not any(secret.keyring.logins(parse_reference(r["image"])) for r in cached):
            hosts = some(secret.keyring.registries)
            yield _Finding(
                "warning",
                "pull_secrets",
                f"the pull secret {secret.name} is for {hosts}, and fits none of the images. Remedy: make it for their "
                "registries, or leave it out",
            )
    keyring = sum((secret.keyring for secret in survey.pull_secrets), Keyring())
    bare = [row["name"] for row in cached if row["private"] and not keyring.logins(parse_reference(row["image"]))]
    if bare and all(secret.state != "unknown" for secret in survey.pull_secrets):
        yield _Finding(
            "warning",
            "pull_secrets",
            f"{some(bare)}: private, and no pull secret of the set fits. Remedy: name one with image_pull_secrets, "
            "unless the nodes can log in",
        )


def _about_consumers(rows: Sequence[Mapping[str, Any]], survey: Survey) -> Iterator[_Finding]:
    private = [row["name"] for row in rows if row["use"] == "cache" and (row["private"] or row["state"] == "denied")]
    versions = (_kubelet_version(node) for node in survey.nodes or ())
    if private and any(version >= _LOGIN_FOR_EACH for version in versions):
        yield _Finding(
            "note",
            "consumers",
            f"{some(private)} {'is' if len(private) == 1 else 'are'} private: since Kubernetes 1.35 a kubelet lets a "
            "pod use a private image that is on the node only if that pod has a login for it, too "
            "(KubeletEnsureSecretPulledImages). Remedy: put the pull secret into the consumers' namespaces and name it "
            "in their pods or ServiceAccounts, or give the nodes a login of their own",
        )


def _kubelet_version(node: Mapping[str, Any]) -> tuple[int, int]:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    match = re.match(r"v(\d+)\.(\d+)", str(info.get("kubeletVersion")))
    return (int(match[1]), int(match[2])) if match else (0, 0)


# --- the lock --------------------------------------------------------------------------------------------------------


def _about_lock(lock: Lock, rows: Sequence[Mapping[str, Any]], nodes: Sequence[_Node]) -> Iterator[_Finding]:
    for moved in drift(lock, {row["image"]: row["digest"] for row in rows}):
        if moved["found"]:  # Of the others it is said already why they are unknown.
            yield _Finding("warning", "lock", moved["message"])
    for entry in lock.images:
        needed = {n.platform for n in nodes if entry.image in _references(n.sets) and not n.platform.endswith("/?")}
        if entry.use == CACHE and entry.platforms and needed and not needed & entry.platforms.keys():
            yield _Finding(
                "error",
                "lock",
                f"lock {lock.path!r}: the image {entry.name} ({entry.image}) is locked for "
                f"{', '.join(entry.platforms)}, and its nodes need {', '.join(sorted(needed))}. Remedy: {RENEW}, or "
                "leave these nodes out with node_selector",
            )


# --- words -----------------------------------------------------------------------------------------------------------


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['image']})"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _share(some: int, whole: int) -> str:
    if some == whole:
        return {1: "the node has", 2: "both nodes have"}.get(whole, f"all {whole} nodes have")
    return f"{some} of {whole} nodes {'has' if some == 1 else 'have'}"
