# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTML report in a real browser: readable by everybody, usable without a mouse, and deaf to what is written in it.

No cluster is needed: what a report says is tested in tests/unit/test_report.py, how it is made in test_report.py.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import document
from tests.browser import DESKTOP, NARROW, Page, browse
from tests.unit.reports import fleet, page_of
from tests.unit.test_report import ABSENT, HOSTILE, hostile_page, several

STATUS = "document.querySelector('[role=status]').textContent"
FIRST_ROW = "document.querySelector('.grid tbody button')"
PAGES: dict[str, Callable[[], str]] = {
    "5 nodes": lambda: page_of(5, 6),
    "5,000 nodes": lambda: page_of(5000, 20),
    "several sets": lambda: made(several()),
    "no DaemonSet": lambda: made(ABSENT),
    "hostile text": lambda: hostile_page(HOSTILE),
}


def made(told: dict[str, Any]) -> str:
    return to_html(document(told, time="2026-11-23T16:00:00Z", version="0.1.0"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with browse() as page:
        yield page


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """The file of a page, made on first use."""
    directory = tmp_path_factory.mktemp("pages")

    def file(name: str) -> pathlib.Path:
        path = directory / f"{name}.html"
        if not path.exists():
            path.write_text(PAGES[name](), encoding="utf-8")
        return path

    return file


@pytest.fixture
def open_page(browser: Page, files: Callable[[str], pathlib.Path]) -> Iterator[Callable[[str], Page]]:
    """Open a page by its name."""

    def open_(name: str) -> Page:
        browser.open(files(name))
        return browser

    yield open_
    browser.size(*DESKTOP)
    browser.scheme("light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_wrong(open_page: Callable[[str], Page], browser: Page, name: str, scheme: str) -> None:
    browser.scheme(scheme)
    page = open_page(name)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate("[...document.querySelectorAll('.grid tbody button')].slice(0, 3).forEach(each => each.click())")
    assert page.axe() == []


def test_axe_would_find_something(browser: Page, tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<html><body style="background: #fff"><p style="color: #eee">Who can read this?</p><img src="">')
    browser.open(bad)
    rules = " ".join(browser.axe())
    assert "color-contrast" in rules
    assert "image-alt" in rules


@pytest.mark.parametrize("name", PAGES)
def test_nothing_else_is_asked_for_and_nothing_complains(open_page: Callable[[str], Page], name: str) -> None:
    page = open_page(name)
    assert [url for url in page.requests() if not url.startswith("file:///")] == []
    assert len(page.requests()) == 1
    assert page.complaints() == []


def test_a_script_in_a_message_is_text(open_page: Callable[[str], Page]) -> None:
    page = open_page("hostile text")
    page.evaluate(f"{FIRST_ROW}.click()")
    assert page.evaluate("document.querySelectorAll('script, img, iframe, object').length") == 2
    assert page.evaluate("document.body.innerText").count("<script>alert(1)</script>") > 20
    assert [event for event in page.events if event.get("method") == "Page.javascriptDialogOpening"] == []


def test_a_script_that_got_in_would_not_run(open_page: Callable[[str], Page]) -> None:
    page = open_page("5 nodes")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))")
    assert page.evaluate("window.ran") is None


def test_a_node_is_opened_and_closed_by_keyboard(open_page: Callable[[str], Page]) -> None:
    page = open_page("5 nodes")
    page.evaluate("document.querySelector('input[type=search]').focus()")
    for _ in range(30):
        page.press("Tab", 9)
        if page.evaluate(f"document.activeElement === {FIRST_ROW}"):
            break
    assert page.evaluate(f"document.activeElement === {FIRST_ROW}")
    page.press("Enter", 13, "\r")
    assert page.evaluate(f"{FIRST_ROW}.getAttribute('aria-expanded')") == "true"
    assert "registry.example.com/team/golang:2.1: not found" in page.evaluate(
        "document.querySelector('.detail').innerText"
    )
    page.press("Enter", 13, "\r")
    assert page.evaluate("document.querySelector('.detail')") is None


def test_5000_nodes_are_a_few_rows_with_the_problems_first(open_page: Callable[[str], Page]) -> None:
    page = open_page("5,000 nodes")
    assert page.evaluate(STATUS) == "5,000 nodes in 6 rows"
    rows = page.evaluate(
        "[...document.querySelectorAll('.grid tbody tr')]"
        ".map(row => [row.querySelectorAll('.failed').length, row.className])"
    )
    assert rows == [[3, ""], [1, ""], [1, ""], [3, "away"], [1, "away"], [1, "away"]]
    columns = page.evaluate("[...document.querySelectorAll('.grid thead th')].map(each => each.textContent)")
    assert columns[:4] == ["Node", "golang", "python312", "dotnet8"]


@pytest.mark.parametrize(
    ("field", "text", "status"),
    [
        (0, "worker-0042", "1 node of 5,000 in 1 row"),
        (0, "10.20.4.7", "3 nodes of 5,000 in 1 row"),
        (0, "no such node", "No node fits."),
        (1, "team/theia:", "5,000 nodes in 2 rows; 1 image of 20"),
    ],
)
def test_a_search_narrows_the_matrix(open_page: Callable[[str], Page], field: int, text: str, status: str) -> None:
    page = open_page("5,000 nodes")
    page.evaluate(f"document.querySelectorAll('input[type=search]')[{field}].focus()")
    page.type(text)
    page.evaluate("new Promise(done => setTimeout(done, 400))")
    assert page.evaluate(STATUS) == status


def test_nodes_are_chosen_by_state(open_page: Callable[[str], Page]) -> None:
    page = open_page("5,000 nodes")
    chip = "[...document.querySelectorAll('.chips button')].find(each => each.textContent === 'pulling')"
    page.evaluate(f"{chip}.click()")
    assert page.evaluate(f"{chip}.getAttribute('aria-pressed')") == "true"
    assert page.evaluate(STATUS) == "125 nodes of 5,000 in 2 rows"


def test_rows_come_in_portions_and_the_focus_goes_on(open_page: Callable[[str], Page]) -> None:
    page = open_page("5,000 nodes")
    page.evaluate("document.querySelector('input[type=checkbox]').click()")
    assert page.evaluate(STATUS) == "5,000 nodes, the first 50 rows are shown"
    page.evaluate("document.querySelector('button.more').click()")
    assert page.evaluate("document.querySelectorAll('.grid tbody tr').length") == 100
    assert page.evaluate("document.activeElement === document.querySelectorAll('.grid tbody button')[50]")


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_window_needs_no_sideways_scrolling(
    open_page: Callable[[str], Page], browser: Page, name: str
) -> None:
    browser.size(*NARROW)
    page = open_page(name)
    page.evaluate("document.querySelectorAll('.grid tbody button').forEach(each => each.click())")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]


def test_without_scripts_all_but_the_matrix_is_there(browser: Page, files: Callable[[str], pathlib.Path]) -> None:
    path = files("5 nodes")
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.load(path)
        document_ = browser.send("DOM.getDocument", depth=-1)["root"]["nodeId"]
        text = browser.send("DOM.getOuterHTML", nodeId=document_)["outerHTML"]
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert "The matrix needs scripts, which this viewer does not run." in text
    assert "Remedy: correct the tag or the repository" in text
    assert 'class="grid"' not in text


def test_a_healthy_report_says_so(browser: Page, tmp_path: pathlib.Path) -> None:
    told = fleet(4, 3)
    path = tmp_path / "healthy.html"
    path.write_text(made(told), encoding="utf-8")
    browser.open(path)
    assert browser.evaluate("document.title") == "Healthy: Image Puller report, 2026-11-23 16:00:00 UTC"
    assert "3 of 3 images cached on all 3 nodes. 1 node does not count now." in browser.evaluate(
        "document.body.innerText"
    )
