# SPDX-License-Identifier: GPL-3.0-or-later
"""Take screenshots: those of docs/REPORT.md, or with --docs some of the documentation's site.

`make screenshots` replaces the first, which are part of the checkout. `make screenshots-docs` puts the second beside
the site, in build/screenshots, for whoever changed how it looks.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

from tests.browser import DESKTOP, NARROW, Page, browse
from tests.unit.reports import page_of

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = CHECKOUT / "docs" / "images"
SITE = CHECKOUT / "build" / "docs"
SHOTS = CHECKOUT / "build" / "screenshots"
# The first page, one with tables, one with pictures, and one of the reference.
PAGES = ("index", "comparison", "how-it-works", "report", "reference/image_puller_daemonset_module")
NODES = {5: 6, 5000: 20}  # Number of nodes -> number of images.


def shoot(page: Page, path: pathlib.Path, size: tuple[int, int], height: int | None = None) -> None:
    """The whole page, or so much of it."""
    full = page.evaluate("document.documentElement.scrollHeight")
    page.size(size[0], min(full, height or full))
    page.screenshot(path)
    page.size(*size)


def shoot_site(page: Page) -> None:
    """The first screens of some pages, as they are on a desk in light and dark, and on a telephone."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        source = SITE / f"{name}.html"
        if not source.is_file():
            raise SystemExit(f"{source} is not there: run `make docs`.")
        for kind, size, scheme in (("light", DESKTOP, "light"), ("dark", DESKTOP, "dark"), ("narrow", NARROW, "light")):
            page.scheme(scheme)
            page.size(*size)
            page.open(source)
            path = SHOTS / f"{source.stem}-{kind}.png"
            shoot(page, path, size, 1800)
            print(path)


def shoot_report(page: Page) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for nodes, images in NODES.items():
            path = pathlib.Path(directory, f"{nodes}.html")
            path.write_text(page_of(nodes, images), encoding="utf-8")
            for scheme in ("light", "dark"):
                page.scheme(scheme)
                page.open(path)
                shoot(page, IMAGES / f"report-{nodes}-nodes-{scheme}.png", DESKTOP, 2200)
        page.scheme("light")
        page.size(*NARROW)
        page.open(pathlib.Path(directory, "5.html"))
        shoot(page, IMAGES / "report-narrow.png", NARROW, 2400)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take screenshots.")
    parser.add_argument("--docs", action="store_true", help="of the documentation's site instead of the report")
    options = parser.parse_args()
    with browse() as page:
        (shoot_site if options.docs else shoot_report)(page)


if __name__ == "__main__":
    main()
