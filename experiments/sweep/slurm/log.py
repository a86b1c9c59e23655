"""What launchers have seen happen to jobs, a line each, for every view of the sweep."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from experiments.sweep.store.paths import SweepFolder


def log_path(folder: SweepFolder) -> Path:
    """The file."""
    return folder.slurm / "log.txt"


def log(folder: SweepFolder, text: str) -> None:
    """Add a line; one that the disk doesn't take is no reason to stop."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError), log_path(folder).open("a") as file:
        file.write(f"{now} {' '.join(text.split())}\n")


def read_log(folder: SweepFolder) -> list[str]:
    """All lines, the oldest first."""
    with suppress(OSError):
        return log_path(folder).read_text(errors="replace").splitlines()
    return []
