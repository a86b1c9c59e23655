"""Benchmarks of sweeps: `python -m benchmarks.sweep [--quick] [--data-root DIR] [--write]`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.engines import engines
from benchmarks.mnist_sweep import Size, check_files, mnist_sweep
from benchmarks.overhead import overhead
from benchmarks.page import Section, run_info, show, write
from benchmarks.planning import planning
from experiments.console import exit_on_error

NAME = "benchmarks.sweep"


def main() -> int:
    """Measure sweeps and compare them with other tools; print the tables."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="run smaller grids (a few minutes)")
    parser.add_argument("--write", action="store_true", help="update docs/appendix/performance.md")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("~/.cache/fanin").expanduser(),
        help="folder with MNIST's files in mnist/ (default: %(default)s)",
    )
    args = parser.parse_args()
    out, progress = Console(), Console(stderr=True)
    info = run_info(NAME)
    for line in info.lines:
        out.print(line, highlight=False, markup=False)

    def log(text: str) -> None:
        progress.print(f"... {text}", highlight=False, markup=False)

    with exit_on_error():
        check_files(args.data_root)
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as name:
            folder = Path(name)
            sections = []
            benchmarks: tuple[Callable[[], Section], ...] = (
                lambda: planning(3, log),
                lambda: overhead(args.quick, folder, log),
                *(
                    partial(mnist_sweep, size, args.data_root, folder / f"{size.channels}", log)
                    for size in (Size(seeds=4), Size(seeds=1 if args.quick else 4, channels=32))
                ),
                lambda: engines(args.quick, folder, log),
            )
            for benchmark in benchmarks:
                sections.append(benchmark())
                show(out, sections[-1])
        if args.write:
            write(NAME, info, sections)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
