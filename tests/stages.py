# SPDX-License-Identifier: GPL-3.0-or-later
"""Run targets of the Makefile one after another, up to the first that fails, and sum up: `make test`.

With make's own -k (--keep-going) the rest runs, too: `make -k test-all`.

What a stage prints goes to the terminal and to build/logs/STAGE.log. At the end nothing may be left of the
clusters that were started.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.cluster import leftovers, of_this_checkout
from tests.setup import BUILD

LOGS = BUILD / "logs"
# The line that pytest ends with, for example "=== 3 passed, 1 skipped in 0.10s ===".
COUNTS = re.compile(r"=+ (\d+ (?:passed|failed|skipped|error).* in [\d.]+s).* =+")
# Other checkouts may run their tests at the same time.
CLUSTERS = of_this_checkout("*")


@dataclass(frozen=True)
class Outcome:
    """How one stage went; `counts` is what its test runner said at its end, "" if it is none that counts."""

    stage: str
    passed: bool
    seconds: float
    counts: str = ""

    @property
    def result(self) -> str:
        result = "passed" if self.passed else "FAILED"
        return f"{result}  {self.seconds:>5.0f} s  {self.counts}".rstrip()

    def __str__(self) -> str:
        return f"{self.stage:<12} {self.result}"


def run(stage: str, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Outcome:
    """Run the command of one stage, showing its output as it comes."""
    started = time.monotonic()
    counts = ""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (
        (LOGS / f"{stage}.log").open("w") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running,
    ):
        for line in running.stdout or ():
            print(line, end="", flush=True)
            log.write(line)
            if found := COUNTS.search(line):
                counts = found[1]
    return Outcome(stage, running.returncode == 0, time.monotonic() - started, counts)


def look_for_leftovers(before: leftovers.Snapshot) -> Outcome:
    """Whether the clusters of this checkout left something on this machine, as the last stage."""
    started = time.monotonic()
    if os.environ.get("KEEP"):
        return Outcome("leftovers", True, 0, "not looked for, because KEEP is set")
    left = leftovers.left_by(CLUSTERS, before, leftovers.take(CLUSTERS))
    if left:
        print("\nThe clusters left behind:", *left, sep="\n")
    return Outcome("leftovers", not left, time.monotonic() - started, f"{len(left)} left behind" if left else "none")


def keeps_going() -> bool:
    """Whether make was called with -k, as it hands it on: first in MAKEFLAGS are the options of one letter."""
    return "k" in f"-{os.environ.get('MAKEFLAGS', '')}".split()[0]


def main() -> None:
    stages = sys.argv[1:]
    before = leftovers.take(CLUSTERS)
    outcomes: list[Outcome] = []
    for stage in stages:
        print(f"\n===== {stage} =====", flush=True)
        outcomes.append(run(stage, ["make", "--no-print-directory", stage]))
        if not outcomes[-1].passed and not keeps_going():
            break
    left = stages[len(outcomes) :]
    outcomes.append(look_for_leftovers(before))
    print("\n===== summary =====", *outcomes, *(f"{stage:<12} not run" for stage in left), sep="\n")
    print(f"{'all':<20} {sum(outcome.seconds for outcome in outcomes):>6.0f} s")
    failed = [outcome.stage for outcome in outcomes if not outcome.passed]
    for stage in failed:
        log = LOGS / f"{stage}.log"
        print(f"{stage} failed: see above{f', or {log}' if log.exists() else ''}")
    print(f"stages: {len(outcomes) - len(failed)} passed, {len(failed)} failed, {len(left)} skipped")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
