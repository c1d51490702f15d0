# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that a test turns, and an API server whose answers a test writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from controller.clock import Clock

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
