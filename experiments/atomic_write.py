"""Atomic file writes: a file exists in full or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fanin.errors import FaninError


class WriteError(FaninError):
    """A file cannot be written, for example because of a full disk or missing permissions."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # pickle rebuilds a worker's error from these
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.args[0]}: {self.reason}; all finished cells are saved. Fix the cause and run "
            "the same command again to resume."
        )


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file atomically: after a crash it holds either the new content or the old.

    The bytes go to a temporary file in the same folder, are synced to disk, and are renamed to
    `path`. Missing folders are created.

    Raises
    ------
    WriteError
        The file cannot be written. Its old content is unchanged.
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
    """Sync a folder's directory entries to disk; syncing a file does not sync its name."""
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
