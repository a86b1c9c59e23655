"""One launcher a sweep: who runs it now is written down, and a dead launcher's note is void."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.errors import FaninError
from experiments.sweep.store.paths import SweepFolder, write_whole, writing
from experiments.sweep.store.process import alive, born


@contextmanager
def sole_launcher(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep for this process.

    Raises
    ------
    FaninError
        Another launcher on this host is at work on it.
    """
    pid = os.getpid()
    here = {"host": platform.node(), "pid": pid, "born": born(pid)}
    with writing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    # The lock is for two that start at once, and held only while looking and writing. Where file
    # systems know no such locks, the journals still keep the two apart.
    with writing(folder.launcher), FileLock(folder.root / ".launcher.lock"):
        other = _read(folder.launcher)
        if other is not None and other["host"] == here["host"] and other != here and _lives(other):
            raise FaninError(
                f"{folder.root}: process {other['pid']} is running this sweep; "
                "wait for it, or stop it with Ctrl-C there"
            )
        write_whole(folder.launcher, json.dumps(here).encode())
    try:
        yield
    finally:
        if _read(folder.launcher) == here:
            folder.launcher.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A launcher's note; None where there is none, or none that can be understood."""
    try:
        note = json.loads(path.read_text())
        return {"host": str(note["host"]), "pid": int(note["pid"]), "born": note.get("born")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _lives(note: dict[str, Any]) -> bool:
    """Whether the process that wrote a note still runs, and not one that has got its number."""
    return alive(note["pid"]) and note["born"] in (None, born(note["pid"]))
