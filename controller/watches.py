# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches of what the API has, each kept by a watch in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import UNTOLD, without
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.clock import Clock, jittered
from controller.slim import ToldEvents

log = logging.getLogger("image-puller")

Changed = Callable[[Object | None, Object | None], None]

PAGE = 20  # Objects: a pod of 20 images takes 17 kB of JSON, and five times as much while it is read.
_SECONDS = 240.0  # That a watch is asked to last.
_RETRY = (0.25, 30.0)  # First and longest pause after an error.
_SHORT = 1.0
_ASK_AGAIN = (10.0, 600.0)  # First and longest pause until a right that is missing is asked for again.
_POLL = 60.0  # Where objects may be listed and not be watched.


class Watch:
    """The objects of one kind in one namespace (or of the cluster), as they are now.

    Whatever ends a watch, what it told stays until a complete list has been read again.

    :param slim: what is kept of an object; None leaves it out.
    :param changed: told of each change, with what was kept before and what is kept now; called in the watch's thread.
    :param failed: told of each error.
    :param labels: the label selector; where its answer changes, the objects are listed anew.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        namespace: str | None,
        *,
        slim: Callable[[Mapping[str, Any]], Object | None],
        changed: Changed,
        failed: Callable[[ApiError], None],
        clock: Clock,
        labels: Callable[[], str] = lambda: "",
        fields: str = "",
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.denied: ApiError | None = None
        self._cluster = cluster
        self._slim = slim
        self._changed = changed
        self._failed = failed
        self._clock = clock
        self._labels = labels
        self._fields = fields
        self._objects: dict[str, Object] = {}
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._filled = False
        self._broken = False
        self._listed_with = ""
        self._failures = 0

    # --- what others ask ---------------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether it is known what there is, or that it may not be read."""
        return self._filled or self.denied is not None

    @property
    def complete(self) -> bool:
        """Whether this is all that there is, as far as anybody can know: the list was read, and its watch goes on."""
        return self._filled and not self._broken and self.denied is None

    def get(self, name: str) -> Object | None:
        """One object as it is kept; its name is ``namespace/name`` where all namespaces are watched."""
        return self._objects.get(name)

    def all(self) -> list[Object]:
        """All objects as they are kept."""
        with self._lock:
            return list(self._objects.values())

    def look_again(self) -> None:
        """List at once where the label selector has another answer; the watch itself follows with its next event."""
        if self._filled and self._labels() != self._listed_with:
            try:
                self._list()
            except ApiError as error:
                self._failed(error)

    # --- its thread --------------------------------------------------------------------------------------------------

    def start(self) -> Watch:
        """Begin; the watch itself."""
        threading.Thread(target=self._run, name=f"watch {self.kind}", daemon=True).start()
        return self

    def _run(self) -> None:
        version = labels = ""
        while True:
            try:
                if not version or self._labels() != labels:
                    version = self._list()
                    labels = self._listed_with
                version = self._follow(version, labels)
            except ApiError as error:
                version = self._after(error, version)
            except Exception as error:
                log.exception("watch of %ss: unexpected error", self.kind)
                version = self._after(ApiError(str(error)), "")

    def _after(self, error: ApiError, version: str) -> str:
        """Where to go on from after an error."""
        self._failed(error)
        if error.status == 410:  # The history that the version belongs to is gone.
            self._clock.sleep(jittered(_RETRY[0]))
            return ""
        if error.forbidden:
            self._may_not(error)
            return ""
        self._broken = True
        self._pause(*_RETRY)
        return version

    def _pause(self, first: float, longest: float) -> None:
        """Longer after each failure, up to the next success."""
        pause = min(longest, first * 2.0 ** min(self._failures, 20))
        self._failures += 1
        self._clock.sleep(jittered(pause, 0.25))

    def _may_not(self, error: ApiError) -> None:
        """Poll where only watching is forbidden, else ask again much later; without a right nothing is known."""
        if error.verb == "watch" and self._filled:
            self._broken = False
            self._clock.sleep(jittered(_POLL))
            return
        first = self.denied is None
        self.denied = error
        self._replace({})
        if first:
            self._failures = 0  # What failed before is no reason to ask for this later.
            self._changed(None, None)
        self._pause(*_ASK_AGAIN)

    def _list(self) -> str:
        """Read everything; the version to watch from."""
        with self._listing:  # Two threads may: the older answer must not come last.
            return self._read()

    def _read(self) -> str:
        self._listed_with = self._labels()
        found: dict[str, Object] = {}
        version = ""
        pages = self._cluster.pages(
            self.kind, self.namespace, labels=self._listed_with, fields=self._fields, limit=PAGE
        )
        for items, at in pages:
            version = at
            for item in items:
                kept = self._slim(item)
                if kept is not None:
                    found[self._key(item)] = kept
        before = self._objects
        self._replace(found)
        news = not self._filled or self._broken or self.denied is not None
        self.denied, self._filled, self._broken, self._failures = None, True, False, 0
        for name in before.keys() | found.keys():
            if before.get(name) != found.get(name):
                self._changed(before.get(name), found.get(name))
        if news:
            self._changed(None, None)
        return version

    def _follow(self, version: str, labels: str) -> str:
        """Take over what a watch tells until it ends; the version to go on from."""
        began = self._clock.monotonic()
        stream = self._cluster.watch(
            self.kind,
            self.namespace,
            version,
            labels=labels,
            fields=self._fields,
            seconds=round(jittered(_SECONDS)),
        )
        for type_, obj in stream:
            self._broken, self._failures = False, 0
            version = obj["metadata"].get("resourceVersion") or version
            if type_ != "BOOKMARK":
                self._take(type_, obj)
            if self._labels() != labels:
                return ""
        if self._clock.monotonic() - began < _SHORT:  # A server that ends each watch at once is not to be hammered.
            self._clock.sleep(jittered(_SHORT))
        return version

    def _take(self, type_: str, obj: Mapping[str, Any]) -> None:
        name = self._key(obj)
        kept = None if type_ == "DELETED" else self._slim(obj)
        before = self._objects.get(name)
        if kept == before:
            return
        with self._lock:
            if kept is None:
                self._objects.pop(name, None)
            else:
                self._objects[name] = kept
        self._changed(before, kept)

    def _key(self, obj: Mapping[str, Any]) -> str:
        data = obj["metadata"]
        all_namespaces = self.namespace is None and data.get("namespace")
        return f"{data['namespace']}/{data['name']}" if all_namespaces else str(data["name"])

    def _replace(self, objects: dict[str, Object]) -> None:
        with self._lock:
            self._objects = objects


# That a container was started, and is left alone for now, the statuses tell that a watch brings.
_TOLD_BY_STATUS = ("Created", "Started", "BackOff")


class EventWatch(Watch):
    """What the cluster tells, from now on, of pulls on nodes and of pods that can't be created."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        fields = without((*UNTOLD, *_TOLD_BY_STATUS))
        super().__init__(*arguments, slim=lambda event: None, fields=fields, **named)
        self.told = ToldEvents()

    def _read(self) -> str:
        """Nothing of the past: an hour of events of thousands of pods tells little that their statuses don't."""
        self._listed_with = self._labels()
        pages = self._cluster.pages(self.kind, self.namespace, fields=self._fields, limit=1)
        _items, version = next(pages)
        news = not self._filled or self.denied is not None
        self.denied, self._filled, self._broken, self._failures = None, True, False, 0
        if news:
            self._changed(None, None)
        return version

    def _take(self, type_: str, obj: Mapping[str, Any]) -> None:
        if type_ != "DELETED" and self.told.take(obj):
            self._changed(None, {"kind": "Event"})
