"""Sweeps side by side: `python -m benchmarks.sweep [--quick] [--data-root DIR] [--write]`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.engines import engines
from benchmarks.overhead import overhead
from benchmarks.page import Section, circumstances, show, write
from benchmarks.planning import planning
from benchmarks.whole_sweep import Size, check_files, whole_sweep
from experiments.console import exit_on_error

NAME = "benchmarks.sweep"


def main() -> int:
    """Measure, print, and with --write put what came out into docs/appendix/performance.md."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller grids, a few minutes")
    parser.add_argument("--write", action="store_true", help="into docs/appendix/performance.md")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("~/.cache/fanin").expanduser(),
        help="folder with MNIST's files in mnist/ (default: %(default)s)",
    )
    asked = parser.parse_args()
    out, log = Console(), Console(stderr=True)
    known = circumstances(NAME)
    for line in known.lines:
        out.print(line, highlight=False, markup=False)

    def say(what: str) -> None:
        log.print(f"... {what}", highlight=False, markup=False)

    with exit_on_error():
        check_files(asked.data_root)
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as made:
            folder = Path(made)
            sections = []
            parts: tuple[Callable[[], Section], ...] = (
                lambda: planning(3, say),
                lambda: overhead(asked.quick, folder, say),
                *(
                    partial(whole_sweep, size, asked.data_root, folder / f"{size.channels}", say)
                    for size in (Size(seeds=4), Size(seeds=1 if asked.quick else 4, channels=32))
                ),
                lambda: engines(asked.quick, folder, say),
            )
            for part in parts:
                sections.append(part())
                show(out, sections[-1])
        if asked.write:
            write(NAME, known, sections)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
