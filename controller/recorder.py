# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes Events: few, aggregated, and never in the way of the work."""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from controller.clock import Clock
from controller.digest import Told

log = logging.getLogger("image-puller")

_COMPONENT = "image-puller"
_BURST, _REFILL = 25.0, 10.0  # Events at once, and seconds for each further one.
_WAITING = 200  # Sentences that wait to be sent; older ones give way.
_SAME = 600.0  # Seconds in which the same sentence is counted and not told anew.
_REMEMBERED = 200
_LONGEST = 1024  # Characters of a message that the API takes.
_REST = 600.0  # Seconds without another try where events may not be written.


class Recorder:
    """Sends what others tell; equal sentences about one object become one Event with a count.

    :param failed: told of each error.
    """

    def __init__(self, cluster: Cluster, clock: Clock, failed: Callable[[ApiError], None]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._failed = failed
        self._queue: deque[tuple[Callable[[], Mapping[str, Any]], Told]] = deque(maxlen=_WAITING)
        self._sent: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()
        self._tokens, self._filled_at = _BURST, clock.monotonic()
        self._resting_until = 0.0

    def tell(self, about: Callable[[], Mapping[str, Any]], told: Told) -> None:
        """Note one sentence about an object, which is asked for when ``flush`` sends it."""
        self._queue.append((about, told))

    def flush(self) -> None:
        """Send what waits, as far as the rate allows; after an error that one is lost, and the others wait on."""
        if self._clock.monotonic() < self._resting_until:
            self._queue.clear()
        while self._queue and self._take_token():
            about, told = self._queue.popleft()
            subject: Mapping[str, Any] | None = None
            try:
                subject = about()
                self._send(subject, told)
            except ApiError as error:
                self._failed(error)
                if error.forbidden and subject:  # The right to write Events, and not that to read their subject.
                    self._resting_until = self._clock.monotonic() + _REST
                    self._queue.clear()
                if error.transient:  # Each request may take a minute, and the loop has other work.
                    return

    def _take_token(self) -> bool:
        now = self._clock.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) / _REFILL)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _send(self, about: Mapping[str, Any], told: Told) -> None:
        now = self._clock.now()
        key = (about["metadata"].get("uid", ""), told.reason, told.message)
        before = self._sent.get(key)
        if before and self._clock.monotonic() - before["at"] < _SAME:
            patch = {"count": before["count"] + 1, "lastTimestamp": _time(now)}
            try:
                self._cluster.merge("Event", before["name"], before["namespace"], patch)
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                before["count"] += 1
                return
        event = _event(about, told, now)
        self._cluster.create(event)
        data = event["metadata"]
        self._sent[key] = {
            "name": data["name"],
            "namespace": data["namespace"],
            "count": 1,
            "at": self._clock.monotonic(),
        }
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)


def _event(about: Mapping[str, Any], told: Told, now: datetime) -> dict[str, Any]:
    data = about["metadata"]
    reference = {key: data[key] for key in ("namespace", "name", "uid") if data.get(key)}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{data['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": data["namespace"]},
        "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], **reference},
        "type": told.type,
        "reason": told.reason,
        "message": told.message if len(told.message) <= _LONGEST else told.message[: _LONGEST - 3] + "...",
        "count": 1,
        "firstTimestamp": _time(now),
        "lastTimestamp": _time(now),
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": "",
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
