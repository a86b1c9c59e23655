"""The files of published data sets: found, fetched, verified, copied to a node's own disk.

Nothing here unpickles, and an archive's members are read in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pooch
from filelock import FileLock

from fanin.errors import DataError

OFFLINE = "FANIN_OFFLINE"  # environment variable: where it is set, nothing is downloaded
STAGE = "FANIN_STAGE"  # environment variable: a folder on this machine's own disk
TIMEOUT = 30.0  # seconds without a byte after which a host is given up

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
# What the standard library raises on compressed files that are cut short or garbled.
TORN = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)

T = TypeVar("T")
log = logging.getLogger(__name__)


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
    files: FileSet, name: str, root: Path, suffixes: tuple[str, ...] = tuple(DECOMPRESS)
) -> Path | None:
    """Return the first place where the file lies, plain or compressed; None if nowhere."""
    candidates = (place / f"{name}{end}" for place in files.places(root) for end in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def _read_loose(files: FileSet, name: str, root: Path, download: bool) -> bytes:
    sha256 = files.sha256[name]
    assert sha256 is not None
    check = partial(verified, sha256=sha256)
    path = _find_or_fetch(files, name, tuple(DECOMPRESS), root, download, check)
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
    destination = root / files.folders[0] / name
    compressed = suffixes != ("",)
    fetch([f"{mirror}/{name}" for mirror in files.mirrors], destination, check, compressed)
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


def fetch(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object], compressed: bool
) -> None:
    """Bring the first sound copy among `urls` to `destination`, once however many processes ask.

    The file arrives (as URL.gz, where it is `compressed` there) and is decompressed in a temporary
    folder beside its destination, is checked there, and is renamed into place whole. `check` raises
    ValueError where it is not the right one.

    Raises
    ------
    DataError
        No host gave the right file, or the folder can't be written; names each reason.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if not destination.exists():
                _fetch_first_sound(urls, destination, check, compressed)
    except OSError as error:
        raise DataError(
            f"can't write {destination}: {error.strerror or error}\nSet data.root to a folder of "
            "yours."
        ) from error


def _fetch_first_sound(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object], compressed: bool
) -> None:
    name, suffix = destination.name, ".gz" if compressed else ""
    processor = pooch.Decompress(name=name) if compressed else None
    # Identity: a host that compresses on the fly would change what arrives.
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
            log.info("downloading %s%s", url, suffix)
            try:
                # No `known_hash`: the one that is known is of the decompressed content.
                pooch.retrieve(
                    f"{url}{suffix}", None, f"{name}{suffix}", folder, processor, downloader
                )
                check(Path(folder) / name)
            except (OSError, ValueError, *TORN) as error:  # what requests raises is an OSError
                failures.append(f"{url}{suffix}:\n  {_reason(error)}")
            else:
                (Path(folder) / name).replace(destination)
                return
    listed = "\n".join(failures)
    raise DataError(
        f"could not download {name}{suffix}:\n{listed}\n"
        f"Mend the connection, or put the file into {destination.parent} yourself."
    )


def _reason(error: Exception) -> str:
    """Requests nests its errors: the innermost one says why."""
    if isinstance(error, TORN):
        return f"a torn file ({error})"
    if isinstance(error, ValueError):
        return str(error)
    inner: BaseException = error
    while inner.__context__ is not None:
        inner = inner.__context__
    # A 404 has no inner error and a good text; a failed look-up has both.
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__


def verified(path: Path, sha256: str) -> bytes:
    """Return a file's content, decompressed if its name ends in .gz or .xz.

    Raises
    ------
    ValueError
        The content has another SHA-256 sum, is torn, or can't be read.
    """
    with _clear_errors(f"SHA-256 {sha256}"):
        content = DECOMPRESS.get(path.suffix, bytes)(path.read_bytes())
    _compare("SHA-256", sha256, hashlib.sha256(content).hexdigest())
    return content


def verified_members(
    path: Path, sha256: Mapping[str, str | None], md5: str | None
) -> dict[str, bytes]:
    """Return the members of a .tar.gz archive that `sha256` names, wherever in it they lie.

    `sha256` is None where only the archive's own `md5` is published, which is None otherwise.

    Raises
    ------
    ValueError
        A sum differs, a member is missing, or the archive is torn or can't be read.
    """
    members = {}
    with _clear_errors(f"md5 {md5}" if md5 else "a .tar.gz archive"):
        if md5 is not None:
            with path.open("rb") as file:
                _compare("md5", md5, hashlib.file_digest(file, "md5").hexdigest())
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in sha256 and (file_in_archive := archive.extractfile(member)):
                    members[name] = file_in_archive.read()
    for name, expected in sha256.items():
        if name not in members:
            raise ValueError(f"the archive has no {name}")
        if expected is not None:
            found = hashlib.sha256(members[name]).hexdigest()
            _compare(f"SHA-256 of {name}:", expected, found)
    return members


def _compare(kind: str, expected: str, found: str) -> None:
    if found != expected:
        raise ValueError(f"expected {kind} {expected}\n  found    {kind} {found}")


@contextmanager
def _clear_errors(expected: str) -> Iterator[None]:
    try:
        yield
    except TORN as error:
        raise ValueError(f"expected {expected}\n  found    a torn file ({error})") from error
    except OSError as error:
        raise ValueError(f"expected {expected}\n  found    {error.strerror or error}") from error


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
