"""The report of a large sweep in Chromium."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from analysis.report.page import TheoryOptions, write_report
from benchmarks.large_sweep import fill, planned
from benchmarks.page import Table
from benchmarks.section import Case, Mode, Record, Settings
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

TIMES = {
    "shown_ms": "table shown, ms",
    "first_key_ms": "first keystroke, ms",
    "key_ms": "keystroke, ms",
    "longest_key_ms": "longest keystroke, ms",
    "sort_ms": "sort, ms",
}
# Cells and visits.
SIZES: dict[Mode, tuple[int, int]] = {"tiny": (10, 1), "quick": (1000, 1), "full": (10_000, 7)}
FILTER_TEXTS = ("relu", "lecun 0.03", "diverged", "xavier tanh s7")
# Milliseconds from the request to the first frame that shows the table.
TIME_TO_TABLE = """
const look = () => document.getElementById("page-number")?.textContent
  ? setTimeout(() => { window.shown = performance.now(); }) : requestAnimationFrame(look);
requestAnimationFrame(look);
"""
# Milliseconds from an action to the end of the frame that shows its effect.
TIME_OF_ACTION = """
(action) => new Promise((done) => {
  const started = performance.now();
  if (action === null) {
    document.querySelector("#table thead button").click();
  } else {
    const field = document.getElementById("filter");
    field.value = action;
    field.dispatchEvent(new Event("input"));
  }
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
})
"""


@dataclass(frozen=True)
class VisitTimes:
    """Durations in one visit of the page, in milliseconds."""

    shown: float
    first_key: float
    keys: tuple[float, ...]
    sort: float


def visit(browser: Browser, page_path: Path) -> VisitTimes:
    """Load the page in a new context, type into the filter, and sort."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    page = context.new_page()
    page.add_init_script(TIME_TO_TABLE)
    page.goto(page_path.as_uri())
    page.wait_for_function("window.shown")
    shown = float(page.evaluate("window.shown"))
    prefixes = [text[:n] for text in FILTER_TEXTS for n in range(1, len(text) + 1)]
    first, *keys = (float(page.evaluate(TIME_OF_ACTION, text)) for text in prefixes)
    page.evaluate(TIME_OF_ACTION, "")
    sort = float(page.evaluate(TIME_OF_ACTION, None))
    context.close()
    return VisitTimes(shown, first, tuple(keys), sort)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium_path())
        yield browser
        browser.close()


def check(settings: Settings) -> None:
    """Raise FaninError if Chromium is not installed."""
    _chromium_path()


def cases(settings: Settings) -> list[Case]:
    """Return the only case."""
    cells, visits = SIZES[settings.mode]
    action = partial(measure, SweepFolder(settings.folder / "large"), cells, visits)
    return [Case(f"{cells:,} cells", 10 + 6e-3 * cells, action)]


def measure(folder: SweepFolder, cells: int, visits: int) -> Record:
    """Write the report once and visit it several times."""
    fill(folder, planned(cells))
    started = time.perf_counter()
    path = write_report(folder.root.name, folder.root.parent, TheoryOptions(enabled=False))
    seconds = time.perf_counter() - started
    with chromium() as browser:
        times = [visit(browser, path) for _ in range(visits)]
    keys = [key for time_ in times for key in time_.keys]
    return {
        **{"cells": cells, "bytes": path.stat().st_size, "write_seconds": seconds, "n": visits},
        "shown_ms": statistics.median(time_.shown for time_ in times),
        "first_key_ms": statistics.median(time_.first_key for time_ in times),
        **{"key_ms": statistics.median(keys), "longest_key_ms": max(keys)},
        "sort_ms": statistics.median(time_.sort for time_ in times),
    }


def _chromium_path() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FaninError("Chromium not found. Install it as root: apt-get install chromium")
    return path


# --- results ----------------------------------------------------------------------------------


def line(record: Record) -> str:
    """Return the time until the table is shown."""
    return f"table shown after {record['shown_ms']:.0f} ms"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the table of all times."""
    rows = [
        (
            *(f"{record['cells']:,}", f"{record['bytes'] / 1e6:.1f}"),
            *(f"{record['write_seconds']:.1f}", str(record["n"])),
            *(f"{record[key]:.0f}" for key in TIMES),
        )
        for record in records
    ]
    return [
        Table(
            "The report of a large sweep in Chromium",
            ("cells", "MB", "time to write, s", "n", *TIMES.values()),
            tuple(rows),
            (
                "*Table shown*: time from the request to the first frame with the table. "
                "*Keystroke* (in the filter) and *sort* (a click on a heading): time to the end of "
                "the first frame with the new table (a frame takes up to 17 ms). The first "
                "keystroke also builds the text of all rows. Outcomes and scores are random. "
                "There are no layers, so the report has no theory and only the figures of the "
                "comparison. All times but the longest are medians.",
            ),
        )
    ]


def short_table(records: Sequence[Record]) -> None:
    """Return None: the section is only in the appendix."""


def answer(records: Sequence[Record]) -> str:
    """Return the time until the table is shown."""
    record = records[-1]
    return (
        f"A browser shows the report of {record['cells']:,} cells after "
        f"{record['shown_ms'] / 1000:.1f} s; a keystroke in the filter takes "
        f"{record['key_ms']:.0f} ms."
    )


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw nothing: the section has no plot."""
