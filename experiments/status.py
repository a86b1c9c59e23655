"""Print a sweep's status: `fanin status NAME`.

Reads the sweep's files and, for a sweep with Slurm jobs, Slurm's queue. Works on any host that
sees the files, while the sweep runs and after a crash. Writes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.console import BrokenPipeConsole, exit_on_error
from experiments.sweep.status.progress import SCREEN_FAILURES, read_interval, status_display
from experiments.sweep.status.reader import StatusReader, find_sweep, overview, statuses
from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import Status
from experiments.sweep.status.to_json import status_to_json
from experiments.sweep.store.paths import SweepFolder
from fanin.parser import CommandParser

FAILED = 1  # exit status
WATCH_INTERVAL = 2.0  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Print the status of one sweep or an overview of all sweeps."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.watch and (args.json or args.name is None):
        parser.error("--watch needs a sweep's name and can't be combined with --json")
    console, results = BrokenPipeConsole(), Path(args.results)
    with exit_on_error():
        if args.name is None:
            sweeps = statuses(results)
            if args.json:
                output = {"sweeps": [status_to_json(status) for status in sweeps]}
                console.out(json.dumps(output), highlight=False)
            elif sweeps:
                console.print(overview(sweeps))
            else:
                print(f"no sweeps in {results}/")
            return
        folder = find_sweep(results, args.name)
        try:
            status = (
                watch(folder, console)
                if args.watch
                else StatusReader(folder).read(_n_failures(args.json))
            )
        except KeyboardInterrupt:
            return
    if args.json:
        console.out(json.dumps(status_to_json(status)), highlight=False)
    else:
        console.print(screen(status, cell_times=False))
    if status.failures:
        raise SystemExit(FAILED)


def watch(folder: SweepFolder, console: Console) -> Status:
    """Show a sweep until it is no longer running or queued; return its last status."""
    reader = StatusReader(folder)
    with status_display(console) as (show, n_failures):
        while True:
            started = time.monotonic()
            status = reader.read(n_failures)
            show(status)
            if status.state not in ("running", "queued"):
                return status
            time.sleep(read_interval(time.monotonic() - started, WATCH_INTERVAL))


def _n_failures(as_json: bool) -> int | None:
    """Return the number of failures to describe; None for all."""
    return None if as_json else SCREEN_FAILURES


def _parser() -> CommandParser:
    parser = CommandParser(
        "status",
        description="Print a sweep's status from its files and Slurm's queue. Writes nothing.",
        epilog="Exit status: 0; 1 if a cell has failed or was killed; 2 if there is no such sweep.",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="name of the sweep's folder (default: all sweeps)"
    )
    parser.add_argument(
        "--results", default="results", help="folder of all sweeps (default: results)"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="update the status until the sweep has ended (Ctrl-C stops watching, not the sweep)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    main()
