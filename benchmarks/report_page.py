"""Benchmark: a report in Chromium (`python -m benchmarks.report_page [--quick] [--write]`)."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from analysis.report.page import TheoryOptions, write_report
from benchmarks.large_sweep import CELLS_PER_SEED, fill, plan
from benchmarks.page import Section, run_info, show, write
from experiments.console import exit_on_error
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

NAME = "benchmarks.report_page"
FILTER_TEXTS = ("relu", "lecun 0.03", "diverged", "xavier tanh s7")
# Milliseconds from the request to the first frame that shows the table.
TIME_TO_TABLE = """
const look = () => document.getElementById("place")?.textContent
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
    context = browser.new_context(viewport={"width": 1280, "height": 900})
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
    """Start a headless Chromium; raise FaninError if it is not installed."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FaninError("Chromium not found. Install it as root: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def section(seeds: int, repeats: int, folder: SweepFolder) -> Section:
    """Write the report once and visit it several times."""
    cells = plan(seeds)
    fill(folder, cells)
    started = time.perf_counter()
    path = write_report(folder.root.name, folder.root.parent, TheoryOptions(enabled=False))
    write_seconds = time.perf_counter() - started
    with chromium() as browser:
        visits = [visit(browser, path) for _ in range(repeats)]
    keys = [key for times in visits for key in times.keys]
    row = (
        *(f"{len(cells):,}", f"{path.stat().st_size / 1e6:.1f}", f"{write_seconds:.1f}"),
        f"{repeats}",
        f"{statistics.median(times.shown for times in visits) / 1000:.2f}",
        f"{statistics.median(times.first_key for times in visits):.0f}",
        *(f"{statistics.median(keys):.0f}", f"{max(keys):.0f}"),
        f"{statistics.median(times.sort for times in visits):.0f}",
    )
    return Section(
        title="The report of a large sweep in Chromium",
        columns=(
            *("cells", "MB", "time to write, s", "n", "table shown, median s"),
            *("first keystroke, median ms", "keystroke, median ms", "keystroke, longest ms"),
            "sort, median ms",
        ),
        rows=(row,),
        remarks=(
            "*Table shown*: time from the request to the first frame with the table. *Keystroke* "
            "(in the filter) and *sort* (a click on a heading): time to the end of the first frame "
            "with the new table (a frame takes up to 17 ms). The first keystroke also builds the "
            f"text of all rows; {len(keys):,} further keystrokes. Outcomes and scores are random. "
            "There are no layers, so the report has no theory and only the figures of the "
            "comparison.",
        ),
    )


def main() -> int:
    """Measure how fast Chromium shows the report of a large sweep; print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure about a tenth of the cells, once"
    )
    parser.add_argument("--write", action="store_true", help="update docs/appendix/performance.md")
    args = parser.parse_args()
    info, out = run_info(NAME), Console()
    for line in info.lines:
        out.print(line, highlight=False, markup=False)
    seeds, repeats = (3, 1) if args.quick else (10_000 // CELLS_PER_SEED, 7)
    with exit_on_error():
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as name:
            result = section(seeds, repeats, SweepFolder(Path(name) / "large"))
        show(out, result)
        if args.write:
            write(NAME, info, [result])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
