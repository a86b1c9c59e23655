"""The files of a published data set: where they may be, and reading them verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from experiments.data.content import verified, verified_members
from experiments.data.download import fetch
from experiments.data.staging import staged
from fanin.errors import DataError

OFFLINE = "FANIN_OFFLINE"  # environment variable: where it is set, nothing is downloaded
SUFFIXES = ("", ".gz", ".xz")

T = TypeVar("T")


@dataclass(frozen=True)
class Archive:
    """A tar archive that holds all the files; `md5` where its members' sums are unpublished."""

    name: str
    md5: str | None = None


@dataclass(frozen=True)
class FileSet:
    """The files of one data set, and every place they may be.

    Parameters
    ----------
    folders
        Folders under `data.root`, searched in this order before `data.root` itself. Downloads
        go to the first.
    sha256
        File names, each with the SHA-256 sum of its decompressed content. None where no sum is
        published: such a file is read only out of a verified archive.
    mirrors
        Addresses of folders, tried in this order; they hold the archive, or else NAME.gz.
    system
        Folders outside `data.root`, searched last.
    archive
        An archive of all the files, used where they don't all lie about loose.
    """

    folders: tuple[str, ...]
    sha256: Mapping[str, str | None]
    mirrors: tuple[str, ...]
    system: tuple[str, ...] = ()
    archive: Archive | None = None

    def places(self, root: Path) -> Iterator[Path]:
        """Yield the folders in the order in which they are searched."""
        yield from (root / folder for folder in self.folders)
        yield root
        yield from map(Path, self.system)


def read(files: FileSet, root: Path, download: bool) -> dict[str, bytes]:
    """Return the verified, decompressed content of every file, by name.

    The first file found is the one used: if it is not the official one, that is an error, and
    never a reason to look further.

    Parameters
    ----------
    files
        What to read.
    root
        The folder `data.root`.
    download
        Whether to fetch what is missing.

    Raises
    ------
    DataError
        A file is damaged or missing; says which, and what to do.
    """
    if files.archive is None:
        return {name: _read_loose(files, name, root, download) for name in files.sha256}
    if all(sha256 and find(files, name, root) for name, sha256 in files.sha256.items()):
        return {name: _read_loose(files, name, root, download=False) for name in files.sha256}
    check = partial(verified_members, sha256=files.sha256, md5=files.archive.md5)
    path = _find_or_fetch(files, files.archive.name, ("",), root, download, check)
    return _sound(check, path)


def find(
    files: FileSet, name: str, root: Path, suffixes: tuple[str, ...] = SUFFIXES
) -> Path | None:
    """Return the first place where the file lies, plain or compressed; None if nowhere."""
    candidates = (place / f"{name}{end}" for place in files.places(root) for end in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def _read_loose(files: FileSet, name: str, root: Path, download: bool) -> bytes:
    sha256 = files.sha256[name]
    assert sha256 is not None
    check = partial(verified, sha256=sha256)
    path = _find_or_fetch(files, name, SUFFIXES, root, download, check)
    return _sound(check, path)


def _find_or_fetch(
    files: FileSet,
    name: str,
    suffixes: tuple[str, ...],
    root: Path,
    download: bool,
    check: Callable[[Path], object],
) -> Path:
    path = find(files, name, root, suffixes)
    if path is not None:
        return staged(path)
    if not download or os.environ.get(OFFLINE):
        raise DataError(_missing(files, name, suffixes, root))
    published = name if suffixes == ("",) else f"{name}.gz"
    destination = root / files.folders[0] / published
    fetch([f"{mirror}/{published}" for mirror in files.mirrors], destination, check)
    return destination


def _sound(read_checked: Callable[[Path], T], path: Path) -> T:
    try:
        return read_checked(path)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, or not the official file:\n  {error}\n"
            "Delete or replace it, or point data.root at another folder."
        ) from error


def _missing(files: FileSet, name: str, suffixes: tuple[str, ...], root: Path) -> str:
    forms = " or ".join(f"{name}{end}" for end in suffixes)
    why = "jobs on a cluster download nothing" if os.environ.get(OFFLINE) else "data.download=false"
    lines = [f"{why}, and found no {forms} in"]
    lines += [f"  {place}" for place in files.places(root)]
    if files.archive is not None and all(files.sha256.values()):
        lines.append(f"nor all of {', '.join(files.sha256)}, plain, .gz or .xz.")
    elif files.archive is not None:
        lines.append(f"Loose {', '.join(files.sha256)} have no published sum: not used.")
    lines.append(
        "Point data.root at a folder that has it, or set data.download=true to fetch it from "
        f"{' or '.join(files.mirrors)}"
    )
    return "\n".join(lines)
