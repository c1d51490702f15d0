# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a DaemonSet, its pods, the nodes and the kubelets' events to a state for each image on each node, and a verdict.

Pure: what was read goes in, a :class:`Report` comes out. Three witnesses tell of an image on a node, each with its
blind spot: container statuses stand still until the kubelet's first pass through a pod has ended, events are dropped
beyond a burst, and a node's image list is late and short, so that it proves presence and never absence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import is_current
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import InvalidReference, parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import MANAGER
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import (
    is_tainted_by_state,
    selects,
    toleration_for,
    untolerated,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage, Settings

STATES = ("cached", "pulling", "waiting", "failed", "not_applicable", "released")
VERDICTS = ("Absent", "Progressing", "Healthy", "Degraded", "NoMatchingNodes", "InvalidSettings")
# Why a node does not count.
GOING, NOT_READY = "the node is going away", "the node is not ready"
CORDONED, JUST_JOINED = "the node is cordoned and has no pod", "the node has just joined"
TERMINATING = "the pod is terminating"

# What the kubelet calls an image that it could not get.
_PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
    "SignatureValidationFailed",
)
# The image is on the node and the container still does not run: later steps of the kubelet, after the pull.
_AFTER_PULL = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff")
# Names in a message say nothing of the failure: an image may well be called "not-found" or "team/forbidden:429".
_NAMES = re.compile(r'\b(?:image|name|tag|repository) "[^"]*"|\S*/\S*')
# First match wins. The texts are those of containerd, CRI-O, registries and the kubelet.
_CLASSES = (
    ("invalid_name", r"invalidimagename|invalid reference format|couldn't parse image name"),
    ("no_platform", r"no match for platform|no matching manifest|no image found in (manifest|image index)"),
    ("no_space", r"no space left|disk quota exceeded"),
    ("rate_limit", r"toomanyrequests|too many requests|\b429\b|rate limit"),
    (
        "unauthorized",
        r"unauthorized|\b401\b|\b403\b|authorization failed|no basic auth|authentication required|forbidden"
        r"|(?<!permission )denied|errimageneverpull",
    ),
    ("unknown_host", r"no such host|server misbehaving|name resolution|dial tcp: lookup"),
    (
        "not_found",
        r"not found|\bnotfound\b|(manifest|name)[ _]unknown|not known to registry|repository .*does not exist",
    ),
    ("runtime", r"failed to (extract|unpack|apply)|unexpected media type|invalid tar|corrupt"),
    (
        "network",
        r"connection refused|connection reset|timed? ?out|timeout|deadline exceeded|no route to host|\beof\b"
        r"|network is unreachable|tls:|x509|http: server gave http|\b50[0-9]\b|unavailable",
    ),
    ("runtime", r"signature"),
)
# Nobody but a person can mend these; the others may pass.
PERMANENT = frozenset({"not_found", "unauthorized", "invalid_name", "no_platform"})
REMEDIES = {
    "not_found": "correct the tag or the repository, or push the image",
    "unauthorized": "name a pull secret that may read the image with image_pull_secrets; the secret must be in the "
    "puller's namespace",
    "unknown_host": "correct the registry's host name, or mend the nodes' name service",
    "network": "check that the nodes reach the registry",
    "rate_limit": "wait, use credentials, or a mirror",
    "no_space": "free space on the node's image file system, or cache fewer images there",
    "invalid_name": "correct the image reference",
    "no_platform": "choose an image for the nodes' architecture, or leave those nodes out with node_selector",
    "runtime": "look at the message and at the container runtime's log on the node",
    "other": "look at the message",
}
_GOING = ("ToBeDeletedByClusterAutoscaler", "DeletionCandidateOfClusterAutoscaler", "karpenter.sh/disrupted")
_NOT_ITS_TURN = "pull QPS exceeded"
# What a container waits for before the kubelet has told anything of its image.
_STARTING = ("ContainerCreating", "PodInitializing")


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


