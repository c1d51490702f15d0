# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/RELIABILITY.md promises tests; they exist, and every fault that is tested is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

INTEGRATION = Path(__file__).parents[1] / "integration"
DOCUMENT = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"


def names_of_tests(path: Path) -> set[str]:
    """Names of the tests in a file, from tests/integration on."""
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    name = path.relative_to(INTEGRATION).as_posix()
    return {f"{name}::{function.name}" for function in functions if function.name.startswith("test_")}


def test_each_test_that_is_named_exists_and_each_fault_is_named() -> None:
    named = set(re.findall(r"`([\w/]+\.py::\w+)`", DOCUMENT.read_text()))
    existing = set[str]().union(*map(names_of_tests, INTEGRATION.rglob("test_*.py")))
    assert named - existing == set()
    assert {test for test in existing if test.startswith("faults/")} - named == set()
