# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what is in deploy/ anew: ``make manifests``."""

from __future__ import annotations

from pathlib import Path

from deploy import operators, templates

HERE = Path(__file__).parent


def files() -> dict[str, str]:
    """All files that are made here, by their paths below deploy/."""
    return {**templates.files(), **operators.files()}


def main() -> None:
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