@dataclass(frozen=True, slots=True)
class Row:
    """One image on one node, None where nobody told; ``since`` in RFC 3339, ``size`` in bytes, ``held``: not for GC."""

    node: str
    name: str
    image: str
    state: str
    class_: str | None = None
    held: bool = False
    reason: str | None = None
    message: str | None = None
    digest: str | None = None
    since: str | None = None
    pull_seconds: float | None = None
    size: int | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come: it is held, or never will be by what is there now."""
        if self.state == "cached":
            return self.held or self.reason in _AFTER_PULL
        return self.state in ("failed", "not_applicable", "released")

    def as_dict(self) -> dict[str, Any]:
        """The row as the modules return it."""
        row = asdict(self)
        row["class"] = row.pop("class_")
        return row


@dataclass(frozen=True)
class Report:
    """The truth at one moment.

    ``excused`` and ``skipped`` map a node to why it does not count; ``daemonset`` is name, namespace and generation.
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

    @property
    def counted(self) -> tuple[Row, ...]:
        """The rows of the nodes that are not excused."""
        return tuple(row for row in self.rows if row.node not in self.excused)

    def is_ready(self, node: str) -> bool:
        """Whether the node's kubelet is known to be at work; not where nodes may not be read."""
        return not self.inferred and self.excused.get(node) in (None, TERMINATING)

    @property
    def summary(self) -> dict[str, int]:
        """Numbers of images and nodes, and of rows in each state."""
        return {
            "images": len(self.images),
            "nodes": len(self.nodes) - len(self.excused),
            "excused_nodes": len(self.excused),
            **_count(self.counted),
        }

    def as_dict(self) -> dict[str, Any]:
        """The shape that the modules return: always all keys."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "inferred": self.inferred,
            "summary": self.summary,
            "images": self._images(),
            "nodes": self._nodes(),
            "rows": [row.as_dict() for row in self.rows],
            "daemonset": dict(self.daemonset) if self.daemonset else None,
        }

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


def _image(image: CachedImage, rows: Sequence[Row]) -> dict[str, Any]:
    worst = next((row for row in rows if row.state == "failed"), None) or next(
        (row for row in rows if row.state != "cached" or row.reason), None
    )
    return {
        "name": image.name,
        "image": image.image,
        "nodes": len(rows),
        **_count(rows),
        "class": worst.class_ if worst else None,
        "reason": worst.reason if worst else None,
        "message": worst.message if worst else None,
    }


def _count(rows: Iterable[Row]) -> dict[str, int]:
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES}


def publish(report: Report) -> str:
    """The verdict and a bounded summary as JSON for an annotation: no times, so that it changes only with the truth."""
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
    }
    return json.dumps(told, sort_keys=True)


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def classify(reason: str, message: str) -> str:
    """The class of a failed pull, from the kubelet's reason and message; ``other`` for what was never seen."""
    text = _NAMES.sub(" ", f"{reason} {message}".lower())
    return next((name for name, pattern in _CLASSES if re.search(pattern, text)), "other")


def assess(
    images: Sequence[CachedImage],
    daemonset: Mapping[str, Any] | None,
    pods: Iterable[Mapping[str, Any]],
    nodes: Iterable[Mapping[str, Any]] | None,
    events: Iterable[Mapping[str, Any]] = (),
    *,
    now: datetime | None = None,
    grace: Grace = Grace(),
) -> Report:
    """Judge one image set.

    :param images: the images that are wanted.
    :param daemonset: the live DaemonSet, None where there is none.
    :param pods: the DaemonSet's pods.
    :param nodes: all nodes; None where they may not be read, then the pods and the DaemonSet's status tell of nodes.
    :param events: events of the pods and of the DaemonSet.
    :param now: the time to judge at.
    :param grace: how long things may take.
    """
    wanted = tuple(images)
    if daemonset is None:
        return Report("Absent", ("the DaemonSet does not exist",), images=wanted, inferred=nodes is None)
    now = now or datetime.now(timezone.utc)
    by_node = pods_by_node(pods)
    told = list(events)
    skipped: dict[str, str] = {}
    excused: dict[str, str] = {}
    documents: dict[str, Mapping[str, Any]] = {}
    if nodes is None:
        names = sorted(by_node)
    else:
        pod_spec = daemonset["spec"]["template"]["spec"]
        documents, skipped = _matching_nodes(pod_spec, nodes)
        names = sorted(documents)
        excuses = {name: _excuse(pod_spec, documents[name], by_node.get(name), daemonset, now, grace) for name in names}
        excused = {name: why for name, why in excuses.items() if why}
    pulls = _pull_events(told)
    made = tuple(
        row for name in names for row in _rows(wanted, name, by_node.get(name), documents.get(name), daemonset, pulls)
    )
    rows = _not_applicable(made, excused)
    data = daemonset["metadata"]
    named = {key: data.get(key) for key in ("name", "namespace", "generation")}
    report = Report("", (), rows, wanted, tuple(names), excused, skipped, nodes is None, named)
    quiet = (now - _last_progress(daemonset, by_node.values(), pulls)).total_seconds()
    verdict, reasons = _verdict(daemonset, report, _failed_create(told), quiet, grace)
    return replace(report, verdict=verdict, reasons=reasons)


