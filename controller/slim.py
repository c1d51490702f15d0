# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller's caches keep of events and of objects; for pods and nodes see ``module_utils.slim``."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.events import COMBINED
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object

_PULL = re.compile(r'(?:Pulling image|Successfully pulled image|Container image|Failed to pull image) "([^"]+)"')
_PULLED = re.compile(r'Successfully pulled image "[^"]+"')


def slim_config_map(config_map: Mapping[str, Any]) -> Object:
    """How ConfigMaps are kept: whole, but for the server's bookkeeping."""
    metadata = {key: value for key, value in config_map["metadata"].items() if key != "managedFields"}
    return {**config_map, "kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}


def slim_daemonset(daemonset: Mapping[str, Any]) -> Object:
    """How DaemonSets are kept: whole, since any field of theirs may have drifted."""
    return {**daemonset, "kind": "DaemonSet", "apiVersion": "apps/v1"}


class ToldEvents:
    """What kubelets told of pulls, and the DaemonSet controller of pods that it can't create: the last of each.

    Written by one thread, read by another.
    """

    def __init__(self) -> None:
        self._pulls: dict[str, dict[str, tuple[str, str]]] = {}
        self._refused: dict[str, Object] = {}
        self._lock = threading.Lock()

    def take(self, event: Mapping[str, Any]) -> bool:
        """Keep what is needed of an event; whether anything is."""
        about, message = event.get("involvedObject") or {}, (event.get("message") or "").removeprefix(COMBINED)
        kind, uid = about.get("kind"), about.get("uid") or ""
        time = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
        if kind == "DaemonSet" and event.get("reason") == "FailedCreate":
            kept = {"involvedObject": {"uid": uid}, "reason": "FailedCreate", "message": message}
            with self._lock:
                self._refused = {**self._refused, uid: {**kept, "lastTimestamp": time, "metadata": {}}}
            return True
        match = _PULL.match(message) if kind == "Pod" else None
        if match is None:
            return False
        # How long a pull took makes each message another one, and is nothing that is judged.
        pulled = _PULLED.match(message)
        with self._lock:
            told = self._pulls.setdefault(uid, {})
            if time >= told.get(match.group(1), ("", ""))[1]:
                told[sys.intern(match.group(1))] = (sys.intern(pulled.group() if pulled else message), sys.intern(time))
        return True

    def of(self, daemonset: str, pods: Iterable[str]) -> list[Object]:
        """The events of a DaemonSet and of its pods, by their uids, as ``health.assess`` reads them."""
        with self._lock:
            found = [self._refused[daemonset]] if daemonset in self._refused else []
            found += [
                {"involvedObject": {"uid": uid}, "message": message, "lastTimestamp": time, "metadata": {}}
                for uid in pods
                for message, time in self._pulls.get(uid, {}).values()
            ]
        return found

    def forget_others(self, daemonsets: Iterable[str], pods: Iterable[str]) -> None:
        """Keep only what was told of these, by their uids."""
        with self._lock:
            self._refused = {uid: self._refused[uid] for uid in daemonsets if uid in self._refused}
            self._pulls = {uid: self._pulls[uid] for uid in pods if uid in self._pulls}
