"""Fewer, larger part files: `python -m experiments.compact NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.sweep.store.lock import sole_launcher
from experiments.sweep.store.merge import merge_packs
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import read_frozen
from experiments.sweep.store.quarantine import quarantine
from experiments.sweep.view.overview import find_sweep
from experiments.sweep.worker.recover import recover
from fanin.errors import INTERRUPTED, UNUSABLE, FaninError


def main(argv: Sequence[str] | None = None) -> None:
    """Compact a sweep's tables and print what was done."""
    asked = _parser().parse_args(argv)
    try:
        compact(find_sweep(Path(asked.results), asked.name))
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None
    except KeyboardInterrupt:
        print("Interrupted; every row is kept. The same command goes on.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def compact(folder: SweepFolder) -> None:
    """Merge the parts of a sweep that nobody runs, and say what became of them.

    Raises
    ------
    FaninError
        Somebody runs it, or a file can't be written.
    """
    name = folder.root.name
    with sole_launcher(folder) as hold:
        recover(folder, read_frozen(folder))
        for fault in quarantine(folder):
            print(fault)
        done = merge_packs(folder, hold.beat)
    if done.before == done.after and not done.dropped:
        print(f"{name}: {done.after:,} part files; nothing to do")
    else:
        print(
            f"{name}: {done.before:,} part files are now {done.after:,}; "
            f"{done.dropped:,} rows of superseded attempts dropped"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compact",
        description="Merge a sweep's part files into fewer, larger ones, and drop the rows of "
        "attempts that a later one superseded. What the tables say stays the same; reading them "
        "meanwhile is safe.",
        epilog="Not while the sweep runs. It may be interrupted at any moment: the same command "
        "goes on from there. A damaged part is moved to spoilt/ with its pack, whose cells the "
        "sweep's own command then runs again.",
    )
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    return parser


if __name__ == "__main__":
    main()
