# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast and how large is the truth: `make bench-truth`."""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import document
from tests.browser import browse
from tests.unit.reports import fleet

NODES, IMAGES = 5000, 20


def html(runs: int) -> None:
    """Print the size of the HTML report of a large fleet, and how long it takes to make and to open."""
    told = fleet(NODES, IMAGES, packed=True)
    made, opened = [], []
    with tempfile.TemporaryDirectory() as directory, browse() as page:
        path = pathlib.Path(directory, "report.html")
        for _ in range(runs):
            start = time.perf_counter()
            path.write_text(to_html(document(told, time="2026-11-23T16:00:00Z", version="0.1.0")), encoding="utf-8")
            made.append(time.perf_counter() - start)
            opened.append(page.open(path) / 1000)
        size = path.stat().st_size / 1e6
    print(f"\nHTML report of {NODES:,} nodes with {IMAGES} images; medians of {runs} runs")
    print(f"  size                                      {size:6.2f} MB  (goal: at most 5)")
    print(f"  matrix in the result of image_puller_info {len(told['matrix']) / 2**20:6.2f} MiB (goal: at most 1)")
    for what, seconds, goal in (("making it", made, ""), ("opening it in Chromium", opened, "  (goal: at most 2)")):
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"  {what:41} {statistics.median(seconds):6.2f} s  {spread}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the truth is told.")
    parser.add_argument("--runs", type=int, default=10)
    html(parser.parse_args().runs)


if __name__ == "__main__":
    main()
