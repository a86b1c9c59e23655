"""Tests of the report in a headless browser: sorting, filtering, zoom, print and phone layout."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hostile_sweep import CELLS, MARKUP, NAME
from playwright.sync_api import Page
from pypdf import PdfReader

from analysis import Results
from analysis.report.page import write_index

OpenPage = Callable[..., Page]
PHONE = {"width": 390, "height": 844}
# Contrast of every text with its background, except figures, which are always light.
CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => color.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const background = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgba(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const contrasts = [];
  for (const element of document.body.querySelectorAll("*:not(svg, svg *, script)")) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
    const text = texts.map((node) => node.data).join("");
    if (!text.trim() || !element.checkVisibility()) continue;
    const a = luminance(rgba(getComputedStyle(element).color)), b = luminance(background(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    contrasts.push([ratio, element.tagName + "." + element.className, text.trim().slice(0, 40)]);
  }
  return contrasts;
}
"""


def column(page: Page, key: str) -> list[str]:
    """Return the displayed texts of a column of the table."""
    heads = page.locator("#table thead th").all_inner_texts()
    (index,) = (n for n, head in enumerate(heads) if head.strip() == key)
    return page.locator(f"#table tbody td:nth-child({index + 1})").all_inner_texts()


def head(page: Page, key: str):
    return page.locator("#table thead button", has_text=re.compile(rf"^{re.escape(key)}$"))


def test_markup_in_configs_and_errors_shows_as_text(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)  # fails on a dialog or a console message
    assert page.locator("h1").inner_text() == NAME
    assert page.title() == f"{NAME} · fanin report"
    assert MARKUP in page.locator(".question").inner_text()
    assert MARKUP in page.locator("#grid").inner_text()
    assert f"ValueError: it says {MARKUP}" in page.locator("#failures pre").first.inner_text()
    assert any(MARKUP in text for text in column(page, "init"))
    assert page.locator("body img").count() == 0
    assert page.evaluate("document.scripts.length") == 2  # the script and the data


def test_columns_sort_by_click_and_by_keyboard(
    open_page: OpenPage, page_path: Path, hostile: Results
):
    page = open_page(page_path)
    losses = [f"{loss:.4f}" for loss in sorted(hostile.cells.test_loss.dropna())]
    head(page, "test_loss").click()
    assert column(page, "test_loss")[: len(losses)] == losses
    assert set(column(page, "test_loss")[len(losses) :]) == {"–"}
    sorted_by = page.locator("#table th[aria-sort]")
    assert sorted_by.get_attribute("aria-sort") == "ascending"
    head(page, "test_loss").press("Enter")
    assert column(page, "test_loss")[: len(losses)] == losses[::-1]
    assert sorted_by.get_attribute("aria-sort") == "descending"
    head(page, "optim.lr").press(" ")
    assert column(page, "optim.lr") == ["0.1"] * 12 + ["100000000"] * 12
    assert sorted_by.count() == 1


def test_nan_and_missing_values_sort_last(open_page: OpenPage, page_path: Path, tmp_path: Path):
    values = [3.0, None, "inf", "nan", -2.0, 10.0, "-inf", None]
    data = [{"key": "x", "kind": "number", "values": values, "decimals": 1, "role": "metric"}]
    # The same page with other data.
    text = re.sub(
        r'(id="cells-data">).*?(</script>)',
        lambda match: match[1] + json.dumps(data) + match[2],
        page_path.read_text(),
        flags=re.S,
    )
    text = re.sub(
        r'(<table id="table".*?<thead><tr>).*?(</tr>)', r"\1<th>x</th>\2", text, flags=re.S
    )
    changed = tmp_path / "changed.html"
    changed.write_text(text)
    page = open_page(changed)
    head(page, "x").click()
    assert column(page, "x") == ["-inf", "-2.0", "3.0", "10.0", "inf", "nan", "–", "–"]
    head(page, "x").click()
    assert column(page, "x") == ["inf", "10.0", "3.0", "-2.0", "-inf", "nan", "–", "–"]


def test_filters_apply_to_the_table_and_the_download(
    open_page: OpenPage, page_path: Path, hostile: Results
):
    page = open_page(page_path)
    displayed = page.locator("#displayed")
    assert displayed.get_attribute("aria-live") == "polite"
    assert displayed.inner_text() == f"{CELLS} of {CELLS} cells; rows 1 to {CELLS}"
    cells = hostile.cells
    diverged = int(((cells.init == "he_normal") & (cells.outcome == "diverged")).sum())
    assert diverged > 0
    page.get_by_label("Filter").fill("HE_NORMAL diverged")
    assert displayed.inner_text() == f"{diverged} of {CELLS} cells; rows 1 to {diverged}"
    assert set(column(page, "init")) == {"he_normal"}
    page.get_by_label("Filter").fill("")
    page.locator("#selects").get_by_label("outcome").select_option(label="error")
    failed = int((hostile.cells.outcome == "error").sum())
    assert len(column(page, "outcome")) == failed == 6
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == failed
    assert {row["outcome"] for row in rows} == {"error"}
    assert all(MARKUP in row["init"] for row in rows)
    page.get_by_label("Filter").fill("no such thing")
    assert displayed.inner_text() == f"0 of {CELLS} cells"


