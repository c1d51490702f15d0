# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a DaemonSet, its pods, the nodes and the kubelets' events to a state for each image on each node, and a verdict.

Pure: what was read goes in, a :class:`Report` comes out. ``witnesses`` tells the state of each image on one node; here
is which nodes count, and what follows from all of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import strategy_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import Events, read_events
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import (
    OTHER_DIGEST,
    PERMANENT,
    REMEDIES,
    classify,
    pull_failure,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    MANAGER,
    STATUS,
    describe,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import (
    is_going,
    is_tainted_by_state,
    lasting,
    selects,
    toleration_for,
    untolerated,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    IMAGE_VOLUME,
    CachedImage,
    Settings,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import told_why, unable
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import (
    LISTED,
    NO_POD,
    NOT_COMPARED,
    OLD_REVISION,
    UNTOLD,
    Row,
    digests_of,
    names_of,
    rows_of,
)

__all__ = [  # With what belongs to the subject and has a room of its own.
    "PERMANENT",
    "REMEDIES",
    "STATES",
    "TERMINATING",
    "VERDICTS",
    "Grace",
    "Report",
    "Row",
    "assess",
    "classify",
    "failure_sentences",
    "matching_nodes",
    "not_followed",
    "pod_node",
    "pods_by_node",
    "publish",
    "pull_failure",
    "read_published",
    "read_time",
]

STATES = ("cached", "pulling", "waiting", "failed", "not_applicable", "released")
# From the best to the worst.
VERDICTS = ("Healthy", "NoMatchingNodes", "Progressing", "Degraded", "Absent", "InvalidSettings")
# Why a node does not count.
GOING, NOT_READY = "the node is going away", "the node is not ready"
CORDONED, JUST_JOINED = "the node is cordoned and has no pod", "the node has just joined"
TERMINATING = "the pod is terminating"

_NOT_COMPARED = "could not be compared with the lock: nobody tells which image the node has under this name"
NO_IMAGE_VOLUMES = "NoImageVolumes"
_TOO_OLD = "it can't mount image volumes: {}; update the node, give it a group of its own, or let strategy be sleep"
# Above so many nodes only what needs attention is returned one by one, unless more is asked for.
MANY_NODES, MANY_ROWS = 100, 2000
# Bytes of JSON, so that a task's result stays below 1 MiB: what reports may take, and of that such rows and nodes.
_SPACE, _ROWS_SPACE, _NODES_SPACE = 900_000, 500_000, 200_000
_LONGEST_MESSAGE = 600  # Of what a kubelet says, in characters, where not everything is asked for.
_MOST_REASONS = 5  # Why nodes do not count; the others are counted.
_MOST_WHY = 1000  # Characters of a published reason that names nodes and a remedy.
_FAILURE_TEXTS, _MOST = ("name", "image", "class", "message"), 2**31


@dataclass(frozen=True)
class Grace:
    """Seconds: ``new_node`` before a node that joined counts (and before the DaemonSet controller is called late),
    ``progress`` without any before what is still to come is called a failure.
    """

    new_node: float = 60.0
    progress: float = 600.0

    @classmethod
    def of(cls, settings: Settings) -> Grace:
        """As the settings say."""
        return cls(float(settings.new_node_grace), float(settings.progress_grace))


@dataclass(frozen=True)
class Report:
    """The truth at one moment.

    ``excused`` and ``skipped`` map a node to why it does not count; ``daemonset`` is name, namespace and
    generation, by which strategy its pods hold the images and, where that was chosen, why, and whether its pods have
    resources as a whole.
    ``expected``: nodes on which there should be a pod, also where they could not be read.
    """

    verdict: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    images: tuple[CachedImage, ...] = ()
    nodes: tuple[str, ...] = ()
    excused: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    inferred: bool = False
    daemonset: Mapping[str, Any] | None = None
    expected: int = 0

    @cached_property
    def counted(self) -> tuple[Row, ...]:
        """The rows of the nodes that are not excused."""
        return tuple(row for row in self.rows if row.node not in self.excused)

    def is_ready(self, node: str) -> bool:
        """Whether the node's kubelet is known to be at work; not where nodes may not be read."""
        return not self.inferred and self.excused.get(node) in (None, TERMINATING)

    @cached_property
    def summary(self) -> dict[str, int]:
        """Numbers of images and nodes, of rows in each state, and of cached ones that are held."""
        return {
            "images": len(self.images),
            "nodes": len(self.nodes) - len(self.excused),
            "excused_nodes": len(self.excused),
            **_count(self.counted),
        }

    def as_dict(self, details: str | None = None, share: int = 1) -> dict[str, Any]:
        """The shape that the modules return: always all keys.

        :param details: ``all`` rows and nodes, only ``problems`` (what is not cached without a flaw, as far as it has
            room, with long messages cut), or ``summary``: none; None: all of up to 100 nodes if they have room, else
            problems.
        :param share: how many reports share the room in one result.
        """
        told: dict[str, Any] = {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "inferred": self.inferred,
            "summary": self.summary,
            "images": self._images(),
            "nodes": [],
            "rows": [],
            "excused": _by_reason(self.excused),
            "skipped": _by_reason(self.skipped),
            "details": details,
            "left_out": {"nodes": 0, "rows": 0},
            "daemonset": dict(self.daemonset) if self.daemonset else None,
        }
        # Of several sets the reasons are told three times: by each, by its report, and by all together.
        space = _SPACE // share - len(json.dumps(told)) - 2 * len(json.dumps(told["reasons"]))
        if details == "all" or (details is None and len(self.nodes) <= MANY_NODES):
            nodes, rows = self._nodes(), [row.as_dict() for row in self.rows]
            if details or not _within(space, [*nodes, *rows])[1]:
                return {**told, "nodes": nodes, "rows": rows, "details": "all"}
        if details == "summary":
            return told
        return {**told, **self._problems(space, share), "details": "problems"}

    def _problems(self, space: int, share: int) -> dict[str, Any]:
        """What needs attention, as far as it has room, and how much had none."""
        problems = _fairly([row for row in self.counted if row.state != "cached" or row.reason])
        troubled = {row.node for row in problems}
        found = [n for n in self._nodes() if n["excused"] or n["skipped"] or n["name"] in troubled]
        found.sort(key=lambda node: not node["failed"])
        nodes, left = _within(min(space, _NODES_SPACE // share), found)
        space = min(space - len(json.dumps(nodes)), _ROWS_SPACE // share)
        rows = _within(space, [_short(row).as_dict() for row in problems[:MANY_ROWS]])[0]
        return {"nodes": nodes, "rows": rows, "left_out": {"nodes": left, "rows": len(problems) - len(rows)}}

    def _images(self) -> list[dict[str, Any]]:
        by_name: dict[str, list[Row]] = {image.name: [] for image in self.images}
        for row in self.counted:
            by_name[row.name].append(row)
        return [_image(image, by_name[image.name]) for image in self.images]

    def _nodes(self) -> list[dict[str, Any]]:
        by_node: dict[str, list[Row]] = {node: [] for node in self.nodes}
        for row in self.rows:
            by_node[row.node].append(row)
        counted = [
            {"name": node, "excused": self.excused.get(node), "skipped": None, **_count(rows)}
            for node, rows in by_node.items()
        ]
        none = _count(())
        return counted + [{"name": node, "excused": None, "skipped": why, **none} for node, why in self.skipped.items()]


def _by_reason(nodes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Why nodes do not count: the reasons of most, each with the number of its nodes and the names of some."""
    names: dict[str, list[str]] = {}
    for node, why in nodes.items():
        names.setdefault(why, []).append(node)
    ranked = sorted(names.items(), key=lambda item: -len(item[1]))
    told, rest = ranked[:_MOST_REASONS], ranked[_MOST_REASONS:]
    if rest:  # As with a taint for each tenant.
        others = "1 other reason" if len(rest) == 1 else f"{len(rest)} other reasons"
        told.append((others, [node for _why, found in rest for node in found]))
    return [{"why": why, "nodes": len(found), "names": found[:5]} for why, found in told]


def _fairly(rows: Iterable[Row]) -> list[Row]:
    """In an order of which any beginning has something of each image and each kind of trouble, failures first."""
    seen: Counter[tuple[Any, ...]] = Counter()
    ranked = []
    for row in rows:
        kind = (row.name, row.state, row.class_)
        ranked.append((row.state != "failed", seen[kind], row))
        seen[kind] += 1
    return [row for *_rank, row in sorted(ranked, key=lambda rank: rank[:2])]


def _short(row: Row) -> Row:
    return row._replace(message=_shorten(row.message, _LONGEST_MESSAGE)) if row.message else row


def _within(space: int, items: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The first items whose JSON has room in so many bytes, and how many are left out."""
    for number, item in enumerate(items):
        space -= len(json.dumps(item)) + 2
        if space < 0:
            return list(items[:number]), len(items) - number
    return list(items), 0


def _image(image: CachedImage, rows: Sequence[Row]) -> dict[str, Any]:
    worst = next((row for row in rows if row.state == "failed"), None) or next(
        (row for row in rows if row.state != "cached" or row.reason), None
    )
    worst = worst and _short(worst)
    return {
        "name": image.name,
        "image": image.image,
        "nodes": len(rows),
        **_count(rows),
        "class": worst.class_ if worst else None,
        "reason": worst.reason if worst else None,
        "message": worst.message if worst else None,
        "digests": dict(Counter(row.digest for row in rows if row.digest and row.state == "cached").most_common(8)),
    }


def _count(rows: Iterable[Row]) -> dict[str, int]:
    found = Counter((row.state, row.held) for row in rows)
    counts = {state: found[state, False] + found[state, True] for state in STATES}
    return {**counts, "held": found["cached", True]}


def publish(report: Report, settings: str = "", not_followed: Mapping[str, Sequence[str]] | None = None) -> str:
    """The verdict and a bounded summary as JSON for an annotation: no times, so that it changes only with the truth.

    :param settings: the fingerprint of the settings that the DaemonSet was last found or made to follow.
    :param not_followed: the fingerprint of the settings that it is not made to follow -> why.
    """
    failed: dict[tuple[str, str, str], list[Row]] = {}
    for row in report.counted:
        if row.state == "failed":
            failed.setdefault((row.name, row.image, row.class_ or "other"), []).append(row)
    worst = sorted(failed.items(), key=lambda item: (-len(item[1]), item[0]))[:5]
    told = {
        "verdict": report.verdict,
        "reasons": [_shorten(reason) for reason in report.reasons[:3]],
        "summary": report.summary,
        "failures": [
            {
                "name": name,
                "image": image,
                "class": class_,
                "nodes": len(rows),
                "message": _shorten(rows[0].message or rows[0].reason or ""),
            }
            for (name, image, class_), rows in worst
        ],
        "generation": (report.daemonset or {}).get("generation"),
        **({"settings": settings} if settings else {}),
    }
    if not_followed:
        why = {wanted: [_shorten(reason, _MOST_WHY) for reason in found[:3]] for wanted, found in not_followed.items()}
        told["not_followed"] = why
    return json.dumps(told, sort_keys=True)


def read_published(daemonset: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What ``publish`` made for a DaemonSet, as it carries it; and a warning where that can't be so and is ignored."""
    text = (metadata(daemonset).get("annotations") or {}).get(STATUS)
    if text is None:
        return None, ""
    try:
        told = json.loads(text)
        if _is_published(told):
            return told, ""
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        pass
    name = describe({**daemonset, "kind": "DaemonSet"})
    return None, f"the annotation {STATUS} of {name} can't be read and is ignored: {_shorten(str(text))}"


def not_followed(daemonset: Mapping[str, Any], settings: str) -> tuple[str, ...]:
    """Why the controller does not make this DaemonSet, as it is now, follow the settings with this fingerprint."""
    told, _warning = read_published(daemonset)
    if told is None or told.get("generation") != metadata(daemonset).get("generation"):
        return ()
    return tuple(told.get("not_followed", {}).get(settings, ()))


def _is_published(told: Any) -> bool:
    refused = told.get("not_followed", {})
    numbers = [*told["summary"].values(), *(failure["nodes"] for failure in told["failures"])]
    texts = [*told["reasons"], *(failure[key] for failure in told["failures"] for key in _FAILURE_TEXTS)]
    texts += [text for reasons in refused.values() for text in reasons]
    true = (
        told["verdict"] in VERDICTS,
        isinstance(told["reasons"], list),
        isinstance(told["failures"], list),
        all(isinstance(reasons, list) for reasons in refused.values()),
        all(isinstance(text, str) for text in (*texts, told.get("settings", ""))),
        all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST for number in numbers),
    )
    return all(true)


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def assess(
    images: Sequence[CachedImage],
    daemonset: Mapping[str, Any] | None,
    pods: Iterable[Mapping[str, Any]],
    nodes: Iterable[Mapping[str, Any]] | None,
    events: Iterable[Mapping[str, Any]] = (),
    *,
    now: datetime | None = None,
    grace: Grace = Grace(),
    locked: Mapping[str, Sequence[str]] | None = None,
) -> Report:
    """Judge one image set.

    :param images: the images that are wanted.
    :param daemonset: the live DaemonSet, None where there is none.
    :param pods: the DaemonSet's pods.
    :param nodes: all nodes; None where they may not be read, then the pods and the DaemonSet's status tell of nodes.
    :param events: events of the pods and of the DaemonSet.
    :param now: the time to judge at.
    :param grace: how long things may take.
    :param locked: reference -> the digests of which a node must have one, the first in sentences.
    """
    wanted = tuple(images)
    if daemonset is None:
        return Report("Absent", ("the DaemonSet does not exist",), images=wanted, inferred=nodes is None)
    now = now or datetime.now(timezone.utc)
    by_node = pods_by_node(pods)
    told = read_events(events)
    skipped: dict[str, str] = {}
    excused: dict[str, str] = {}
    documents: dict[str, Mapping[str, Any]] = {}
    pod_spec = daemonset["spec"]["template"]["spec"]
    if nodes is None:
        names = sorted(by_node)
    else:
        documents, skipped = matching_nodes(pod_spec, nodes)
        names = sorted(documents)
        excuses = {name: _excuse(pod_spec, documents[name], by_node.get(name), daemonset, now, grace) for name in names}
        excused = {name: why for name, why in excuses.items() if why}
    references = {image: names_of(image.image) for image in wanted}
    made = [
        row
        for name in names
        for row in rows_of(references, name, by_node.get(name), documents.get(name), daemonset, told)
    ]
    if locked:
        made = [
            _compared(row, locked.get(row.image), by_node.get(row.node), documents.get(row.node), now) for row in made
        ]
    rows = _not_applicable(made, excused)
    rows = _named_unable(rows, daemonset, documents.values())
    data = daemonset["metadata"]
    named = {key: data.get(key) for key in ("name", "namespace", "generation")}
    named |= {"strategy": strategy_of(pod_spec), "strategy_reason": told_why(daemonset)}
    named |= {"pod_resources": "resources" in pod_spec}
    expected = (daemonset.get("status") or {}).get("desiredNumberScheduled", 0) if nodes is None else len(names)
    report = Report("", (), rows, wanted, tuple(names), excused, skipped, nodes is None, named, expected)
    quiet = (now - _last_progress(daemonset, by_node.values(), told)).total_seconds()
    verdict, reasons = _verdict(daemonset, report, told.failed_create, quiet, grace)
    return replace(report, verdict=verdict, reasons=reasons)


def pod_node(pod: Mapping[str, Any]) -> str | None:
    """The node that a DaemonSet's pod is for, also before it was bound there."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    required = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for expression in term.get("matchFields") or ():
            if expression.get("key") == "metadata.name" and len(expression.get("values") or ()) == 1:
                return str(expression["values"][0])
    return None


# --- nodes -----------------------------------------------------------------------------------------------------------


def matching_nodes(
    pod_spec: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """The nodes on which a DaemonSet's pod is to be, by name, and why others that it selects are skipped."""
    matching, skipped = {}, {}
    for node in nodes:
        if not selects(pod_spec, node):
            continue
        name = node["metadata"]["name"]
        # The others are an excuse for now; no toleration is the answer to them.
        if taints := lasting(pod_spec, node):
            skipped[name] = "taint; needed toleration: " + json.dumps([toleration_for(taint) for taint in taints])
        else:
            matching[name] = node
    return matching, skipped


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether the node's kubelet is at work, as far as the cluster knows."""
    conditions = {c.get("type"): c.get("status") for c in (node.get("status") or {}).get("conditions") or ()}
    return conditions.get("Ready") == "True"


def _excuse(
    pod_spec: Mapping[str, Any],
    node: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    daemonset: Mapping[str, Any],
    now: datetime,
    grace: Grace,
) -> str | None:
    spec = node.get("spec") or {}
    if node["metadata"].get("deletionTimestamp") or any(map(is_going, spec.get("taints") or ())):
        return GOING
    if not is_ready(node) or any(map(is_tainted_by_state, untolerated(pod_spec, node))):
        return NOT_READY
    if pod is None:
        if spec.get("unschedulable"):
            return CORDONED
        joined, made = (read_time(obj["metadata"].get("creationTimestamp")) for obj in (node, daemonset))
        if joined and made and joined > made and (now - joined).total_seconds() < grace.new_node:
            return JUST_JOINED
    elif pod["metadata"].get("deletionTimestamp"):
        return TERMINATING
    return None


def pods_by_node(pods: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The pod that counts on each node: not a terminating one if there is another, else the youngest."""
    chosen: dict[str, Mapping[str, Any]] = {}
    order = sorted(
        pods,
        key=lambda pod: (
            not pod["metadata"].get("deletionTimestamp"),
            (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded"),
            pod["metadata"].get("creationTimestamp") or "",
        ),
    )
    for pod in order:
        name = pod_node(pod)
        if name:
            chosen[name] = pod
    return chosen


def read_time(text: str | None) -> datetime | None:
    """A time of the API, which is UTC where it names no zone; None for what is no time."""
    try:
        read = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None
    return read if read is None or read.tzinfo else read.replace(tzinfo=timezone.utc)


def _compared(
    row: Row,
    digests: Sequence[str] | None,
    pod: Mapping[str, Any] | None,
    node: Mapping[str, Any] | None,
    now: datetime,
) -> Row:
    """An image is there only if it is the locked one; where nobody has told which it is, that is waited for."""
    if not digests or row.state != "cached":
        return row
    told = [row.digest] if row.digest and row.digest in digests else digests_of(row, node)
    if found := next((digest for digest in told if digest in digests), None):
        return row._replace(digest=found)
    if told:
        message = f"the node has {' and '.join(told)}, and the lock {digests[0]}"
        return row._replace(state="failed", class_=OTHER_DIGEST, held=False, reason="OtherDigest", message=message)
    if row.settled and _stays_untold(row, pod or {}, node, now):
        return row._replace(reason=row.reason or NOT_COMPARED, message=row.message or _NOT_COMPARED)
    message = "the node has not told yet which image it has under this name, and the lock asks for one"
    return row._replace(state="waiting", held=False, reason=UNTOLD, message=message)


def _stays_untold(row: Row, pod: Mapping[str, Any], node: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether nobody will tell the image's digest: its container's status came without, and so did the node's list.

    Kubelets list their largest images only (50), and of an image volume most of them tell it nowhere else.
    """
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    if node is None and any(c.get("name") == row.name and "running" in (c.get("state") or {}) for c in statuses):
        return True
    since = read_time(row.since or (pod.get("metadata") or {}).get("creationTimestamp"))
    return since is not None and (now - since).total_seconds() > LISTED


def _not_applicable(rows: Sequence[Row], excused: Mapping[str, str]) -> tuple[Row, ...]:
    """An image that lacks a platform for some nodes does not apply there; one that lacks it for all has failed."""
    if all(row.class_ != "no_platform" for row in rows):
        return tuple(rows)
    others = {row.name for row in rows if row.class_ != "no_platform" and row.node not in excused}
    return tuple(
        row._replace(state="not_applicable") if row.class_ == "no_platform" and row.name in others else row
        for row in rows
    )


def _named_unable(
    rows: Sequence[Row], daemonset: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]
) -> tuple[Row, ...]:
    """Nodes that can't mount what holds the images: nothing is held there, and the node is what is to blame."""
    if strategy_of(daemonset["spec"]["template"]["spec"]) != IMAGE_VOLUME or not (old := unable(nodes)):
        return tuple(rows)
    return tuple(
        row._replace(state="failed", class_="runtime", reason=NO_IMAGE_VOLUMES, message=_TOO_OLD.format(old[row.node]))
        if row.node in old and not row.held
        else row
        for row in rows
    )


# --- the verdict -----------------------------------------------------------------------------------------------------


def _last_progress(daemonset: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], told: Events) -> datetime:
    """When something last arrived, began to be held or was changed: what starts the clock of the grace anew.

    Containers that started once count, those that are started again and again don't.
    """
    moments = [daemonset["metadata"].get("creationTimestamp"), _changed(daemonset), told.arrived]
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            if not container.get("restartCount"):
                moments.append(((container.get("state") or {}).get("running") or {}).get("startedAt"))
    # RFC 3339 in UTC sorts as text, so that only the last is read.
    last = read_time(max((moment for moment in moments if moment), default=None))
    return last or datetime.min.replace(tzinfo=timezone.utc)


def _changed(daemonset: Mapping[str, Any]) -> str | None:
    """When the DaemonSet's spec was applied last; its status is written all the time."""
    times = [
        entry.get("time")
        for entry in daemonset["metadata"].get("managedFields") or ()
        if entry.get("manager") == MANAGER and not entry.get("subresource")
    ]
    return max((time for time in times if time), default=None)


def _verdict(
    daemonset: Mapping[str, Any], report: Report, failed_create: str | None, quiet: float, grace: Grace
) -> tuple[str, tuple[str, ...]]:
    """:param quiet: seconds since the last progress."""
    status = daemonset.get("status") or {}
    generation = daemonset["metadata"].get("generation", 0)
    observed = status.get("observedGeneration", 0) >= generation
    if daemonset["metadata"].get("deletionTimestamp"):
        return "Progressing", ("the DaemonSet is being deleted",)
    if not observed and quiet > max(grace.new_node, 1.0):
        return "Degraded", (
            f"the DaemonSet controller has not seen generation {generation} for {_duration(quiet)}. Nothing that is "
            "done to the DaemonSet mends that. Remedy: look at kube-controller-manager",
        )
    if report.inferred and not observed:
        return "Progressing", ("the DaemonSet controller has not seen the DaemonSet yet",)
    if not report.expected:
        reasons = ["no node matches the node selector, affinity and tolerations"]
        reasons += [f"node {name} is skipped: {why}" for name, why in list(report.skipped.items())[:5]]
        return "NoMatchingNodes", tuple(reasons)
    if not report.counted and not report.inferred:
        why = ", ".join(sorted(set(report.excused.values())))
        return "Progressing", (f"none of the nodes that match counts now ({_nodes(len(report.nodes))}: {why})",)
    failed = [row for row in report.counted if row.state == "failed"]
    if failed:
        return "Degraded", tuple(failure_sentences(failed))
    missing = max(0, report.expected - len(report.nodes)) if report.inferred else 0
    to_come = _to_come(report.counted, missing)
    if failed_create and (missing or any(row.reason == NO_POD for row in report.counted)):
        return "Degraded", (f"pods can't be created: {failed_create}",)
    if to_come and quiet > grace.progress:
        return "Degraded", (f"nothing has moved for {_duration(quiet)}", *to_come)
    if not observed:
        to_come = ("the DaemonSet controller has not seen the last change yet", *to_come)
    return ("Progressing", to_come) if to_come else ("Healthy", _healthy_but(report.counted))


def _to_come(rows: Iterable[Row], missing: int) -> tuple[str, ...]:
    """What has to arrive, or to be held, before the set is healthy."""
    reasons = []
    pending = [row for row in rows if row.state in ("waiting", "pulling")]
    if pending:
        reasons.append(f"{_are(pending)} still to come on {_nodes_of(pending)}{_said(pending)}")
    # On the node, and no container holds it yet; one that can't be created never will, and nothing mends that.
    unheld = [row for row in rows if row.state == "cached" and not row.settled]
    if unheld:
        reasons.append(f"{_are(unheld)} there and not held yet on {_nodes_of(unheld)}")
    if missing:
        reasons.append(f"{_nodes(missing)} without a pod yet")
    return tuple(reasons)


def _healthy_but(rows: Iterable[Row]) -> tuple[str, ...]:
    """What is worth saying of a set all of whose images are there."""
    notes = []
    released = [row for row in rows if row.state == "released"]
    if released:
        notes.append(f"the cache was given back on {_nodes_of(released)} under pressure")
    if unknown := [row for row in rows if row.reason == NOT_COMPARED]:
        notes.append(f"{_are(unknown)} cached on {_nodes_of(unknown)} and {_NOT_COMPARED}")
    idle = [row for row in rows if row.state == "cached" and row.reason and row.reason != NOT_COMPARED]
    if idle:
        why = ", ".join(sorted({str(row.reason) for row in idle})[:3])
        notes.append(f"{_are(idle)} cached although the container does not run on {_nodes_of(idle)} ({why})")
    return tuple(notes)


def _are(rows: Iterable[Row]) -> str:
    images = len({row.name for row in rows})
    return "1 image is" if images == 1 else f"{images} images are"


def _nodes_of(rows: Iterable[Row]) -> str:
    return _nodes(len({row.node for row in rows}))


def _said(rows: Sequence[Row]) -> str:
    """What the cluster says of the first that waits for more than its turn."""
    for row in rows:
        if row.message and row.reason not in (NO_POD, OLD_REVISION):
            return f" ({row.node}: {_shorten(row.message)})"
    return ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def failure_sentences(rows: Iterable[Row]) -> list[str]:
    """One sentence for each image and class: image, nodes, kubelet's words, remedy; as long for 1 node as for 3,000."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.name, row.image, row.class_ or "other"), []).append(row)
    sentences = []
    for (name, image, class_), found in groups.items():
        nodes = [row.node for row in found]
        said = " ".join((found[0].message or found[0].reason or "nothing").split())
        words = f"{said[:1].upper()}{said[1:]}" if class_ == OTHER_DIGEST else f"The kubelet says: {said}"
        sentences.append(
            f"{name} ({image}) failed on {_nodes(len(nodes))} ({some(nodes)}): {class_}. "
            f"{words.rstrip('.')}. Remedy: {REMEDIES[class_]}."
        )
    return sentences
