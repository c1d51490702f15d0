# SPDX-License-Identifier: GPL-3.0-or-later
"""`make test` and `make test-matrix` say how each stage went, how long it took, and what the clusters left."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests import matrix, stages
from tests.cluster import leftovers

FAILS = [sys.executable, "-c", "print('=== 2 passed, 1 failed in 0.50s ==='); raise SystemExit(1)"]
PASSES = [sys.executable, "-c", "print('=== 3 passed in 0.10s ===')"]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(leftovers, "state_root", lambda: tmp_path / "kubecache-image-puller")
    for name in ("KEEP", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)


def summary(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, commands: Mapping[str, Sequence[str]]
) -> tuple[int, list[str]]:
    """Run `stages` with these commands in place of the Makefile's; its exit status, and the lines of its summary."""
    run = stages.run
    monkeypatch.setattr(stages, "run", lambda stage, command: run(stage, commands[command[-1]]))
    monkeypatch.setattr(sys, "argv", ["stages", *commands])
    with pytest.raises(SystemExit) as ended:
        stages.main()
    printed = capfd.readouterr().out
    return int(ended.value.code or 0), printed.partition("===== summary =====\n")[2].splitlines()


def test_each_stage_is_told_with_its_duration(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, (one, left, everything, last) = summary(capfd, monkeypatch, {"unit": PASSES})
    assert code == 0
    assert re.fullmatch(r"unit         passed +\d+ s  3 passed in 0.10s", one)
    assert re.fullmatch(r"leftovers    passed +\d+ s  none", left)
    assert re.fullmatch(r"all +\d+ s", everything)
    assert last == "stages: 2 passed, 0 failed, 0 skipped"


def test_the_first_that_fails_ends_it(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = summary(capfd, monkeypatch, {"unit": FAILS, "integration": PASSES})
    assert code == 1
    assert lines[0].startswith("unit         FAILED")
    assert "integration  not run" in lines
    assert lines[-2].startswith(f"unit failed: see above, or {stages.LOGS}")
    assert lines[-1] == "stages: 1 passed, 1 failed, 1 skipped"


@pytest.mark.parametrize("flags", ["k", "kw -- ARGS=-v", "k --no-print-directory"])
def test_with_keep_going_the_rest_runs_too(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.setenv("MAKEFLAGS", flags)
    code, lines = summary(capfd, monkeypatch, {"unit": FAILS, "integration": PASSES})
    assert code == 1
    assert lines[1].startswith("integration  passed")
    assert lines[-1] == "stages: 2 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("flags", ["", " -- TESTS=k", "w", "--no-print-directory -- WORKERS=k"])
def test_other_flags_of_make_keep_nothing_going(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setenv("MAKEFLAGS", flags)
    assert not stages.keeps_going()


def test_what_a_cluster_left_behind_fails_the_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = tmp_path / "kubecache-image-puller" / stages.CLUSTERS.replace("*", "test-gw0")
    leaves = [sys.executable, "-c", f"import os; os.makedirs({str(left)!r})"]
    code, lines = summary(capfd, monkeypatch, {"integration": leaves})
    assert code == 1
    assert re.fullmatch(r"leftovers    FAILED +\d+ s  1 left behind", lines[1])
    assert "leftovers failed: see above" in lines


def test_a_kept_cluster_is_no_leftover(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEP", "1")
    code, lines = summary(capfd, monkeypatch, {"integration": PASSES})
    assert code == 0
    assert lines[1].endswith("not looked for, because KEEP is set")


def test_the_matrix_goes_on_after_a_failure_and_ends_with_a_table(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "checks", lambda name: {"unit": FAILS if name == "oldest" else PASSES})
    monkeypatch.setattr(matrix, "versions", lambda name: {"Python": "3.10.1", "ansible-core": "2.16.0"})
    monkeypatch.setattr(sys, "argv", ["matrix", "oldest", "newest"])
    with pytest.raises(SystemExit) as ended:
        matrix.main()
    assert ended.value.code == 1
    table = capfd.readouterr().out.partition("===== matrix =====\n")[2].splitlines()
    assert table[0] == "oldest       Python 3.10.1, ansible-core 2.16.0"
    assert re.fullmatch(r"oldest       unit          FAILED +\d+ s  2 passed, 1 failed in 0.50s", table[2])
    assert re.fullmatch(r"newest       unit          passed +\d+ s  3 passed in 0.10s", table[3])
    assert stages.COUNTS.search(table[4])


def test_an_unknown_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["matrix", "eldest"])
    with pytest.raises(SystemExit, match=r"no environment eldest; there are oldest, python-3\.11, newest"):
        matrix.main()
