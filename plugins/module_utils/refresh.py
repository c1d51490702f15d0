# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing moved tags to the nodes, without restarting anything that need not be: what to do next. Pure.

A short-lived DaemonSet pulls exactly the moved tags with ``Always``, on a few nodes at a time, while the set's own pods
go on holding the old images. Where it holds the new ones, the set's pod is exchanged and finds them on the node. The
set's own template never changes: a template that is pinned by digest would hold another name than consumers use.

Nothing is remembered but what the short-lived DaemonSet carries, and which digests nodes report for one of a registry.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    build_daemonsets,
    is_current,
    revision,
    strategy_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import read_events
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import show_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    PERMANENT,
    TERMINATING,
    Report,
    Row,
    assess,
    pods_by_node,
    read_time,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import InvalidReference, parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    IMAGE_SET,
    MANAGED_BY,
    REFRESH,
    REFRESH_OF,
    SETTLED,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import (
    FAILED_PATIENCE,
    PATIENCE,
    PodRef,
    allowance,
    too_many,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    IMAGE_VOLUME,
    REFRESH_DIGEST,
    REFRESH_RESTART,
    CachedImage,
    Settings,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import LISTED

_BELIEVED = timedelta(days=1)  # How long another digest than the registry's is taken for the same.
_MOST_OTHERS = 8  # Digests that nodes report for one of the registry: there are not more platforms than that.
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Aim:
    """What the short-lived DaemonSet is for, as it carries it itself.

    ``images``: names in the list -> the registry's digest, empty where none was asked for; ``nodes`` on which it pulls
    now, ``since`` when; ``failed``: nodes that were given up.
    """

    images: Mapping[str, str]
    nodes: tuple[str, ...]
    since: datetime
    failed: tuple[str, ...] = ()

    @classmethod
    def read(cls, daemonset: Mapping[str, Any]) -> Aim | None:
        """What a DaemonSet carries; None where that can't be true."""
        try:
            told = json.loads((metadata(daemonset).get("annotations") or {})[REFRESH])
            nodes, failed = (_names(told[key]) for key in ("nodes", "failed"))
            images = {str(name): str(digest) for name, digest in told["images"].items()}
            since = read_time(told["since"])
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            return None
        return cls(images, nodes, since, failed) if since and images else None

    def annotation(self) -> str:
        """As text for the annotation."""
        told = {"images": dict(self.images), "nodes": self.nodes, "failed": self.failed, "since": show_time(self.since)}
        return json.dumps(told, sort_keys=True)


@dataclass(frozen=True)
class Settled:
    """Digests that nodes report right after they have pulled what the registry calls otherwise.

    An index that was changed for another platform is such a case, or a mirror that is behind. ``entries``: image ->
    (the registry's digest, those of nodes, since when). They are believed for a day.
    """

    entries: Mapping[str, tuple[str, frozenset[str], datetime]] = field(default_factory=dict)

    @classmethod
    def read(cls, config_map: Mapping[str, Any] | None, now: datetime) -> Settled:
        """What a set's ConfigMap carries; nothing where it can't be true."""
        text = (metadata(config_map or {}).get("annotations") or {}).get(SETTLED)
        try:
            told = json.loads(text or "{}")
            found = {
                str(image): (str(entry["digest"]), frozenset(_names(entry["nodes"])), read_time(entry["at"]))
                for image, entry in told.items()
            }
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            return cls()
        return cls(
            {
                image: (digest, others, at)
                for image, (digest, others, at) in found.items()
                if at and timedelta() <= now - at < _BELIEVED and len(others) <= _MOST_OTHERS
            }
        )

    def digests(self, image: str, digest: str) -> frozenset[str]:
        """All that may be reported where the registry says ``digest``."""
        told = self.entries.get(image)
        return frozenset((digest, *(told[1] if told and told[0] == digest else ())))

    def and_also(self, image: str, digest: str, other: str, now: datetime) -> Settled:
        """With one more."""
        others = (self.digests(image, digest) - {digest}) | {other}
        kept = frozenset(sorted(others)[:_MOST_OTHERS])
        return Settled({**self.entries, image: (digest, kept, now.replace(microsecond=0))})

    def annotation(self) -> str:
        """As text for the annotation."""
        told = {
            image: {"digest": digest, "nodes": sorted(others), "at": show_time(at)}
            for image, (digest, others, at) in self.entries.items()
        }
        return json.dumps(told, sort_keys=True)


@dataclass(frozen=True)
class Scene:
    """What is there: the set's DaemonSet and the short-lived one, the pods of each, and what their statuses tell.

    Of containers only their statuses count: events and the lists of nodes know a tag, and not which digest a pod holds.
    ``listed``: of image volumes no status tells the digest, and what the node's list says of the tag has to do.
    ``refused``: why pods of the short-lived one could not be created.
    """

    live: Mapping[str, Any]
    pods: Mapping[str, Mapping[str, Any]]
    report: Report
    refresher: Mapping[str, Any] | None = None
    pulling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pulled: Report = field(default_factory=lambda: Report("", ()))
    listed: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Wanted:
    """What tags stand for: ``digests`` of the registry, reference -> digest, and what nodes call them.

    ``asked``: when each was asked for last.
    ``restart``: everything is to be pulled anew, whatever the digests. ``blocked``: another change is under way.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, datetime] = field(default_factory=dict)
    settled: Settled = field(default_factory=Settled)
    restart: bool = False
    blocked: bool = False


@dataclass(frozen=True)
class Refresh:
    """The next step: none, apply (the short-lived DaemonSet for ``aim``), exchange (``pods``), settle, ask, or delete.

    ``given_up``: images that could not be pulled; they are left alone until the registry was asked again. ``ask``:
    images for which it is to be asked now, since what a node has just pulled is something else.
    """

    action: str = "none"
    reason: str = ""
    aim: Aim | None = None
    pods: tuple[PodRef, ...] = ()
    settled: Settled | None = None
    given_up: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    sentence: str = ""


def moving_images(settings: Settings) -> tuple[CachedImage, ...]:
    """The images whose reference may come to stand for another one: those without a digest."""
    return tuple(image for image in settings.images if _is_moving(image.image))


def refresher_name(daemonset_name: str) -> str:
    """How the short-lived DaemonSet is called; with its end it has room in a label, 63 characters."""
    return f"{daemonset_name[:55].rstrip('-.')}-refresh"


def build_refresher(settings: Settings, live: Mapping[str, Any], aim: Aim, *, openshift: bool) -> dict[str, Any]:
    """The short-lived DaemonSet: the set's own, but for few images, few nodes, and ``Always``.

    It belongs to the set's DaemonSet, and goes with it. It bears no label of a set, so that it is taken for none.
    """
    name = refresher_name(settings.daemonset_name)
    images = tuple(image for image in settings.images if image.name in aim.images)
    holder = live["spec"]["template"]["spec"]
    few = replace(
        settings,
        images=images,
        daemonset_name=name,
        daemonset_annotations={},
        strategy=strategy_of(holder),
        pod_resources="resources" in holder,
    )
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": live["metadata"]}
    (made,) = build_daemonsets(
        few, owners=[owner], openshift=openshift, rolled_by_controller=True, pull_policy="Always"
    )
    labels = {key: text for key, text in made["metadata"]["labels"].items() if key not in (MANAGED_BY, IMAGE_SET)}
    labels |= {_COMPONENT: "refresh", REFRESH_OF: settings.daemonset_name}
    made["metadata"] |= {"labels": labels, "annotations": {REFRESH: aim.annotation()}}
    template = made["spec"]["template"]
    own = {key: text for key, text in template["metadata"]["labels"].items() if key not in (MANAGED_BY, IMAGE_SET)}
    template["metadata"]["labels"] = {**own, _COMPONENT: "refresh"}
    required = template["spec"]["affinity"]["nodeAffinity"][_REQUIRED]
    # Terms are alternatives, and one names a single node at most: so each with each.
    named = [
        {**term, "matchFields": [*term.get("matchFields", ()), _by_name(node)]}
        for term in required["nodeSelectorTerms"]
        if term.get("matchExpressions") or term.get("matchFields")  # An empty term selects no node, and stays so.
        for node in aim.nodes
    ]
    required["nodeSelectorTerms"] = named or required["nodeSelectorTerms"]
    return made


def look_at_digests(
    settings: Settings,
    live: Mapping[str, Any],
    refresher: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]] | None,
    now: datetime,
    *,
    events: Sequence[Mapping[str, Any]] = (),
) -> Scene:
    """What the statuses of the pods of both DaemonSets tell.

    :param nodes: all nodes, None where they may not be read.
    :param events: of the short-lived DaemonSet.
    """
    listed = strategy_of(live["spec"]["template"]["spec"]) == IMAGE_VOLUME
    bare = nodes if nodes is None or listed else [_without_images(node) for node in nodes]
    own = _pods_of(live, pods)
    scene = Scene(live, pods_by_node(own), assess(settings.images, live, own, bare, now=now), listed=listed)
    if refresher is None:
        return scene
    aim = Aim.read(refresher)
    images = [image for image in settings.images if aim and image.name in aim.images]
    pulling = _pods_of(refresher, pods)
    pulled = assess(images, refresher, pulling, bare, now=now)
    refused = read_events(events).failed_create or ""
    return replace(scene, refresher=refresher, pulling=pods_by_node(pulling), pulled=pulled, refused=refused)


def next_refresh(scene: Scene, settings: Settings, wanted: Wanted, now: datetime, *, openshift: bool) -> Refresh:
    """What to do next; the same for a controller that starts in the middle.

    At most ``max_unavailable`` nodes at a time, one first; no pod is exchanged before its node holds the new images.
    """
    refresher = scene.refresher
    if settings.refresh not in (REFRESH_DIGEST, REFRESH_RESTART):
        return Refresh("delete", "tags are not refreshed any more") if refresher else Refresh()
    if refresher is None:
        aim = Aim(dict.fromkeys((image.name for image in moving_images(settings)), ""), (), now)
        round_ = _Round(scene, settings, wanted, aim, now)
        return Refresh() if wanted.blocked else round_.begin()
    if metadata(refresher).get("deletionTimestamp"):
        return Refresh()
    carried = Aim.read(refresher)
    if carried is None:
        return Refresh("delete", "what it is for can't be read")
    references = {image.name: image.image for image in moving_images(settings)}
    if not carried.images.keys() <= references.keys():
        return Refresh("delete", "the list of images has changed")
    # A registry that does not answer any more leaves what was begun as it was.
    begun = {references[name]: digest for name, digest in carried.images.items() if digest}
    wanted = replace(wanted, digests={**begun, **wanted.digests})
    round_ = _Round(scene, settings, wanted, carried, now)
    if scene.listed and not wanted.blocked:  # Before anything else: nobody could tell later what these pods hold.
        if exchange := round_.exchange():
            return exchange
        if round_.is_behind:
            return Refresh(sentence=round_.sentence)
    if any(wanted.digests.get(references[name], digest) != digest for name, digest in carried.images.items()):
        return Refresh("delete", "a tag was moved again")
    desired = build_refresher(settings, scene.live, carried, openshift=openshift)
    if revision(desired["spec"]["template"]) != revision(refresher["spec"]["template"]):
        return Refresh("delete", "the settings have changed")
    return Refresh(sentence=round_.sentence) if wanted.blocked else round_.go_on()


class _Round:
    """One refresh from its first node to its last, as it is seen at one moment."""

    def __init__(self, scene: Scene, settings: Settings, wanted: Wanted, aim: Aim, now: datetime) -> None:
        self.scene, self.settings, self.wanted, self.aim, self.now = scene, settings, wanted, aim, now
        self.restarts = settings.refresh == REFRESH_RESTART
        self.began = _made_at(scene.refresher) if scene.refresher else None
        excused = scene.report.excused
        self.nodes = [node for node in scene.report.nodes if excused.get(node) in (None, TERMINATING)]
        self.held = _by_node(scene.report, self.nodes)
        self.pulled = _by_node(scene.pulled, scene.pulled.nodes)
        self.stale = [node for node in self.nodes if self._is_stale(node)]

    def begin(self) -> Refresh:
        """The canary, or as many nodes as may go at once where others have the new images already."""
        if not self.stale:
            return Refresh()
        images = dict(self.aim.images)
        if not self.restarts:
            moved = [row for node in self.stale for row in self._moved(node)]
            images = {row.name: self.wanted.digests[row.image] for row in moved}
        aim = replace(self.aim, images=images)
        first = self._next(aim, ())
        return Refresh("apply", self._reason(images), replace(aim, nodes=first)) if first else Refresh()

    def go_on(self) -> Refresh:
        """The next step of what has begun."""
        if exchange := self.exchange():
            return exchange
        fates = {node: self._fate(node) for node in self.aim.nodes}
        if settling := self._settle([node for node, fate in fates.items() if fate == "done"]):
            return replace(settling, sentence=self.sentence)
        failed = (*self.aim.failed, *(node for node, fate in fates.items() if fate == "failed"))
        reached = len(self.nodes) - len(self.stale)
        given_up = tuple(image.image for image in self.settings.images if image.name in self.aim.images)
        if too_many(failed, reached):
            return Refresh("delete", self._why(failed), given_up=given_up)
        pulling = tuple(node for node, fate in fates.items() if fate == "pulling")
        aim = replace(self.aim, failed=failed)
        nodes = (*pulling, *self._next(aim, pulling))
        if not nodes:
            reason = self._why(failed) if failed else "every node has the images that the tags stand for"
            return Refresh("delete", reason, given_up=given_up if failed else ())
        if nodes == self.aim.nodes and failed == self.aim.failed:
            return Refresh(sentence=self.sentence)
        return Refresh("apply", self.sentence, replace(aim, nodes=nodes, since=self.now), sentence=self.sentence)

    def exchange(self) -> Refresh | None:
        """The pods whose nodes have the new images, if there are such."""
        ready = [node for node in self.aim.nodes if self._fate(node) == "ready"]
        pods = [self.scene.pods[node]["metadata"] for node in ready]
        refs = tuple(PodRef(pod["name"], pod["uid"], node) for pod, node in zip(pods, ready, strict=True))
        return Refresh("exchange", self.sentence, pods=refs, sentence=self.sentence) if refs else None

    @property
    def is_behind(self) -> bool:
        """Whether some node has pulled, and its list does not tell yet what."""
        rows = [
            row for node in self.aim.nodes for row in self.pulled.get(node, {}).values() if row.name in self.aim.images
        ]
        return any(row.held and row.digest and self._is_early(row) for row in rows)

    @property
    def sentence(self) -> str:
        """How far it is."""
        done, all_ = len(self.nodes) - len(self.stale), len(self.nodes)
        return f"{self._reason(self.aim.images)}; the new images have reached {done} of {all_} nodes"

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _is_stale(self, node: str) -> bool:
        if not self.restarts:
            return bool(self._moved(node))
        pod = self.scene.pods.get(node)
        made = _made_at(pod) if pod else None
        if self.began is None:
            return self.wanted.restart and made is not None
        return made is not None and made < self.began

    def _moved(self, node: str) -> list[Row]:
        """What the node holds and the tag does not stand for any more; what is not known is not moved."""
        return [
            row
            for row in self.held[node].values()
            if row.held and row.name in self.aim.images and row.digest and self._is_other(row)
            if not self._is_behind(row)
        ]

    def _is_other(self, row: Row) -> bool:
        digest = self.wanted.digests.get(row.image)
        return digest is not None and row.digest not in self.wanted.settled.digests(row.image, digest)

    def _next(self, aim: Aim, busy: tuple[str, ...]) -> tuple[str, ...]:
        """The nodes to go to now, those that are best off first."""
        waiting = [node for node in self.stale if node not in aim.nodes and node not in aim.failed]
        without = [node for node in self.nodes if node not in busy and not self._has_pod(node)]
        known = self.restarts and self.began is None
        canary = known or not any(self._has_new(node, aim) for node in self.nodes)
        most = 1 if canary else allowance(self.settings.max_unavailable, len(self.nodes))
        order = sorted(
            (node for node in waiting if self._has_pod(node)),
            key=lambda node: (-sum(row.held for row in self.held[node].values()), node),
        )
        return tuple(order[: max(0, most - len(busy) - len(without))])

    def _has_pod(self, node: str) -> bool:
        pod = self.scene.pods.get(node)
        return pod is not None and not metadata(pod).get("deletionTimestamp") and is_current(self.scene.live, pod)

    def _has_new(self, node: str, aim: Aim) -> bool:
        """Whether the node proves that the new images can be had and held."""
        rows = [self.held[node][name] for name in aim.images if name in self.held[node]]
        return node not in self.stale and bool(rows) and all(row.held and row.digest for row in rows)

    def _fate(self, node: str) -> str:
        """gone (it does not count any more), failed, pulling, ready (to have its pod exchanged) or done."""
        if node not in self.held:
            return "gone"
        rows = [self.pulled.get(node, {}).get(name) for name in self.aim.images]
        late = (self.now - self.aim.since).total_seconds() > PATIENCE
        if late or any(row and self._has_failed(row, node) for row in rows):
            return "failed"
        there = [row for row in rows if row and row.held and row.digest and not self._is_early(row)]
        settled = sum(1 for row in rows if row and row.state == "not_applicable") + len(there)
        if settled < len(rows) or not self._has_pod(node):
            return "pulling"
        held = self.held[node]
        old = any(held[row.name].digest not in (None, row.digest) for row in there)
        if old or (self.restarts and node in self.stale) or (self.scene.listed and self._is_older(node)):
            return "ready"
        return "done" if all(held[name].settled for name in self.aim.images) else "pulling"

    def _is_early(self, row: Row) -> bool:
        """Whether the node's list does not tell yet what was pulled there."""
        wanted = self.aim.images[row.name]
        other = bool(wanted) and row.digest not in self.wanted.settled.digests(row.image, wanted)
        return other and self._is_other(row) and self._is_behind(row)

    def _is_behind(self, row: Row) -> bool:
        return self.scene.listed and is_list_behind(row, self.now)

    def _is_older(self, node: str) -> bool:
        """Whether the node's pod was there before the short-lived one, and so holds what the tag stood for then."""
        made, began = _made_at(self.scene.pods[node]), _made_at(self.scene.pulling[node])
        return made is not None and began is not None and made <= began

    def _has_failed(self, row: Row, node: str) -> bool:
        if row.state != "failed":
            return False
        made = _made_at(self.scene.pulling[node])
        return row.class_ in PERMANENT or bool(made and (self.now - made).total_seconds() > FAILED_PATIENCE)

    # --- what is told ------------------------------------------------------------------------------------------------

    def _settle(self, done: Sequence[str]) -> Refresh | None:
        """Nodes that have just pulled a tag report another digest than the registry.

        If it says the same when it is asked after that, it is remembered that both are one.
        """
        settled, ask = self.wanted.settled, []
        for node in done:
            # Of the containers of a pod it may be known of one alone: of the last.
            starts = [since for row in self.pulled[node].values() if (since := read_time(row.since))]
            since = max(starts, default=None)
            for row in self._moved(node):
                pulled = self.pulled[node].get(row.name)
                if pulled is None or pulled.digest is None or pulled.digest != row.digest:
                    continue
                asked = self.wanted.asked.get(row.image)
                if since and asked and asked > since:
                    settled = settled.and_also(row.image, self.wanted.digests[row.image], pulled.digest, self.now)
                else:
                    ask.append(row.image)
        if settled != self.wanted.settled:
            return Refresh("settle", "nodes report another digest than the registry", settled=settled)
        return Refresh("ask", "nodes have pulled something else", ask=tuple(dict.fromkeys(ask))) if ask else None

    def _reason(self, names: Collection[str]) -> str:
        if self.restarts:
            return "all tags are pulled anew"
        moved = {row.name: row for node in self.stale for row in self._moved(node) if row.name in names}
        told = [
            f"{row.image} from {_short(row.digest)} to {_short(self.wanted.digests[row.image])}"
            for row in moved.values()
        ]
        tags = "a tag was moved" if len(names) == 1 else f"{len(names)} tags were moved"
        return f"{tags} in the registry" + (f" ({some(told)})" if told else "")

    def _why(self, failed: Sequence[str]) -> str:
        """Why a refresh is given up, for now."""
        there = [node for node in failed if node in self.scene.pulling]
        rows = [row for node in there for row in self.pulled.get(node, {}).values() if not row.held]
        rows.sort(key=lambda row: row.state != "failed")
        told = (row.message or (row.reason if row.state == "failed" else "") for row in rows)
        said = " ".join((next(filter(None, told), None) or self.scene.refused or "it took too long").split())[:300]
        nodes = "1 node" if len(failed) == 1 else f"{len(failed)} nodes"
        return (
            f"the images that tags stand for now can't be brought to {nodes} (first {failed[0]}: {said}). The old ones "
            "stay in use there, and it is tried again when the registry was asked again"
        )


def is_list_behind(row: Row, now: datetime) -> bool:
    """Whether the node's list of images may be older than the container that holds the image."""
    since = read_time(row.since)
    return since is not None and (now - since).total_seconds() < LISTED


def _by_node(report: Report, nodes: Sequence[str]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {node: {} for node in nodes}
    for row in report.rows:
        if row.node in found:
            found[row.node][row.name] = row
    return found


def _is_moving(image: str) -> bool:
    try:
        return not parse_reference(image).digest
    except InvalidReference:
        return False


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("no list of names")
    return tuple(value)


def _by_name(node: str) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": "In", "values": [node]}


def _pods_of(daemonset: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    uid = metadata(daemonset).get("uid")
    return [pod for pod in pods if any(owner["uid"] == uid for owner in metadata(pod).get("ownerReferences") or ())]


def _without_images(node: Mapping[str, Any]) -> dict[str, Any]:
    status = {key: value for key, value in (node.get("status") or {}).items() if key != "images"}
    return {**node, "status": status}


def _made_at(obj: Mapping[str, Any]) -> datetime | None:
    return read_time(metadata(obj).get("creationTimestamp"))


def _short(digest: str | None) -> str:
    return (digest or "?")[:19]
