# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop guard: how often one set's DaemonSet was made anew or put right, and how long to leave it alone now.

It is kept as an annotation of the set's ConfigMap, since the DaemonSet may be gone. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import GUARD, describe, metadata

# Seconds of the first pause, which doubles up to the longest; and how many patches for one template are free, since
# somebody who edits a DaemonSet by hand a few times is no loop.
_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0
_FREE = {"recreate": 0, "patch": 5}
_FORGET = 6 * 3600.0  # Seconds of peace after which all is forgotten.
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Tally:
    """How often an action was taken for one template, and when last."""

    count: int = 0
    last: datetime | None = None
    template: str = ""


@dataclass(frozen=True)
class Guard:
    """What was done about one set: ``recreate`` counts whatever the template, ``patch`` for one template."""

    recreate: Tally = Tally()
    patch: Tally = Tally()

    @classmethod
    def read(cls, config_map: Mapping[str, Any] | None, now: datetime) -> tuple[Guard, str]:
        """The guard that a ConfigMap carries, and a warning where what it carries can't be true and is ignored."""
        text = (metadata(config_map or {}).get("annotations") or {}).get(GUARD)
        if text is None:
            return cls(), ""
        try:
            told = json.loads(text)
            return cls(*(_tally(told.get(action, {}), now) for action in ("recreate", "patch"))), ""
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return cls(), f"the annotation {GUARD} of {describe(config_map or {})} can't be read and is ignored: {text}"

    def paused_until(self, action: str, now: datetime, template: str = "") -> datetime | None:
        """Until when ``recreate`` or ``patch`` has to wait; None where it need not."""
        tally = self._current(action, now, template)
        over = tally.count - _FREE[action]
        if tally.last is None or over < 1:
            return None
        until = tally.last + timedelta(seconds=min(_PAUSE * 2.0 ** min(over - 1, 30), _LONGEST_PAUSE))
        return until if until > now else None

    def after(self, action: str, now: datetime, template: str = "") -> Guard:
        """The guard once the action has been taken."""
        count = self._current(action, now, template).count + 1
        tally = Tally(count, now.replace(microsecond=0), template)
        return replace(self, **{action: tally})

    def because(self, action: str) -> str:
        """Why there is a pause."""
        tally: Tally = getattr(self, action)
        done = "recreated" if action == "recreate" else "put right"
        times = "once" if tally.count == 1 else f"{tally.count} times in a row"
        return f"it was {done} {times}, last at {show_time(tally.last)}"

    def annotation(self) -> str:
        """As text for the annotation."""
        told = {}
        for action, tally in (("recreate", self.recreate), ("patch", self.patch)):
            if tally.last is not None:
                told[action] = {"count": tally.count, "last": show_time(tally.last), "template": tally.template}
        return json.dumps(told, sort_keys=True)

    def worth_keeping(self, action: str) -> bool:
        """Whether the tally has to outlive the process: a patch or two need not cost a write of the ConfigMap."""
        tally: Tally = getattr(self, action)
        return tally.count >= _FREE[action]

    def _current(self, action: str, now: datetime, template: str) -> Tally:
        tally: Tally = getattr(self, action)
        other = action == "patch" and tally.template != template
        forgotten = tally.last is not None and (now - tally.last).total_seconds() > _FORGET
        return Tally() if other or forgotten else tally


UNTOUCHED = Guard()


def _tally(told: Mapping[str, Any], now: datetime) -> Tally:
    if not told:
        return Tally()
    count, last = told["count"], datetime.fromisoformat(str(told["last"]).replace("Z", "+00:00"))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or last.tzinfo is None:
        raise ValueError("no count of a time")
    if last > now + _CLOCKS_DIFFER:
        raise ValueError("a time that has not come yet")
    return Tally(count, last, str(told.get("template", "")))


def show_time(moment: datetime | None) -> str:
    """RFC 3339 in UTC, to the second, as Kubernetes writes it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""
