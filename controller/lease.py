# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several operators works: the holder of a Lease, who renews it, and gives it back when it ends.

Whether another one's Lease has run out is told by the time since it last changed as seen from here, so that the clocks
of two nodes need not agree.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from controller.clock import Clock

log = logging.getLogger("image-puller")

_SECONDS = 15.0  # That a Lease lasts without being renewed.
_RENEW, _TRY = 5.0, 2.0
_ASK_AGAIN = 60.0  # Where a right is missing; its thread is taken for hung where it sleeps for longer.


class Lease:
    """The Lease of this name, held or not.

    :param turned: told when it is held, or no longer.
    :param failed: told of each error.
    :param beat: called at each try, to show that its thread moves.
    """

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        identity: str,
        turned: Callable[[], None],
        failed: Callable[[ApiError], None],
        beat: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._turned = turned
        self._failed = failed
        self._beat = beat
        self._held_until = float("-inf")
        self._seen = ("", float("-inf"))
        self._left = False

    @property
    def held(self) -> bool:
        """Whether this process is the one that works."""
        return self._clock.monotonic() < self._held_until

    def start(self) -> None:
        """Try for it from now on, in a thread of its own."""
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def release(self) -> None:
        """Give it back, so that nobody has to wait until it has run out; what goes wrong does not matter any more."""
        self._left = True
        if self.held:
            try:
                self._cluster.merge("Lease", self._name, self._namespace, {"spec": {"holderIdentity": ""}})
            except ApiError as error:
                log.info("the Lease was not given back: %s", error)

    def _run(self) -> None:
        """Without this thread nobody would work, and nothing else would show it: no error ends it."""
        while not self._left:
            self._beat()
            pause = _SECONDS
            try:
                pause = self._try()
            except Exception:
                log.exception("the Lease: unexpected error; trying again")
            self._clock.sleep(pause)

    def _try(self) -> float:
        """Take or renew it, and tell where that changes who works; seconds until the next try."""
        # It lasts from what was written, not from when the answer came: another one's patience began then.
        pause, before, began = _TRY, self.held, self._clock.monotonic()
        try:
            if self._take():
                self._held_until = began + _SECONDS
                pause = _RENEW
        except ApiError as error:
            self._failed(error)
            if error.forbidden:  # Two that work do the same; none that works does nothing.
                self._held_until = began + 2 * _ASK_AGAIN
                pause = _ASK_AGAIN
        if self.held != before:
            log.info("this operator %s", "works" if self.held else "stands by: another one holds the Lease")
            self._turned()
        return pause

    def _take(self) -> bool:
        """Take it where it is free, renew it where it is ours; whether it is ours now."""
        now = self._clock.monotonic()
        began = _time(self._clock.now())
        live = self._cluster.get("Lease", self._name, self._namespace)
        if live is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            spec = {**self._spec(), "acquireTime": began, "leaseTransitions": 0}
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            return self._written(lambda: self._cluster.create(made))
        version, spec = live["metadata"]["resourceVersion"], live.get("spec") or {}
        if version != self._seen[0]:
            self._seen = (version, now)
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and now - self._seen[1] < _SECONDS:
            return False
        patch = {"metadata": {"resourceVersion": version}, "spec": self._spec()}
        if holder != self._identity:
            patch["spec"] |= {"acquireTime": began, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return self._written(lambda: self._cluster.merge("Lease", self._name, self._namespace, patch))

    def _spec(self) -> dict[str, Any]:
        now = _time(self._clock.now())
        return {"holderIdentity": self._identity, "leaseDurationSeconds": int(_SECONDS), "renewTime": now}

    @staticmethod
    def _written(write: Callable[[], Mapping[str, Any]]) -> bool:
        """Whether nobody was faster."""
        try:
            write()
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
