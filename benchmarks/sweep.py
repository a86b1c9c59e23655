"""Sweeps side by side: `python -m benchmarks.sweep [--quick] [--data-root DIR] [--write]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.engines import engines
from benchmarks.overhead import overhead
from benchmarks.page import circumstances, show, write
from benchmarks.planning import planning
from benchmarks.whole_sweep import check_files, whole_sweep
from experiments.errors import UNUSABLE, FaninError

NAME = "benchmarks.sweep"


def main() -> int:
    """Measure, print, and with --write put what came out into docs/performance.md."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller grids, a few minutes")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
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

    try:
        check_files(asked.data_root)
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as made:
            folder = Path(made)
            sections = []
            for section in (
                lambda: planning(3, say),
                lambda: overhead(asked.quick, folder, say),
                lambda: whole_sweep(asked.quick, asked.data_root, folder, say),
                lambda: engines(asked.quick, folder, say),
            ):
                sections.append(section())
                show(out, sections[-1])
        if asked.write:
            write(NAME, known, sections)
    except FaninError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
