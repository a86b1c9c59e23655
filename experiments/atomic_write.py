"""Files that are there in full or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fanin.errors import FaninError


class WriteError(FaninError):
    """A file can't be written: a full disk, or a folder of someone else's."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # as given: a worker's error is pickled
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.args[0]}: {self.reason}; every cell that was finished is kept: mend that, and "
            "the same command goes on from there"
        )


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that it is either there in full or as it was before.

    The bytes go to a temporary file beside it, are forced to disk, and take their name in one
    rename. Its folder is made when needed.

    Raises
    ------
    WriteError
        The file can't be written; what stood under this name before still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Force to disk which files a folder holds: a file's own content is, but for its name."""
    with writing(path):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a WriteError about this file."""
    try:
        yield
    except OSError as error:
        raise WriteError(path, f"can't be written ({error.strerror or error})") from error
