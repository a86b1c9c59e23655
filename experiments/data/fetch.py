"""Files of published data sets: find, download and verify. Nothing is unpickled."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pooch
from filelock import FileLock

from experiments.data.checksums import CORRUPT_FILE, DECOMPRESS, verified, verified_members
from experiments.data.staging import staged
from experiments.data_root import DATA
from fanin.commands import command_line
from fanin.errors import DataError

OFFLINE = "FANIN_OFFLINE"  # environment variable that disables downloads
TIMEOUT = 30.0  # seconds without data after which a download is aborted

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A tar archive of all files; `md5` is set if no sums of its members are published."""

    name: str
    md5: str | None = None


@dataclass(frozen=True)
class FileSet:
    """The files of one data set and their possible locations.

    Parameters
    ----------
    folders
        Folders under `data.root`, searched in this order before `data.root` itself. Downloads
        go to the first, which has the name of the data set.
    sha256
        SHA-256 sum of the decompressed content, by file name. None if no sum is published: such a
        file is only read from a verified archive.
    mirrors
        URLs of folders with the archive (or with NAME.gz files), tried in this order.
    system
        Folders outside `data.root`, searched last.
    archive
        An archive of all files, used unless all of them exist as separate files.
    """

    folders: tuple[str, ...]
    sha256: Mapping[str, str | None]
    mirrors: tuple[str, ...]
    system: tuple[str, ...] = ()
    archive: Archive | None = None

    def search_folders(self, root: Path) -> Iterator[Path]:
        """Yield the folders in the order in which they are searched."""
        yield from (root / folder for folder in self.folders)
        yield root
        yield from map(Path, self.system)


def read(files: FileSet, root: Path, download: bool) -> dict[str, bytes]:
    """Return the verified, decompressed content of all files, by name.

    Of each file, only the first copy found is read; if it is damaged, no other is searched for.

    Raises
    ------
    DataError
        A file is damaged or missing. The message names the file and a remedy.
    """
    if files.archive is None:
        return {name: _read_loose(files, name, root, download) for name in files.sha256}
    if all(sha256 and find(files, name, root) for name, sha256 in files.sha256.items()):
        return {name: _read_loose(files, name, root, download=False) for name in files.sha256}
    check = partial(verified_members, sha256=files.sha256, md5=files.archive.md5)
    path = _find_or_fetch(files, files.archive.name, ("",), root, download, check)
    return _read_checked(check, path)


def find(
    files: FileSet, name: str, root: Path, suffixes: tuple[str, ...] = tuple(DECOMPRESS)
) -> Path | None:
    """Return the first location of a file, plain or compressed; None if there is none."""
    folders = files.search_folders(root)
    candidates = (folder / f"{name}{suffix}" for folder in folders for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def has_files(files: FileSet, root: Path) -> bool:
    """Return True if all files, or their archive, exist under `root`; their content is not read."""
    archive = files.archive
    if archive is not None and find(files, archive.name, root, ("",)) is not None:
        return True
    return all(
        (sha256 is not None or archive is None) and find(files, name, root) is not None
        for name, sha256 in files.sha256.items()
    )


def _read_loose(files: FileSet, name: str, root: Path, download: bool) -> bytes:
    sha256 = files.sha256[name]
    assert sha256 is not None
    check = partial(verified, sha256=sha256)
    path = _find_or_fetch(files, name, tuple(DECOMPRESS), root, download, check)
    return _read_checked(check, path)


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
    destination = root / files.folders[0] / name
    compressed = suffixes != ("",)
    fetch([f"{mirror}/{name}" for mirror in files.mirrors], destination, check, compressed)
    return destination


def _read_checked(check: Callable[[Path], T], path: Path) -> T:
    try:
        return check(path)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged or not the official file:\n  {error}\n"
            f"Delete or replace it, or set data.root (or {DATA}) to another folder."
        ) from error


def _missing(files: FileSet, name: str, suffixes: tuple[str, ...], root: Path) -> str:
    forms = " or ".join(f"{name}{end}" for end in suffixes)
    reason = (
        f"downloads are disabled ({OFFLINE}, set in Slurm jobs)"
        if os.environ.get(OFFLINE)
        else "data.download=false"
    )
    lines = [f"{reason}, and there is no file {forms} in"]
    lines += [f"  {folder}" for folder in files.search_folders(root)]
    if files.archive is not None and all(files.sha256.values()):
        lines.append(
            "These separate files (plain, .gz or .xz) would do too, but not all of them exist: "
            f"{', '.join(files.sha256)}."
        )
    elif files.archive is not None:
        lines.append(
            f"Separate files {', '.join(files.sha256)} are not used: no checksums are published."
        )
    download = command_line("data", "fetch", files.folders[0], "--root", str(root))
    lines.append(
        f"Set data.root (or the environment variable {DATA}) to a folder that has it, or download "
        "it on a host with internet access "
        f"(from {' or '.join(files.mirrors)}):\n  {download}"
    )
    return "\n".join(lines)


def fetch(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object], compressed: bool
) -> None:
    """Download the first valid file among `urls`; concurrent processes download it once.

    The file is downloaded to a temporary folder beside `destination`, decompressed and checked
    there, and then renamed.

    Parameters
    ----------
    urls
        Addresses, tried in this order.
    destination
        Path of the decompressed file.
    check
        Raises ValueError if the file is not the right one.
    compressed
        Download URL.gz and decompress it.

    Raises
    ------
    DataError
        No URL has a valid file, or the folder cannot be written. The message gives each reason.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if not destination.exists():
                _fetch_first_valid(urls, destination, check, compressed)
    except OSError as error:
        raise DataError(
            f"can't write {destination}: {error.strerror or error}\n"
            f"Set data.root (or the environment variable {DATA}) to a folder that you can write."
        ) from error


def _fetch_first_valid(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object], compressed: bool
) -> None:
    name, suffix = destination.name, ".gz" if compressed else ""
    processor = pooch.Decompress(name=name) if compressed else None
    # "identity", because a host that compresses on the fly would change the file.
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
            log.info("downloading %s%s", url, suffix)
            try:
                # No `known_hash`: the known sum is of the decompressed content.
                pooch.retrieve(
                    f"{url}{suffix}", None, f"{name}{suffix}", folder, processor, downloader
                )
                check(Path(folder) / name)
            except (OSError, ValueError, *CORRUPT_FILE) as error:  # requests raises OSErrors
                failures.append(f"{url}{suffix}:\n  {_reason(error)}")
            else:
                (Path(folder) / name).replace(destination)
                return
    reasons = "\n".join(failures)
    raise DataError(
        f"could not download {name}{suffix}:\n{reasons}\n"
        f"Check the network connection, put the file into {destination.parent} yourself, or set "
        f"data.root (or the environment variable {DATA}) to a folder that has it."
    )


def _reason(error: Exception) -> str:
    """Return the message of the innermost error, which in requests is the cause."""
    if isinstance(error, CORRUPT_FILE):
        return f"a truncated or corrupted file ({error})"
    if isinstance(error, ValueError):
        return str(error)
    inner: BaseException = error
    while inner.__context__ is not None:
        inner = inner.__context__
    # Without an inner error (a 404) `inner` is the error itself.
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__
