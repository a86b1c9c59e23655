"""Which process wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def born(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; None where the system won't say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def runs(host: str, pid: int, began: str | None) -> bool | None:
    """Whether a process still runs, and not one that has got its number.

    Returns
    -------
    bool or None
        None where it is another host's: nobody can tell from here.
    """
    if host != platform.node():
        return None
    return alive(pid) and began in (None, born(pid))
