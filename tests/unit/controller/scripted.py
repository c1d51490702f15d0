# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that a test turns, and an API server whose answers a test writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from controller.clock import Clock
from tests.unit.objects import served

BEGAN = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


class Hands(Clock):
    """Stands still until it is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.time - 1000.0)


class HttpError(Exception):
    """An answer of an API server as the client library raises it."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, ""
        self.body = json.dumps({"message": message})


FORBIDDEN = 'events is forbidden: User "x" cannot create resource "events" in API group ""'


@dataclass
class Server:
    """A connection whose ``answer`` gets method, path and body, and returns an object or raises; ``asked`` are all."""

    answer: Callable[[str, str, Any], dict[str, Any]]
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def request(self, method: str, path: str, body: Any = None, **_params: Any) -> Any:
        self.asked.append((method, path, body))
        return SimpleNamespace(data=json.dumps(self.answer(method, path, body)))


_COLLECTIONS = ("configmaps", "daemonsets", "events", "nodes", "pods")


@dataclass
class Store:
    """The ``answer`` of a server that keeps objects, by path: what is applied is there, and what is deleted is not.

    ``refusals``: with what a request is refused, by its method and the beginning of its path.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[tuple[str, str], HttpError] = field(default_factory=dict)

    def __call__(self, method: str, path: str, body: Any) -> dict[str, Any]:
        for (refused, beginning), error in self.refusals.items():
            if method == refused and path.startswith(beginning):
                raise error
        if method == "POST":  # A right that is asked for, or an Event.
            return {**body, "status": {"allowed": True}}
        if path.endswith(_COLLECTIONS):
            within, _slash, plural = path.rpartition("/")  # One namespace, or all.
            found = [o for at, o in self.objects.items() if at.startswith(f"{within}/") and at.split("/")[-2] == plural]
            return {"items": found, "metadata": {"resourceVersion": "1"}}
        if method == "PATCH" and isinstance(body, str) and "spec" in (wanted := json.loads(body)):
            self.put(path, served(wanted))
        if path not in self.objects:
            raise HttpError(404, f"{path} not found")
        return self.objects.pop(path) if method == "DELETE" else self.objects[path]

    def put(self, path: str, obj: dict[str, Any]) -> None:
        """As it is stored; an object keeps the uid that it had."""
        uid = self.objects[path]["metadata"]["uid"] if path in self.objects else str(next(self._uids))
        self.objects[path] = {**obj, "metadata": {**obj["metadata"], "uid": uid}}

    _uids: Iterator[int] = field(default_factory=itertools.count)
