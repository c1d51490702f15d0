# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On which nodes a DaemonSet's pod runs: the DaemonSet controller's own rules (selector, affinity, taints)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Tolerations that the DaemonSet controller adds to every pod.
_ADDED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
# Taints by which autoscalers take a node away.
_GOING = ("ToBeDeletedByClusterAutoscaler", "DeletionCandidateOfClusterAutoscaler", "karpenter.sh/disrupted")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def selects(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether the pod's nodeSelector and required node affinity choose the node."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod_spec.get("nodeSelector") or {}).items()):
        return False
    required = ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED)
    if not required:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(_term_matches(term, labels, fields) for term in required.get("nodeSelectorTerms") or ())


def untolerated(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The node's taints that keep a DaemonSet's pod with this spec away."""
    tolerations = list(pod_spec.get("tolerations") or ())
    tolerations += [{"key": key, "operator": "Exists", "effect": effect} for key, effect in _ADDED]
    return [
        taint
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint.get("effect") in ("NoSchedule", "NoExecute")
        if not any(_tolerates(toleration, taint) for toleration in tolerations)
    ]


def is_tainted_by_state(taint: Mapping[str, Any]) -> bool:
    """Whether the control plane set the taint because of the node's state, and takes it away when that passes."""
    return str(taint.get("key")).startswith(("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"))


def is_going(taint: Mapping[str, Any]) -> bool:
    """Whether an autoscaler set the taint, since it takes the node away."""
    return taint.get("key") in _GOING


def lasting(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The taints that keep the pod away until it tolerates them, without those that go with the node or its state."""
    return [t for t in untolerated(pod_spec, node) if not (is_tainted_by_state(t) or is_going(t))]


def toleration_for(taint: Mapping[str, Any]) -> dict[str, str]:
    """The toleration that a taint asks for."""
    if taint.get("value"):
        return {"key": taint["key"], "operator": "Equal", "value": taint["value"], "effect": taint["effect"]}
    return {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]}


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    value, wanted = taint.get("value") or "", toleration.get("value") or ""
    return value == wanted if operator == "Equal" else _greater(operator, value, [wanted])


def _term_matches(term: Mapping[str, Any], labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    expressions, field_expressions = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not field_expressions:
        return False  # An empty term selects nothing.
    return all(_requirement(e, labels) for e in expressions) and all(_requirement(e, fields) for e in field_expressions)


def _requirement(expression: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    operator, wanted = expression.get("operator"), list(expression.get("values") or ())
    value = values.get(expression["key"])
    if operator == "In":
        return value in wanted
    if operator == "NotIn":
        return value not in wanted
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    return _greater(operator, value, wanted)


def _greater(operator: Any, value: str | None, wanted: Sequence[str]) -> bool:
    if operator not in ("Gt", "Lt") or value is None or len(wanted) != 1:
        return False
    try:
        one, other = int(value), int(wanted[0])
    except ValueError:
        return False
    return one > other if operator == "Gt" else one < other
