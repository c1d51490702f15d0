# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m controller``, without arguments: the controller's entry point.

As process 1 of a container it gets only the signals that it handles, so these come before the imports, which take
seconds under the CPU limit of the pod.
"""

from __future__ import annotations

import importlib
import os
import signal
from types import FrameType


def leave(_signal: int, _frame: FrameType | None) -> None:
    """End at once and take nothing along: the cache outlives its controller."""
    print("asked to end: the DaemonSets stay as they are", flush=True)
    os._exit(0)  # Python's own way out would take down the caches first, object by object.


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    importlib.import_module("controller.process").run()