def test_columns_can_be_hidden(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    page.get_by_text("Columns", exact=True).click()
    page.locator("#chooser").get_by_label("cell_id").uncheck()
    heads = page.locator("#table thead th:visible").all_inner_texts()
    assert "cell_id" not in heads
    assert page.locator("#table tbody tr").first.locator("td").count() == len(heads)


def test_zooming_a_figure_by_keyboard_restores_it_on_escape(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    button, dialog = page.locator("button.enlarge").first, page.locator("dialog")
    before = page.locator("figure.plot svg").first.get_attribute("viewBox")
    n_figures = page.locator("figure.plot svg").count()
    button.focus()
    button.press("Enter")
    assert dialog.is_visible()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    x, _, width, _ = map(float, page.locator("#stage svg").get_attribute("viewBox").split())
    assert width < float(before.split()[2])
    assert x > 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.locator("figure.plot svg").count() == n_figures
    assert page.locator("figure.plot svg").first.get_attribute("viewBox") == before
    assert button.evaluate("(button) => button === document.activeElement")


def test_zoom_and_drag_keep_the_point_under_the_mouse(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    page.locator("figure.plot .card").first.click()
    svg = page.locator("#stage svg")
    point_under = """(svg, [x, y]) => {
      const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse());
      return [point.x, point.y];
    }"""
    page.mouse.move(500, 400)
    before = svg.evaluate(point_under, [500, 400])
    page.mouse.wheel(0, -300)  # zoom in
    page.wait_for_function("document.querySelector('#stage svg').viewBox.baseVal.x > 0")
    assert svg.evaluate(point_under, [500, 400]) == pytest.approx(before, abs=0.5)
    page.mouse.down()
    page.mouse.move(560, 430)
    page.mouse.up()
    assert svg.evaluate(point_under, [560, 430]) == pytest.approx(before, abs=0.5)
    page.get_by_role("button", name="Close").click()
    assert page.locator("#stage svg").count() == 0


def test_figures_have_text_alternatives_and_commands(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    figures = page.get_by_role("img", name=re.compile("Second moments by layer"))
    assert figures.count() == 1
    description_id = figures.first.get_attribute("aria-describedby")
    assert "measured" in page.locator(f"#{description_id}").text_content()
    for figure in page.locator("figure").all():
        assert figure.locator("figcaption").inner_text().startswith("Figure ")
        assert figure.locator("code").inner_text().startswith("fanin ")


def test_headings_landmarks_and_tables_are_accessible(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    for landmark in ("main", "banner", "navigation", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1, landmark
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("th:not([scope])").count() == 0
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(scheme: str, open_page: OpenPage, page_path: Path):
    page = open_page(page_path, color_scheme=scheme)
    page.evaluate(
        "document.querySelectorAll('details').forEach((details) => { details.open = true; })"
    )
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 300
    assert [contrast for contrast in contrasts if contrast[0] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", background)[0]) < 128) == (scheme == "dark")


def test_the_page_does_not_scroll_sideways_on_a_phone(open_page: OpenPage, page_path: Path):
    page = open_page(page_path, viewport=PHONE)
    page.evaluate(
        "document.querySelectorAll('details').forEach((details) => { details.open = true; })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    boxes = page.locator(".scroll").evaluate_all(
        "(boxes) => boxes.map((box) => [box.scrollWidth > box.clientWidth, box.tabIndex === 0])"
    )
    # Exactly the boxes that scroll are in the tab order.
    assert {scrolls for scrolls, _ in boxes} == {True, False}
    assert all(scrolls == in_tab_order for scrolls, in_tab_order in boxes)


def test_the_standings_fit_the_page(open_page: OpenPage, page_path: Path):
    page = open_page(page_path)
    boxes = page.locator(".scroll:has(.standings)").evaluate_all(
        "(boxes) => boxes.map((box) => box.scrollWidth - box.clientWidth)"
    )
    assert boxes
    assert max(boxes) <= 0


def test_the_printed_page_contains_closed_details(
    open_page: OpenPage, page_path: Path, tmp_path: Path
):
    page = open_page(page_path)
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    pages = PdfReader(tmp_path / "page.pdf").pages
    text = re.sub(r"\s", "", "\n".join(sheet.extract_text() for sheet in pages))
    assert len(pages) > 2
    assert "Traceback(mostrecentcalllast)" in text
    assert "train.loss_bound" in text  # in closed details
    assert "Figure1." in text
    assert "cells.csv" in text


def test_the_page_works_without_its_script(open_page: OpenPage, page_path: Path):
    page = open_page(page_path, java_script_enabled=False)
    assert page.locator("#displayed").inner_text() == f"The first {CELLS} of {CELLS} cells."
    assert page.locator("#table tbody tr").count() == CELLS
    assert not page.locator(".controls").is_visible()
    assert page.locator("figure svg").first.is_visible()


def test_the_index_links_to_the_page(open_page: OpenPage, page_path: Path, hostile: Results):
    page = open_page(write_index(hostile.folder.root.parent))
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name=NAME).click()
    assert page.locator("h1").inner_text() == NAME
