# SPDX-License-Identifier: GPL-3.0-or-later
"""Run targets of the Makefile one after another, up to the first that fails, and sum up: `make test`.

What a stage prints goes to the terminal and to build/logs/STAGE.log.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.setup import BUILD

LOGS = BUILD / "logs"
# The line that pytest ends with, for example "=== 3 passed, 1 skipped in 0.10s ===".
COUNTS = re.compile(r"=+ (\d+ (?:passed|failed|skipped|error).* in [\d.]+s).* =+")


@dataclass(frozen=True)
class Outcome:
    """How one stage went; `counts` is what its test runner said at its end, "" if it is none that counts."""

    stage: str
    passed: bool
    seconds: float
    counts: str = ""

    def __str__(self) -> str:
        result = "passed" if self.passed else "FAILED"
        return f"{self.stage:<12} {result}  {self.seconds:>5.0f} s  {self.counts}".rstrip()


def run(stage: str) -> Outcome:
    """Run one target of the Makefile, showing its output as it comes."""
    started = time.monotonic()
    counts = ""
    command = ["make", "--no-print-directory", stage]
    output = subprocess.PIPE
    with (
        (LOGS / f"{stage}.log").open("w") as log,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, errors="replace") as make,
    ):
        for line in make.stdout or ():
            print(line, end="", flush=True)
            log.write(line)
            if found := COUNTS.search(line):
                counts = found[1]
    return Outcome(stage, make.returncode == 0, time.monotonic() - started, counts)


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    stages = sys.argv[1:]
    outcomes: list[Outcome] = []
    for stage in stages:
        print(f"\n===== {stage} =====", flush=True)
        outcomes.append(run(stage))
        if not outcomes[-1].passed:
            break
    left = stages[len(outcomes) :]
    print("\n===== summary =====", *outcomes, *(f"{stage:<12} not run" for stage in left), sep="\n")
    if not outcomes[-1].passed:
        print(f"{outcomes[-1].stage} failed: see above, or {LOGS / outcomes[-1].stage}.log")
    passed = sum(outcome.passed for outcome in outcomes)
    print(f"stages: {passed} passed, {len(outcomes) - passed} failed, {len(left)} skipped")
    sys.exit(bool(left) or not outcomes[-1].passed)


if __name__ == "__main__":
    main()
