"""Which process wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def born(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; None where the system won't say."""
    fields = _stat(pid)
    return fields[19] if fields else None


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine; a zombie has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    fields = _stat(pid)
    return not fields or fields[0] != "Z"


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on (proc(5)); nothing where it doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


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
