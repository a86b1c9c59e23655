"""Stop a sweep that runs, its jobs too: `python -m experiments.cancel NAME`.

Nothing finished is lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.console import exit_on_error
from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import plural
from experiments.sweep.status.status import Launcher, find_launcher
from experiments.sweep.status.watch import Watch, find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

LOOK_EVERY = 0.1  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Tell a sweep's launcher to stop, and wait until it has."""
    asked = _parser().parse_args(argv)
    with exit_on_error(interrupted="Not waiting any longer; the sweep stops all the same."):
        folder = find_sweep(Path(asked.results), asked.name)
        cancel(folder)


def cancel(folder: SweepFolder) -> None:
    """Stop a sweep, and say what is kept.

    Raises
    ------
    FaninError
        Its launcher is on another host, or somebody else's.
    """
    launcher = find_launcher(folder)
    jobs = bool(open_submissions(folder))
    if launcher is None or not launcher.at_work:
        if not jobs:
            print(f"{folder.root.name}: nobody runs it.")
    elif launcher.alive is None:
        raise FaninError(
            f"{folder.root.name}: process {launcher.pid} on {launcher.host} runs it; stop it "
            f"there: ssh {launcher.host} kill -TERM {launcher.pid}"
        )
    else:
        _terminate(folder, launcher)
    if jobs:
        _withdraw(folder)
    counts = Watch(folder).look(0).counts
    left = counts["interrupted"] + counts["missing"]
    rest = f"the command that started it runs the other {left:,}" if left else "none is left to run"
    print(
        f"{counts['done'] + counts['failed']:,} cells are finished and kept in {folder.root}/; "
        f"{rest}."
    )


def _withdraw(folder: SweepFolder) -> None:
    """Cancel a sweep's jobs on Slurm."""
    print(f"{folder.root.name}: its jobs are told to stop; they put away what they have ...")
    from experiments.sweep.slurm.job_manager import cancel_jobs  # loads torch

    with acquire_sweep_lock(folder) as hold:
        count = cancel_jobs(folder, hold.beat)
    print(f"{plural(count, 'job')} cancelled." if count else "They had ended.")


def _terminate(folder: SweepFolder, launcher: Launcher) -> None:
    try:
        os.kill(launcher.pid, signal.SIGTERM)
    except ProcessLookupError:  # it has ended since
        return
    except PermissionError:
        raise FaninError(f"process {launcher.pid} is another user's: only they stop it") from None
    print(f"{folder.root.name}: told process {launcher.pid} to stop; it puts away what it has ...")
    while (now := find_launcher(folder)) and now.pid == launcher.pid and now.alive:
        time.sleep(LOOK_EVERY)
    print("It has stopped.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.cancel",
        description="Stop a sweep, and its jobs on Slurm. Nothing finished is lost.",
        epilog="Exit status: 0, also where nobody runs it; 2 where it can't be stopped from here.",
    )
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    return parser


if __name__ == "__main__":
    main()
