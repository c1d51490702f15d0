# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m controller``, without arguments the controller's entry point, with ``operator`` the operator's.

As process 1 of a container it gets only the signals that it handles, so these come before the imports, which take
seconds under the CPU limit of the pod.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType


def leave(_signal: int, _frame: FrameType | None) -> None:
    """End at once and take nothing along: the cache outlives its controller."""
    print("asked to end: the DaemonSets stay as they are", flush=True)
    os._exit(0)  # Python's own way out would take down the caches first, object by object.


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    if sys.argv[1:] not in ([], ["operator"]):
        sys.exit(f"{' '.join(sys.argv[1:])!r} is nothing that this program can be: say operator, or nothing")
    process = importlib.import_module("controller.process")
    (process.run_operator if sys.argv[1:] else process.run)()
