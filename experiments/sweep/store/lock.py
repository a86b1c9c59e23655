"""One launcher a sweep: who runs it now is written down, and a dead launcher's note is void."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from experiments.errors import FaninError
from experiments.sweep.store.paths import SweepFolder, write_whole


@contextmanager
def sole_launcher(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep for this process.

    Raises
    ------
    FaninError
        Another launcher on this host is at work on it.
    """
    here = {"host": platform.node(), "pid": os.getpid()}
    if folder.launcher.exists():
        other = json.loads(folder.launcher.read_text())
        if other["host"] == here["host"] and other != here and _alive(other["pid"]):
            raise FaninError(
                f"{folder.root}: process {other['pid']} is running this sweep; "
                "wait for it, or stop it with Ctrl-C there"
            )
    write_whole(folder.launcher, json.dumps(here).encode())
    try:
        yield
    finally:
        folder.launcher.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