def pull_failure(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Class and message of a container status whose image can't be pulled; None for any other."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    if reason not in _PULL_REASONS or _NOT_ITS_TURN in message:
        return None
    return classify(reason, message), message or reason


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


def _matching_nodes(
    pod_spec: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    matching, skipped = {}, {}
    for node in nodes:
        if not selects(pod_spec, node):
            continue
        name = node["metadata"]["name"]
        # Taints that pass with the node's state are an excuse for now; no toleration is the answer to them.
        taints = [t for t in untolerated(pod_spec, node) if not (is_tainted_by_state(t) or t.get("key") in _GOING)]
        if taints:
            skipped[name] = "taint; needed toleration: " + json.dumps([toleration_for(taint) for taint in taints])
        else:
            matching[name] = node
    return matching, skipped


def _excuse(
    pod_spec: Mapping[str, Any],
    node: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    daemonset: Mapping[str, Any],
    now: datetime,
    grace: Grace,
) -> str | None:
    spec = node.get("spec") or {}
    if node["metadata"].get("deletionTimestamp") or any(t.get("key") in _GOING for t in spec.get("taints") or ()):
        return GOING
    conditions = {c.get("type"): c.get("status") for c in (node.get("status") or {}).get("conditions") or ()}
    if conditions.get("Ready") != "True" or any(map(is_tainted_by_state, untolerated(pod_spec, node))):
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


# --- one image on one node -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pull:
    """The newest thing that a kubelet's events tell of one image of one pod."""

    state: str
    message: str = ""
    since: str | None = None
    seconds: float | None = None
    size: int | None = None


_PULLING = re.compile(r'^Pulling image "([^"]+)"')
# Kubelets before 1.30 tell no size, those before 1.27 only one duration.
_PULLED = re.compile(r'^Successfully pulled image "([^"]+)"(?: in ([0-9][0-9.hmsuµn]*))?(?:.*Image size: (\d+) bytes)?')
_PRESENT = re.compile(r'^Container image "([^"]+)" already present')
_FAILED = re.compile(r'^Failed to pull image "([^"]+)": (.*)', re.DOTALL)


def _pull_events(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], _Pull]:
    """(uid of the pod, image) -> what the kubelet said last of it."""
    order = sorted(events, key=_event_time)
    told: dict[tuple[str, str], _Pull] = {}
    for event in order:
        uid = (event.get("involvedObject") or {}).get("uid", "")
        message, since = event.get("message") or "", _event_time(event) or None
        if match := _PULLING.match(message):
            told[uid, match.group(1)] = _Pull("pulling", since=since)
        elif match := _PULLED.match(message):
            size = int(match.group(3)) if match.group(3) else None
            told[uid, match.group(1)] = _Pull("cached", "", since, go_seconds((match.group(2) or "").rstrip(".")), size)
        elif match := _PRESENT.match(message):
            key = (uid, match.group(1))
            told[key] = told[key] if key in told and told[key].state == "cached" else _Pull("cached", since=since)
        elif match := _FAILED.match(message):
            told[uid, match.group(1)] = _Pull("failed", match.group(2), since)
    return told


def _event_time(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def go_seconds(text: str) -> float | None:
    """Seconds of a Go duration such as ``1m2.5s`` or ``33ms``; None for anything else."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    parts = re.findall(r"([0-9]*\.?[0-9]+)(ms|us|µs|ns|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return round(sum(float(number) * units[unit] for number, unit in parts), 6)


def _rows(
    images: Sequence[CachedImage],
    node: str,
    pod: Mapping[str, Any] | None,
    document: Mapping[str, Any] | None,
    daemonset: Mapping[str, Any],
    pulls: Mapping[tuple[str, str], _Pull],
) -> list[Row]:
    """All rows of one node."""
    told = _OnNode(node, pod, pod is not None and is_current(daemonset, pod), pulls)
    rows = [_row(image, told) for image in images]
    if document is None or all(row.state not in ("waiting", "pulling") for row in rows):
        return rows
    listed = {name for entry in (document.get("status") or {}).get("images") or () for name in entry.get("names") or ()}
    return [
        Row(node, row.name, row.image, "cached", reason=row.reason, message="the node lists the image")
        if row.state in ("waiting", "pulling") and _lists(listed, row.image)
        else row
        for row in rows
    ]


class _OnNode:
    """What tells of one node's images, looked up by name once."""

    def __init__(
        self, node: str, pod: Mapping[str, Any] | None, current: bool, pulls: Mapping[tuple[str, str], _Pull]
    ) -> None:
        self.node = node
        self.pod = pod
        self.current = current
        self.status: Mapping[str, Any] = (pod or {}).get("status") or {}
        self.uid = (pod or {"metadata": {}})["metadata"].get("uid", "")
        self.pulls = pulls
        # Of a current pod each container is what it is called, whatever admission has made of its image.
        self.images = {c.get("name"): c.get("image") for c in ((pod or {}).get("spec") or {}).get("containers") or ()}
        self.containers = {c.get("name"): c for c in self.status.get("containerStatuses") or ()}

    def image_of(self, image: CachedImage) -> str | None:
        """The reference that the pod asks for in the place of this image; None where it is not of it."""
        found = self.images.get(image.name)
        return found if found == image.image or (found and self.current) else None

    def pull(self, reference: str) -> _Pull | None:
        return self.pulls.get((self.uid, reference))


def _row(image: CachedImage, on: _OnNode) -> Row:
    def row(state: str, **more: Any) -> Row:
        return Row(on.node, image.name, image.image, state, **more)

    if on.pod is None:
        return row("waiting", reason="NoPod", message="there is no pod on the node yet")
    status = on.status
    if status.get("phase") == "Failed" and status.get("reason") in ("Evicted", "NodePressure"):
        return row("released", reason=status["reason"], message=status.get("message"))
    reference = on.image_of(image)
    if reference is None:
        return row("waiting", reason="OldRevision", message="the node still has a pod of the former list")
    container = on.containers.get(image.name)
    told = on.pull(reference)
    pull = {"pull_seconds": told.seconds, "size": told.size} if told else {}
    state = (container or {}).get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason"), waiting.get("message")
    if reason in _PULL_REASONS:  # Before imageID: that may be of a dead container whose image is gone.
        return _failed(row, reason, message or "", told)
    if container and (container.get("imageID") or "running" in state):
        shown = _trouble(container, state)
        started = (state.get("running") or {}).get("startedAt")
        return row("cached", held=True, digest=_digest(container.get("imageID") or ""), since=started, **shown, **pull)
    if reason in _AFTER_PULL:
        return row("cached", reason=reason, message=message, **pull)
    if told and told.state == "cached":
        return row("cached", since=told.since, **pull)
    if told and told.state == "failed":
        return _failed(row, "ErrImagePull", told.message, told)
    helper = _helper_failure(status)
    if helper:
        return _failed(row, *helper, None)
    if told and told.state == "pulling":
        return row("pulling", since=told.since)
    if reason and reason not in _STARTING:  # Something that no kubelet has said before: better shown than waited for.
        return _failed(row, reason, message or "", None)
    unscheduled: Mapping[str, Any] = next((c for c in status.get("conditions") or () if _says_unscheduled(c)), {})
    told_of_pod = {"reason": reason or status.get("reason"), "message": message or status.get("message")}
    return row("waiting", **{key: unscheduled.get(key) or value for key, value in told_of_pod.items()})


def _says_unscheduled(condition: Mapping[str, Any]) -> bool:
    return condition.get("type") == "PodScheduled" and condition.get("status") == "False"


def _failed(row: Any, reason: str, message: str, told: _Pull | None) -> Row:
    if _NOT_ITS_TURN in message:
        result: Row = row("waiting", reason=reason, message=message)
        return result
    # A back-off of an older kubelet says only that it waits; the event before it says why.
    said = told.message if told and told.state == "failed" and classify(reason, message) == "other" else message
    failed: Row = row("failed", class_=classify(reason, said), reason=reason, message=said or message)
    return failed


def _trouble(container: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Why a container does not run although its image is there."""
    waiting = state.get("waiting")
    ended = state.get("terminated") or ((container.get("lastState") or {}).get("terminated") if waiting else None)
    if waiting or ended:
        told = {**(ended or {}), **(waiting or {})}
        return {"reason": told.get("reason"), "message": told.get("message") or (ended or {}).get("message")}
    return {}


def _helper_failure(status: Mapping[str, Any]) -> tuple[str, str] | None:
    for container in status.get("initContainerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULL_REASONS + _AFTER_PULL:
            return waiting["reason"], f"helper image {container.get('image')}: {waiting.get('message') or ''}"
    return None


def _digest(image_id: str) -> str | None:
    """``sha256:...`` of an imageID such as ``repo@sha256:...`` or ``docker-pullable://repo@sha256:...``."""
    match = re.search(r"[a-z0-9]+:[0-9a-f]{32,}$", image_id)
    return match.group() if match else None


def _lists(listed: Set[str], image: str) -> bool:
    if image in listed:
        return True
    try:
        return str(parse_reference(image)) in listed
    except InvalidReference:
        return False


def _not_applicable(rows: tuple[Row, ...], excused: Mapping[str, str]) -> tuple[Row, ...]:
    """An image that lacks a platform for some nodes does not apply there; one that lacks it for all has failed."""
    others = {row.name for row in rows if row.class_ != "no_platform" and row.node not in excused}
    return tuple(
        replace(row, state="not_applicable") if row.class_ == "no_platform" and row.name in others else row
        for row in rows
    )


# --- the verdict -----------------------------------------------------------------------------------------------------


def _failed_create(events: Iterable[Mapping[str, Any]]) -> str | None:
    """What the DaemonSet controller said last when it could not create pods: a quota, or admission."""
    said = [e for e in events if e.get("reason") == "FailedCreate"]
    return str(max(said, key=_event_time).get("message")) if said else None


def _last_progress(
    daemonset: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], pulls: Mapping[tuple[str, str], _Pull]
) -> datetime:
    """When something last arrived, began to be held or was changed: what starts the clock of the grace anew.

    Containers that started once count, those that are started again and again don't.
    """
    moments = [daemonset["metadata"].get("creationTimestamp"), _changed(daemonset)]
    moments += [pull.since for pull in pulls.values() if pull.state == "cached"]
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
    expected = status.get("desiredNumberScheduled", 0) if report.inferred else len(report.nodes)
    if not expected:
        reasons = ["no node matches the node selector, affinity and tolerations"]
        reasons += [f"node {name} is skipped: {why}" for name, why in list(report.skipped.items())[:5]]
        return "NoMatchingNodes", tuple(reasons)
    if not report.counted and not report.inferred:
        why = ", ".join(sorted(set(report.excused.values())))
        return "Progressing", (f"none of the nodes that match counts now ({_nodes(len(report.nodes))}: {why})",)
    failed = [row for row in report.counted if row.state == "failed"]
    if failed:
        return "Degraded", tuple(failure_sentences(failed))
    missing = max(0, expected - len(report.nodes)) if report.inferred else 0
    to_come = _to_come(report.counted, missing)
    if failed_create and (missing or any(row.reason == "NoPod" for row in report.counted)):
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
    idle = [row for row in rows if row.state == "cached" and row.reason]
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
        if row.message and row.reason not in ("NoPod", "OldRevision", *_STARTING):
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
        shown = ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
        sentences.append(
            f"{name} ({image}) failed on {_nodes(len(nodes))} ({shown}): {class_}. "
            f"The kubelet says: {said.rstrip('.')}. Remedy: {REMEDIES[class_]}."
        )
    return sentences
