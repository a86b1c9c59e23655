"""Run one cell, or a grid of cells with `-m`: `fanin run --help`.

This module loads quickly, because workers load the main module of their launcher again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.gc_pause import without_gc
from experiments.sweep.interrupts import Interrupted, interruptible
from experiments.sweep.worker.forkserver import start_server

GRID_FLAGS = ("-m", "--multirun", "--config-dir", "-cd")  # those of commands that run cells


def main() -> None:
    """Run the cells of this process's command line."""
    try:
        with interruptible():
            if _needs_workers(sys.argv[1:]):
                start_server()  # it imports torch while this process parses the command
            with without_gc(freeze=True):
                from experiments.sweep.cli import main as run
            run()
    except Interrupted:
        from experiments.console import INTERRUPTED

        print("Interrupted while no cell was running.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _needs_workers(arguments: Sequence[str]) -> bool:
    """Return True if a command probably runs cells in workers.

    If it does not, an unneeded fork server runs until this process ends.
    """
    values = dict(text.partition("=")[::2] for text in arguments)
    flags = {key for key in values if key.startswith("-")}
    return (
        flags <= set(GRID_FLAGS)
        and values.get("runner", "local") == "local"
        and values.get("sweep.mode", "run") == "run"
    )


if __name__ == "__main__":
    main()
