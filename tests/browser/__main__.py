# SPDX-License-Identifier: GPL-3.0-or-later
"""Take the screenshots of docs/REPORT.md: `make screenshots`."""

from __future__ import annotations

import pathlib
import tempfile

from tests.browser import DESKTOP, NARROW, Page, browse
from tests.unit.reports import page_of

IMAGES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "images"
NODES = {5: 6, 5000: 20}  # Number of nodes -> number of images.


def shoot(page: Page, name: str, size: tuple[int, int], height: int | None = None) -> None:
    """The whole page, or so much of it."""
    full = page.evaluate("document.documentElement.scrollHeight")
    page.size(size[0], min(full, height or full))
    page.screenshot(IMAGES / f"{name}.png")
    page.size(*size)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, browse() as page:
        for nodes, images in NODES.items():
            path = pathlib.Path(directory, f"{nodes}.html")
            path.write_text(page_of(nodes, images), encoding="utf-8")
            for scheme in ("light", "dark"):
                page.scheme(scheme)
                page.open(path)
                shoot(page, f"report-{nodes}-nodes-{scheme}", DESKTOP, 2200)
        page.scheme("light")
        page.size(*NARROW)
        page.open(pathlib.Path(directory, "5.html"))
        shoot(page, "report-narrow", NARROW, 2400)


if __name__ == "__main__":
    main()
