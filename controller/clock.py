# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's time, which a test can let run faster."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime, timedelta, timezone


class Clock:
    """Time as the controller sees it.

    :param speed: seconds that pass here while one passes outside.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._start = time.monotonic()
        self._began = datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        return self._start + (time.monotonic() - self._start) * self._speed

    def now(self) -> datetime:
        """The time of day, in UTC."""
        if self._speed == 1.0:
            return datetime.now(timezone.utc)
        return self._began + timedelta(seconds=self.monotonic() - self._start)

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Wait for the event, and no longer than so many seconds of this clock."""
        event.wait(max(0.0, seconds) / self._speed)

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds / self._speed)


class Pulse:
    """Whether the loops of a process move: each shows so at least every few seconds.

    :param loops: what each is called in a sentence.
    :param most: seconds without a sign after which one is taken for hung.
    """

    def __init__(self, clock: Clock, *loops: str, most: float) -> None:
        self._clock = clock
        self._most = most
        self._moved = dict.fromkeys(loops, clock.monotonic())

    def beat(self, loop: str) -> None:
        """The loop moves."""
        self._moved[loop] = self._clock.monotonic()

    def trouble(self) -> str:
        """Which loops have not moved for too long; empty while all move."""
        now = self._clock.monotonic()
        still = {loop: now - moved for loop, moved in self._moved.items() if now - moved > self._most}
        return "; ".join(f"{loop} has not moved for {seconds:.0f} s" for loop, seconds in still.items())


def jittered(seconds: float, part: float = 0.1) -> float:
    """The same, up to a part of it more or less, so that many that began together don't stay together."""
    return seconds * random.uniform(1 - part, 1 + part)
