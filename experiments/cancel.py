"""Stop a running sweep and its Slurm jobs: `fanin cancel NAME`.

All finished cells are kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.console import exit_on_error
from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import plural
from experiments.sweep.status.launcher import Launcher, find_launcher
from experiments.sweep.status.reader import StatusReader, find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError
from fanin.parser import CommandParser

POLL_INTERVAL = 0.1  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Stop a sweep's launcher and wait until it has ended."""
    args = _parser().parse_args(argv)
    with exit_on_error(interrupted="Stopped waiting. The sweep will still stop."):
        folder = find_sweep(Path(args.results), args.name)
        cancel(folder)


def cancel(folder: SweepFolder) -> None:
    """Stop a sweep, and print the number of finished and unfinished cells.

    Raises
    ------
    FaninError
        The launcher runs on another host or belongs to another user.
    """
    launcher = find_launcher(folder)
    jobs = bool(open_submissions(folder))
    if launcher is None or not launcher.is_active:
        if not jobs:
            print(f"{folder.root.name}: not running.")
    elif launcher.alive is None:
        raise FaninError(
            f"{folder.root.name}: its launcher is process {launcher.pid} on {launcher.host}. Stop "
            f"it there: ssh {launcher.host} kill -TERM {launcher.pid}"
        )
    else:
        _terminate(folder, launcher)
    if jobs:
        _cancel_jobs(folder)
    counts = StatusReader(folder).read(0).counts
    unfinished = counts["interrupted"] + counts["missing"]
    remaining = (
        f"{plural(unfinished, 'cell')} not finished. Run the sweep's command again to resume."
        if unfinished
        else "no cell is left to run."
    )
    print(
        f"{plural(counts['done'] + counts['failed'], 'finished cell')} saved in {folder.root}/; "
        f"{remaining}"
    )


def _cancel_jobs(folder: SweepFolder) -> None:
    print(f"{folder.root.name}: cancelling its Slurm jobs; waiting for them to save their state.")
    from experiments.sweep.slurm.job_manager import cancel_jobs  # loads torch

    with acquire_sweep_lock(folder) as hold:
        count = cancel_jobs(folder, hold.heartbeat)
    print(f"{plural(count, 'job')} cancelled." if count else "The jobs had already ended.")


def _terminate(folder: SweepFolder, launcher: Launcher) -> None:
    try:
        os.kill(launcher.pid, signal.SIGTERM)
        os.kill(launcher.pid, signal.SIGCONT)  # it may be suspended (Ctrl-Z)
    except ProcessLookupError:  # the launcher has ended in the meantime
        return
    except PermissionError:
        raise FaninError(
            f"process {launcher.pid} belongs to another user; only they can stop it"
        ) from None
    print(
        f"{folder.root.name}: sent SIGTERM to process {launcher.pid}; waiting for it to save its "
        "state."
    )
    while (now := find_launcher(folder)) and now.pid == launcher.pid and now.alive:
        time.sleep(POLL_INTERVAL)
    print("The launcher has stopped.")


def _parser() -> CommandParser:
    parser = CommandParser(
        "cancel",
        description="Stop a running sweep and its Slurm jobs. All finished cells are kept.",
        epilog="Exit status: 0 if the sweep has stopped or was not running; 2 if it can't be "
        "stopped from this host or by this user.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the sweep's folder under results/")
    parser.add_argument(
        "--results", default="results", help="folder of all sweeps (default: results)"
    )
    return parser


if __name__ == "__main__":
    main()
