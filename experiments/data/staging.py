"""Copies of data files on a node's own disk, for file systems that many jobs read at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from fanin.errors import DataError

STAGE = "FANIN_STAGE"  # environment variable: a folder on this machine's own disk


def staged(path: Path) -> Path:
    """A file's copy in the folder that `FANIN_STAGE` names; without that, the file itself.

    Of several processes one copies it. A copy is there whole or not at all, and is made anew where
    the file has changed.

    Raises
    ------
    DataError
        It can't be copied there.
    """
    where = os.environ.get(STAGE)
    if not where:
        return path
    source = path.resolve()
    stat = source.stat()
    known = f"{source} {stat.st_size} {stat.st_mtime_ns}"
    folder = Path(where) / f"fanin-{os.getuid()}" / hashlib.sha256(known.encode()).hexdigest()[:16]
    copy = folder / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not copy.exists():
                with tempfile.TemporaryDirectory(dir=folder) as half:
                    shutil.copyfile(source, Path(half) / path.name)
                    (Path(half) / path.name).replace(copy)
    except OSError as error:
        raise DataError(
            f"{copy}: can't be copied there ({error.strerror or error}); "
            "runner.stage_data names a folder on each node's own disk"
        ) from error
    return copy
