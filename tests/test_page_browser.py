"""The page in a real browser: no error, no request, named figures, sortable tables, light, dark and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, Browser, find_browser
from page_data import page_data

from mergekit_optimer.page import render_page

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser on the path: {', '.join(NAMES)}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def page_path(tmp_path: Path, report_inputs: dict[str, Any]) -> Path:
    path = tmp_path / "index.html"
    path.write_text(render_page(page_data(report_inputs)).html, encoding="utf-8")
    return path


def scores_on_ja(browser: Browser) -> list[float]:
    """A column of the held-out table, as it stands."""
    column = "[...document.querySelector('#result table').tBodies[0].rows].map(row => row.cells[2].innerText)"
    return [float(text.partition(" ")[0]) for text in browser.evaluate(column)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_no_error_no_request_and_no_sideways_scrolling(
    browser: Browser, page_path: Path, scheme: str, width: int
) -> None:
    browser.open(page_path, width=width, scheme=scheme)
    assert browser.logged == []
    assert browser.requested == [page_path.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width


def test_each_figure_has_a_name_for_who_cannot_see_it(browser: Browser, page_path: Path) -> None:
    browser.open(page_path)
    names = browser.names("image")
    assert len(names) == browser.evaluate("document.querySelectorAll('figure svg').length") == 19
    assert all(names)
    assert len(set(names)) == len(names)


def test_dark_is_dark_and_light_is_light(browser: Browser, page_path: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        browser.open(page_path, scheme=scheme)
        color = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(int(part) for part in color.strip("rgb()").split(","))
    assert shades["light"] > 3 * 200
    assert shades["dark"] < 3 * 50


def test_a_figures_own_file_is_light_or_dark_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, report_inputs: dict[str, Any]
) -> None:
    path = tmp_path / "cosines.svg"
    path.write_text(render_page(page_data(report_inputs)).svgs["cosines"], encoding="utf-8")
    fills = {}
    for scheme in ("light", "dark"):
        browser.open(path, scheme=scheme)
        assert browser.logged == []
        assert browser.requested == [path.as_uri()]
        fills[scheme] = browser.evaluate("getComputedStyle(document.querySelector('rect')).fill")
    assert fills == {"light": "rgb(255, 255, 255)", "dark": "rgb(25, 31, 41)"}


def test_a_heading_sorts_its_table_up_down_and_as_it_was(browser: Browser, page_path: Path) -> None:
    browser.open(page_path)
    first = scores_on_ja(browser)
    seen = []
    for _ in range(3):
        browser.evaluate("document.querySelector('#result table thead th:nth-child(3) button').click()")
        seen.append(scores_on_ja(browser))
    assert seen == [sorted(first), sorted(first, reverse=True), first]
    assert sorted(first) != first


def test_without_scripts_the_tables_are_there(browser: Browser, page_path: Path) -> None:
    browser.open(page_path, script=False)
    tree = browser.names("columnheader")
    assert "model" in tree
    assert browser.logged == []
    # Scripts that are off cannot answer; on again, and nothing was changed by one.
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.evaluate("document.querySelectorAll('th button').length") == 0


def test_text_in_figures_stays_inside_them(browser: Browser, page_path: Path) -> None:
    browser.open(page_path, width=360)
    outside = browser.evaluate(
        """[...document.querySelectorAll('figure')].flatMap(figure => {
             const edge = figure.getBoundingClientRect();
             return [...figure.querySelectorAll('text')].filter(text => {
               const box = text.getBoundingClientRect();
               return box.left < edge.left || box.right > edge.right || box.bottom > edge.bottom;
             }).map(text => figure.id + ': ' + text.textContent);
           })"""
    )
    assert outside == []
