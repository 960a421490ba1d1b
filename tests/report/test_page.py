"""The page as a browser shows it; skipped where there is no browser to drive."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

from qexport.report.charts import CHARTS
from qexport.report.html import page as write_page
from qexport.report.table import build_table

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither Chromium nor Google Chrome is on the path")

ROWS = ("fp32", "int8-static (all)", "int8-static (attention)", "w8a16-gptq", "torch-fp32")


@pytest.fixture(scope="module")
def address(everything, tmp_path_factory):
    kept = [record for record in everything if record.row in ROWS]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(write_page(build_table(kept), title="reference", charts=CHARTS), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, **how):
    """The page once all charts are drawn; what it asked for and complained about are in ``requests`` and ``complaints``."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **how})
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: said.type in {"error", "warning"} and page.complaints.append(said.text))
    page.goto(address)
    page.wait_for_function("[...document.querySelectorAll('[data-chart]')].every((e) => e.querySelector('svg'))")
    try:
        yield page
    finally:
        context.close()


@pytest.fixture(scope="module")
def shared(browser, address):
    """One page for tests that only read it, or put it back."""
    with opened(browser, address) as page:
        yield page


def shown(page, table=0):
    """Names of the rows of a table, in order, without hidden ones."""
    return (
        page.locator("table")
        .nth(table)
        .locator("tbody tr:visible")
        .evaluate_all("(rows) => rows.map((row) => row.dataset.name)")
    )


def heading(page, name, table):
    return page.locator("table").nth(table).locator("thead button", has_text=name).first


def marks(page, chart):
    return page.locator(f"[data-chart='{chart}'] svg :is(path, circle, line, rect)").count()


def test_every_chart_is_drawn_in_silence(shared):
    charts = shared.locator("[data-chart]").evaluate_all("(all) => all.map((e) => e.dataset.chart)")
    assert charts == [chart.name for chart in CHARTS]
    assert all(marks(shared, chart) > 10 for chart in charts)
    assert shared.complaints == []


def test_nothing_is_asked_of_anyone(shared, address):
    assert set(shared.requests) == {address}
    blocked = shared.evaluate("fetch('https://example.invalid/').then(() => 'loaded', () => 'refused')")
    assert blocked == "refused"
    shared.complaints.clear()  # the policy reports what it refused
    del shared.requests[1:]


def test_a_chart_answers_the_pointer(shared):
    shared.locator("[data-chart='memory'] svg .mark-rect.role-mark path").first.hover()
    tip = shared.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "fp32" in tip.inner_text()
    shared.mouse.move(0, 0)


def test_a_heading_sorts_all_tables_and_again_the_other_way(shared):
    latency = heading(shared, "Latency per sentence", 1)
    latency.click()
    first = shown(shared, 1)
    assert first[0] == "int8-static (all)"
    assert latency.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    assert shown(shared, 0) == shown(shared, 3) == first
    latency.click()
    assert shown(shared, 1) == first[::-1]
    heading(shared, "Row", 0).click()
    assert shown(shared) == list(ROWS)


def test_more_is_better_sorts_downwards_first(shared):
    rate = heading(shared, "Tokens per second", 1)
    rate.click()
    assert shown(shared, 1)[0] == "int8-static (all)"
    assert rate.locator("xpath=..").get_attribute("aria-sort") == "descending"
    heading(shared, "Row", 0).click()


def test_rows_are_filtered_by_text_and_by_kind(shared):
    count = shared.locator(".filter output")
    assert count.inner_text() == "5 of 5 rows"
    shared.get_by_role("searchbox").fill("INT8 static")
    assert shown(shared) == shown(shared, 3) == ["int8-static (all)", "int8-static (attention)"]
    assert count.inner_text() == "2 of 5 rows"
    part = shared.get_by_role("button", name="part of it")
    part.click()
    assert part.get_attribute("aria-pressed") == "true"
    assert shown(shared) == ["int8-static (attention)"]
    heading(shared, "Weights", 0).click()
    assert shown(shared) == ["int8-static (attention)"]
    part.click()
    shared.get_by_role("searchbox").fill("")
    for family in ("torch", "weight-only"):
        shared.get_by_role("button", name=family, exact=True).click()
    assert sorted(shown(shared, 2)) == ["torch-fp32", "w8a16-gptq"]
    for family in ("torch", "weight-only"):
        shared.get_by_role("button", name=family, exact=True).click()
    heading(shared, "Row", 0).click()
    assert shown(shared) == list(ROWS)


def test_the_keyboard_is_enough(shared):
    shared.get_by_role("searchbox").focus()
    shared.keyboard.press("Tab")
    shared.keyboard.press("Space")
    assert shown(shared) == ["fp32"]
    shared.keyboard.press("Enter")
    assert shown(shared) == list(ROWS)


def test_light_and_dark_have_inks_of_their_own(browser, address):
    inks = {}
    for scheme in ("light", "dark"):
        with opened(browser, address, color_scheme=scheme) as page:
            text = page.locator("[data-chart='memory'] svg text").first.evaluate("(e) => e.getAttribute('fill')")
            background = page.locator("html").evaluate("(e) => getComputedStyle(e).backgroundColor")
            inks[scheme] = text, background
            assert page.complaints == []
    assert inks["light"] == ("#1d2126", "rgb(255, 255, 255)")
    assert inks["dark"] == ("#e8eaed", "rgb(21, 24, 28)")


def test_a_telephone_shows_all_of_it(browser, address):
    with opened(browser, address, viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert all(marks(page, chart.name) > 10 for chart in CHARTS)
        assert page.locator("[data-chart='memory'] svg").bounding_box()["width"] <= 390
        assert page.complaints == []


def test_without_a_script_the_table_is_whole_and_the_filter_away(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("table").first.locator("tbody tr").count() == len(ROWS)
    assert not page.locator(".filter").is_visible()
    context.close()
