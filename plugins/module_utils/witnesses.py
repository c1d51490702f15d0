# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of each image on one node, joined from three witnesses, each of which has its blind spot. Pure.

Container statuses stand still until the kubelet's first pass through a pod has ended, that is until every image was
pulled or failed once. Events are dropped beyond a burst. A node's image list is late and short, so that it proves
presence and never absence. Where nobody told, the state is ``waiting`` and the reason says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    held_images,
    helper_images,
    is_current,
    strategy_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import Events, Pull
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import (
    AFTER_PULL,
    NOT_ITS_TURN,
    PULL_REASONS,
    classify,
    redact,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import InvalidReference, parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import IMAGE_VOLUME, CachedImage

# Reasons of our own for what waits: no pod, one of the former list, another image first, nobody told.
NO_POD, OLD_REVISION, BEHIND, UNTOLD = "NoPod", "OldRevision", "NotItsTurn", "Untold"
# And for what is cached: nobody will tell which image it is, of which a lock has one.
NOT_COMPARED = "NotCompared"
OURS = (NO_POD, OLD_REVISION, BEHIND, UNTOLD, NOT_COMPARED)
LISTED = 90.0  # Seconds after which a node's list of images is no older than its pods: a kubelet makes it in 40.
# What a container waits for before the kubelet has told anything of its image.
_STARTING = (None, "ContainerCreating", "PodInitializing")
# A bare ID, as an imported image has it, is that of the image's configuration.
_DIGEST = re.compile(r"(?<=@)[a-z0-9]+:[0-9a-f]{32,}$")


class Row(NamedTuple):
    """One image on one node, None where nobody told.

    ``held``: safe from the kubelet's garbage collection. ``since``: when the state began, in RFC 3339. ``size`` in
    bytes, as the runtime counts it. ``tries``: failed pulls that were told of.
    """

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
    tries: int = 0

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come: it is held, or never will be by what is there now."""
        if self.state == "cached":
            return self.held or self.reason in AFTER_PULL
        return self.state in ("failed", "not_applicable", "released")

    def as_dict(self) -> dict[str, Any]:
        """The row as the modules return it."""
        row = self._asdict()
        row["class"] = row.pop("class_")
        return row


def names_of(image: str) -> tuple[str, ...]:
    """The names under which a node may list the image."""
    try:
        return tuple(dict.fromkeys((image, str(parse_reference(image)))))
    except InvalidReference:
        return (image,)


def rows_of(
    images: Mapping[CachedImage, Sequence[str]],
    node: str,
    pod: Mapping[str, Any] | None,
    document: Mapping[str, Any] | None,
    daemonset: Mapping[str, Any],
    events: Events,
) -> list[Row]:
    """All rows of one node.

    :param images: each with ``names_of``.
    :param pod: the DaemonSet's pod that counts there, None where there is none.
    :param document: the node itself, None where it may not be read.
    """
    if pod is None:
        rows = [_without(image, node, NO_POD, "there is no pod on the node yet") for image in images]
        return _listed(images, rows, document)
    status: Mapping[str, Any] = pod.get("status") or {}
    if status.get("phase") == "Failed" and status.get("reason") in ("Evicted", "NodePressure"):
        reason, message = status["reason"], status.get("message")
        return [Row(node, i.name, i.image, "released", reason=reason, message=message) for i in images]
    witness = _Pod(node, pod, status, is_current(daemonset, pod), events)
    rows = _listed(images, [_redacted(witness.row(image)) for image in images], document)
    return witness.in_turn(rows) if any(row.reason == UNTOLD for row in rows) else rows


def _redacted(row: Row) -> Row:
    return row._replace(message=redact(row.message)) if row.message else row


def _without(image: CachedImage, node: str, reason: str, message: str) -> Row:
    return Row(node, image.name, image.image, "waiting", reason=reason, message=message)


class _Pod:
    """What tells of the images of one node's pod, looked up by name once."""

    def __init__(
        self, node: str, pod: Mapping[str, Any], status: Mapping[str, Any], current: bool, events: Events
    ) -> None:
        self.node = node
        self.status = status
        self.current = current
        self.uid: str = pod["metadata"].get("uid", "")
        self.events = events
        # Of a current pod each container is what it is called, whatever admission has made of its image.
        spec = pod.get("spec") or {}
        self.images = held_images(spec)
        self.helpers = helper_images(spec)
        self.mounts = strategy_of(spec) == IMAGE_VOLUME
        self.containers = {c.get("name"): c for c in status.get("containerStatuses") or ()}

    def row(self, image: CachedImage) -> Row:
        """The row as container status and events tell it."""
        found = self.images.get(image.name)
        if found is None or (found != image.image and not self.current):
            return _without(image, self.node, OLD_REVISION, "the node still has a pod of the former list")
        told = self.events.pulls.get((self.uid, found))
        container = self.containers.get(image.name)
        if container is None:
            return self._untold_by_status(image, told, {})
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        reason = waiting.get("reason")
        if reason in PULL_REASONS and self._is_of_helper(found, waiting.get("message") or ""):
            return self._untold_by_status(image, told, waiting)
        if reason in PULL_REASONS:  # Before imageID: that may be of a dead container whose image is gone.
            return self._failed(image, reason, waiting.get("message") or "", told)
        if container.get("imageID") or "running" in state:
            return self._held(image, container, state, told)
        return self._untold_by_status(image, told, waiting)

    def _held(
        self, image: CachedImage, container: Mapping[str, Any], state: Mapping[str, Any], told: Pull | None
    ) -> Row:
        started = (state.get("running") or {}).get("startedAt")
        reason, message = _trouble(container, state) if "running" not in state else (None, None)
        # A container that mounts the image is there only where the mount succeeded; its own image is the helper.
        digest = _mounted_digest(container) if self.mounts else _digest(container.get("imageID") or "")
        if told and told.state == "cached":
            since, seconds, size = told.since or started, told.seconds, told.size
        else:
            since, seconds, size = started, None, None
        return Row(
            self.node, image.name, image.image, "cached", None, True, reason, message, digest, since, seconds, size
        )

    def _untold_by_status(self, image: CachedImage, told: Pull | None, waiting: Mapping[str, Any]) -> Row:
        """While the status stands still the events tell."""
        reason, message = waiting.get("reason"), waiting.get("message")
        place = (self.node, image.name, image.image)
        if reason in AFTER_PULL:
            return Row(*place, "cached", reason=reason, message=message, **_arrival(told))
        if self.mounts and (helper := self._helper_failure()):  # It comes after the images, and nothing holds them.
            return self._failed(image, *helper, None)
        if told and told.state == "cached":
            return Row(*place, "cached", held=(self.uid, image.name) in self.events.started, **_arrival(told))
        if told and told.state == "failed":
            return self._failed(image, "ErrImagePull", told.message, told)
        if helper := self._helper_failure():
            return self._failed(image, *helper, None)
        if told and not self.events.is_silent(self.uid):
            return Row(*place, "pulling", since=told.since, tries=told.tries)
        if reason not in _STARTING:  # Something that no kubelet has said before: better shown than waited for.
            return self._failed(image, str(reason), message or "", None)
        if trouble := self._trouble():
            reason, message = trouble
        return Row(*place, "waiting", reason=UNTOLD if reason in _STARTING else reason, message=message or None)

    def _trouble(self) -> tuple[Any, Any] | None:
        """Why the pod as a whole does not start."""
        for condition in self.status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return condition.get("reason"), condition.get("message")
        if self.status.get("reason"):
            return self.status["reason"], self.status.get("message")
        return self.events.troubles.get(self.uid)

    def _failed(self, image: CachedImage, reason: str, message: str, told: Pull | None) -> Row:
        place = (self.node, image.name, image.image)
        if NOT_ITS_TURN in message:
            if told is None or not told.is_answered:
                return Row(*place, "waiting", reason=reason, message=message)
            message = told.message  # The answer to a former try still stands.
        class_, since, tries = classify(reason, message), None, 0
        if told and told.state == "failed":
            since, tries = told.since, told.tries
            # A back-off of an older kubelet says only that it waits; the event before it says why.
            if class_ == "other":
                class_, message = classify(reason, told.message), told.message or message
        return Row(*place, "failed", class_, reason=reason, message=message, since=since, tries=tries)

    def in_turn(self, rows: Sequence[Row]) -> list[Row]:
        """What is said of images of which nobody told: a kubelet pulls the images of a pod one after another."""
        pulling = next((row.name for row in rows if row.state == "pulling"), None) or self._helper_in_pull()
        told = {row.name for row in rows if row.state in ("cached", "failed")}
        first = next((name for name in self.images if name not in told), None)
        if pulling:
            reason, message = BEHIND, f"{pulling} is being pulled first"
        elif told and first:
            reason = UNTOLD
            message = (
                f"nobody has told yet: the kubelet does once it has tried all, and {first} is the next in its order"
            )
        else:
            return list(rows)
        return [row._replace(reason=reason, message=message) if row.reason == UNTOLD else row for row in rows]

    def _helper_failure(self) -> tuple[str, str] | None:
        """Why what holds the images does not come itself."""
        for container in self.status.get("containerStatuses" if self.mounts else "initContainerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason, message = waiting.get("reason"), waiting.get("message") or ""
            if self._is_of_helper(None, message) if self.mounts else reason in PULL_REASONS + AFTER_PULL:
                helper = self.helpers[0] if self.mounts else container.get("image")
                return str(reason), f"helper image {helper}: {message}"
        return None

    def _is_of_helper(self, held: Any, message: str) -> bool:
        """Whether what can't be pulled is the container's own image, the helper, and not the one that it mounts."""
        return self.mounts and any(_is_about(str(helper), message) for helper in self.helpers if helper != held)

    def _helper_in_pull(self) -> str | None:
        for image in self.helpers:
            told = self.events.pulls.get((self.uid, image))
            if told and told.state == "pulling" and not self.events.is_silent(self.uid):
                return f"the helper image {image}"
        return None


def _arrival(told: Pull | None) -> dict[str, Any]:
    if told is None or told.state != "cached":
        return {}
    return {"since": told.since, "pull_seconds": told.seconds, "size": told.size}


def _trouble(container: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Why a container does not run although its image is there."""
    waiting = state.get("waiting")
    ended = state.get("terminated") or ((container.get("lastState") or {}).get("terminated") if waiting else None)
    ended = ended or {}
    told = {**ended, **(waiting or {})}
    # The back-off is the same whatever ended; too little memory is worth its own word.
    reason = "OOMKilled" if ended.get("reason") == "OOMKilled" else told.get("reason")
    return reason, told.get("message") or ended.get("message")


@functools.lru_cache(maxsize=1024)
def _is_about(image: str, message: str) -> bool:
    """Whether a message on a pull names the image: as it is written in quotes, or as the runtime writes it."""
    written, *whole = (re.escape(name) for name in names_of(image))
    return bool(re.search(rf'"{written}"|(?<![\w./-]){(whole or [written])[0]}(?![\w.-])', message))


def _mounted_digest(container: Mapping[str, Any]) -> str | None:
    """The digest of the image volume that a container mounts, where the kubelet tells (ImageVolumeWithDigest)."""
    for mount in container.get("volumeMounts") or ():
        if told := ((mount.get("volumeStatus") or {}).get("image") or {}).get("imageRef"):
            return _digest(told)
    return None


@functools.lru_cache(maxsize=1024)
def _digest(image_id: str) -> str | None:
    """``sha256:...`` of an imageID such as ``repo@sha256:...`` or ``docker-pullable://repo@sha256:...``."""
    match = _DIGEST.search(image_id)
    return match.group() if match else None


def _listed(
    images: Mapping[CachedImage, Sequence[str]], rows: list[Row], document: Mapping[str, Any] | None
) -> list[Row]:
    """The rows with what the node's own list of images adds: that an image is there, its size, its digest."""
    entries = ((document or {}).get("status") or {}).get("images") or ()
    if not entries or all(not _asks(row, entries) for row in rows):
        return rows
    listed = {name: entry for entry in entries for name in entry.get("names") or ()}
    return [_with(row, _entry(listed, names)) for row, names in zip(rows, images.values(), strict=True)]


def _asks(row: Row, entries: Sequence[Mapping[str, Any]]) -> bool:
    if row.state in ("waiting", "pulling"):
        return True
    return row.state == "cached" and (row.digest is None or (row.size is None and bool(entries[0].get("sizeBytes"))))


def _entry(listed: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> Mapping[str, Any] | None:
    return next((listed[name] for name in names if name in listed), None)


def _with(row: Row, entry: Mapping[str, Any] | None) -> Row:
    if entry is None or row.state not in ("waiting", "pulling", "cached"):
        return row
    digests = _digests(entry)
    digest = row.digest or (digests[0] if len(digests) == 1 else None)
    size = row.size if row.size is not None else entry.get("sizeBytes")
    if row.state == "cached":
        return row._replace(digest=digest, size=size)
    reason = row.reason if row.reason in (NO_POD, OLD_REVISION) else None
    return Row(row.node, row.name, row.image, "cached", reason=reason, digest=digest, size=size)


def digests_of(row: Row, document: Mapping[str, Any] | None) -> list[str]:
    """The digests of what a node has: none where nobody told, several where they are the same to it.

    A container's status has one of them only; the node's list has all.
    """
    entries = ((document or {}).get("status") or {}).get("images") or ()
    if row.digest:
        return next((found for entry in entries if row.digest in (found := _digests(entry))), [row.digest])
    names = set(names_of(row.image))
    return next((_digests(entry) for entry in entries if not names.isdisjoint(entry.get("names") or ())), [])


def _digests(entry: Mapping[str, Any]) -> list[str]:
    return sorted({digest for name in entry.get("names") or () if (digest := _digest(name))})
