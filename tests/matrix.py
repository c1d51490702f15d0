# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection on the oldest and the newest of what it supports: `make test-matrix`.

Each environment of `tests.setup` has a Python, an ansible-core, a kubernetes.core and a kubernetes client of its own.
On each run the unit tests, ansible-test's sanity tests, and an installation on a real cluster. All of them run,
whatever fails; a table ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests import stages
from tests.setup import BUILD, MATRIX

PROBE = """
import json, platform
from importlib.metadata import version
packages = {name: version(name) for name in ("ansible-core", "kubernetes")}
print(json.dumps({"Python": platform.python_version(), **packages}))
"""


def directory(name: str) -> Path:
    """The directory of an environment: `venv`, and `collections`."""
    return BUILD / "matrix" / name


def python(name: str) -> str:
    """The interpreter of an environment."""
    return str(directory(name) / "venv" / "bin" / "python")


def variables(name: str, others: Mapping[str, str]) -> dict[str, str]:
    """What differs from other variables for programs that are to run in an environment."""
    return {
        "ANSIBLE_COLLECTIONS_PATH": str(directory(name) / "collections"),
        "PATH": f"{directory(name) / 'venv' / 'bin'}{os.pathsep}{others['PATH']}",
    }


def versions(name: str) -> dict[str, str]:
    """What an environment is made of, as it says itself: "Python", "ansible-core", "kubernetes", "kubernetes.core"."""
    told = subprocess.run([python(name), "-c", PROBE], check=True, capture_output=True, text=True).stdout
    manifest = directory(name) / "collections" / "ansible_collections" / "kubernetes" / "core" / "MANIFEST.json"
    collection = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"]
    return {**json.loads(told), "kubernetes.core": collection}


def checks(name: str) -> dict[str, list[str]]:
    """What runs on an environment: name -> command. The installation is started by the checks' own Python."""
    collections = f"pythonpath={directory(name) / 'collections'} ."
    installation = ["tests/integration/test_matrix.py", "-k", f"[{name}]"]
    return {
        "unit": [python(name), "-m", "pytest", "tests/unit", "-o", collections],
        "sanity": [python(name), "-m", "tests.sanity"],
        "installation": [sys.executable, "-m", "pytest", *installation],
    }


def main() -> None:
    names = sys.argv[1:] or list(MATRIX)
    if unknown := set(names) - set(MATRIX):
        sys.exit(f"test-matrix: no environment {', '.join(sorted(unknown))}; there are {', '.join(MATRIX)}")
    started = time.monotonic()
    rows: list[tuple[str, str, stages.Outcome]] = []
    for name in names:
        for check, command in checks(name).items():
            print(f"\n===== {name}: {check} =====", flush=True)
            own = {} if check == "installation" else variables(name, os.environ)
            rows.append((name, check, stages.run(f"matrix-{name}-{check}", command, {**os.environ, **own})))
    print("\n===== matrix =====")
    for name in names:
        print(f"{name:<12}", ", ".join(f"{part} {version}" for part, version in versions(name).items()))
    for name, check, outcome in rows:
        print(f"{name:<12} {check:<13} {outcome.result}")
    passed = sum(outcome.passed for _, _, outcome in rows)
    counts = f"{passed} passed" + (f", {len(rows) - passed} failed" if passed < len(rows) else "")
    print(f"=== {counts} in {time.monotonic() - started:.2f}s ===")
    sys.exit(passed < len(rows))


if __name__ == "__main__":
    main()
