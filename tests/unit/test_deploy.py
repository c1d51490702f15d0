# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in deploy/ is what the collection's own objects make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.__main__ import files

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", files())
def test_a_file_is_up_to_date(name: str) -> None:
    assert (DEPLOY / name).read_text(encoding="utf-8") == files()[name], "run: make manifests"
