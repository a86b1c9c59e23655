"""A report of a large sweep in Chromium: `python -m benchmarks.report_page [--quick] [--write]`."""

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
from benchmarks.large_sweep import CELLS_A_SEED, fill, plan
from benchmarks.page import Section, circumstances, show, write
from experiments.console import exit_on_error
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

NAME = "benchmarks.report_page"
WORDS = ("relu", "lecun 0.03", "diverged", "xavier tanh s7")
# Milliseconds since the page was asked for, at the first frame that shows the table.
WHEN_THERE = """
const look = () => document.getElementById("place")?.textContent
  ? setTimeout(() => { window.there = performance.now(); }) : requestAnimationFrame(look);
requestAnimationFrame(look);
"""
# Milliseconds from an action to the end of the frame that shows what became of it.
TIMED = """
(action) => new Promise((done) => {
  const began = performance.now();
  if (action === null) {
    document.querySelector("#table thead button").click();
  } else {
    const field = document.getElementById("filter");
    field.value = action;
    field.dispatchEvent(new Event("input"));
  }
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})
"""


@dataclass(frozen=True)
class Seen:
    """Durations of one visit of the page, in milliseconds."""

    there: float
    first_key: float
    keys: tuple[float, ...]
    sort: float


def visit(browser: Browser, page_path: Path) -> Seen:
    """Load the page in a context of its own, filter letter by letter, and sort."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(WHEN_THERE)
    page.goto(page_path.as_uri())
    page.wait_for_function("window.there")
    there = float(page.evaluate("window.there"))
    typed = [word[:n] for word in WORDS for n in range(1, len(word) + 1)]
    first, *keys = (float(page.evaluate(TIMED, text)) for text in typed)
    page.evaluate(TIMED, "")
    sort = float(page.evaluate(TIMED, None))
    context.close()
    return Seen(there, first, tuple(keys), sort)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium.

    Raises
    ------
    FaninError
        There is none.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FaninError("there is no chromium: as root, apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def section(seeds: int, repeats: int, folder: SweepFolder) -> Section:
    """Make the page once; visit it several times."""
    cells = plan(seeds)
    fill(folder, cells)
    began = time.perf_counter()
    path = write_report(folder.root.name, folder.root.parent, TheoryOptions(wanted=False))
    made = time.perf_counter() - began
    with chromium() as browser:
        visits = [visit(browser, path) for _ in range(repeats)]
    keys = [key for each in visits for key in each.keys]
    row = (
        *(f"{len(cells):,}", f"{path.stat().st_size / 1e6:.1f}", f"{made:.1f}", f"{repeats}"),
        f"{statistics.median(each.there for each in visits) / 1000:.2f}",
        f"{statistics.median(each.first_key for each in visits):.0f}",
        *(f"{statistics.median(keys):.0f}", f"{max(keys):.0f}"),
        f"{statistics.median(each.sort for each in visits):.0f}",
    )
    return Section(
        title="The report of a large sweep in Chromium",
        columns=(
            *("cells", "MB", "made in s", "n", "table there, median s"),
            *("first key, median ms", "a key, median ms", "a key, longest ms", "sort, median ms"),
        ),
        rows=(row,),
        remarks=(
            "From asking for the file to the first frame with the table; from a key in the filter, "
            "or a click on a heading, to the end of the frame that shows what became of it (a "
            "frame alone takes up to 17 ms). The first key also makes the text of every row. "
            f"{len(keys):,} further keys. Outcomes and scores are made up; no layers, so no theory "
            "and no figures but those of the comparison.",
        ),
    )


def main() -> int:
    """Measure, print, and with --write put what came out into docs/appendix/performance.md."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth or so of the cells, once")
    parser.add_argument("--write", action="store_true", help="into docs/appendix/performance.md")
    asked = parser.parse_args()
    known, out = circumstances(NAME), Console()
    for line in known.lines:
        out.print(line, highlight=False, markup=False)
    seeds, repeats = (3, 1) if asked.quick else (10_000 // CELLS_A_SEED, 7)
    with exit_on_error():
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as made:
            found = section(seeds, repeats, SweepFolder(Path(made) / "large"))
        show(out, found)
        if asked.write:
            write(NAME, known, [found])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
