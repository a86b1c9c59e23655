"""Copies of data files on a node's local disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from fanin.errors import DataError

STAGE = "FANIN_STAGE"  # environment variable: folder on this node's local disk


def staged(path: Path) -> Path:
    """Copy a file to the folder that `FANIN_STAGE` names; return the path to read.

    That is the path of the copy, or `path` if the variable is not set. Concurrent processes copy
    the file once, atomically. A file that has changed is copied again.

    Raises
    ------
    DataError
        The file cannot be copied.
    """
    stage = os.environ.get(STAGE)
    if not stage:
        return path
    source = path.resolve()
    stat = source.stat()
    version = f"{source} {stat.st_size} {stat.st_mtime_ns}"
    digest = hashlib.sha256(version.encode()).hexdigest()[:16]
    folder = Path(stage) / f"fanin-{os.getuid()}" / digest
    copy = folder / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not copy.exists():
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    shutil.copyfile(source, Path(temporary) / path.name)
                    (Path(temporary) / path.name).replace(copy)
    except OSError as error:
        raise DataError(
            f"{copy}: can't write this copy of the data ({error.strerror or error}); set "
            "runner.stage_data to a folder on each node's local disk"
        ) from error
    return copy
