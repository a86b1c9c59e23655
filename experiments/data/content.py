"""The bytes of a data file, decompressed and verified; a ValueError says what is wrong with them.

Nothing here unpickles or extracts to disk: an archive's members are read in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}

TORN = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)
"""What the standard library raises on compressed files that are cut short or garbled."""


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
    """Return the named members of a .tar.gz archive, wherever in it they lie.

    Parameters
    ----------
    path
        The archive.
    sha256
        The wanted file names, each with the sum of its content; None where only the archive's
        own sum is published.
    md5
        The sum of the archive itself; None if its members' sums say enough.

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
