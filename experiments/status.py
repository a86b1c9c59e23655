"""Print a sweep's status from its own files: `python -m experiments.status NAME`.

Works from any shell or host that sees the files, while the sweep runs and after a crash, and
writes nothing. Where it has jobs on a cluster, Slurm is asked how they are. Exit status 1 where a
cell has failed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.console import BrokenPipeConsole, exit_on_error
from experiments.sweep.status.progress import ON_SCREEN, pause, showing
from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import Status
from experiments.sweep.status.to_json import as_json
from experiments.sweep.status.watch import Watch, find_sweep, overview, statuses
from experiments.sweep.store.paths import SweepFolder

FAILED = 1  # exit status
WATCH_EVERY = 2.0  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Print how a sweep stands, or all of them."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if asked.watch and (asked.json or asked.name is None):
        parser.error("--watch takes a sweep's name, and goes without --json")
    console, results = BrokenPipeConsole(), Path(asked.results)
    with exit_on_error():
        if asked.name is None:
            found = statuses(results)
            if asked.json:
                said = {"sweeps": [as_json(status) for status in found]}
                console.out(json.dumps(said), highlight=False)
            elif found:
                console.print(overview(found))
            else:
                print(f"no sweeps in {results}/")
            return
        folder = find_sweep(results, asked.name)
        try:
            status = (
                watch(folder, console) if asked.watch else Watch(folder).look(_last(asked.json))
            )
        except KeyboardInterrupt:  # it was watched for long enough
            return
    if asked.json:
        console.out(json.dumps(as_json(status)), highlight=False)
    else:
        console.print(screen(status))
    if status.failures:
        raise SystemExit(FAILED)


def watch(folder: SweepFolder, console: Console) -> Status:
    """Show a sweep until nobody runs it any more; its status then."""
    looks = Watch(folder)
    with showing(console) as (show, failures):
        while True:
            began = time.monotonic()
            status = looks.look(failures)
            show(status)
            if status.state not in ("running", "queued"):
                return status
            time.sleep(pause(time.monotonic() - began, WATCH_EVERY))


def _last(as_json: bool) -> int | None:
    """Return how many failures to describe."""
    return None if as_json else ON_SCREEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.status",
        description="Where a sweep stands, from its files and Slurm's queue; nothing is written.",
        epilog="Exit status: 0; 1 where a cell has failed or was killed; 2: no such sweep.",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the sweep's folder; without it: all sweeps"
    )
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    parser.add_argument(
        "--watch", action="store_true", help="show it until it has ended (Ctrl-C leaves it alone)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser


if __name__ == "__main__":
    main()
