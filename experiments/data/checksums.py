"""Verified content of files and archives; members of archives are read in memory."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
# Exceptions of the standard library for truncated or corrupted compressed files.
CORRUPT_FILE = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


def verified(path: Path, sha256: str) -> bytes:
    """Return a file's verified content, decompressed if its name ends in .gz or .xz.

    Raises
    ------
    ValueError
        The file has another SHA-256 sum, is corrupted, or cannot be read.
    """
    with _clear_errors(f"SHA-256 {sha256}"):
        content = DECOMPRESS.get(path.suffix, bytes)(path.read_bytes())
    _compare("SHA-256", sha256, hashlib.sha256(content).hexdigest())
    return content


def verified_members(
    path: Path, sha256: Mapping[str, str | None], md5: str | None
) -> dict[str, bytes]:
    """Return the verified content of members of a .tar.gz archive, by file name.

    Parameters
    ----------
    path
        The archive; a member may be in any of its folders.
    sha256
        SHA-256 sum of each member, by file name; None if only the archive's sum is published.
    md5
        MD5 sum of the archive; None if the members' sums are published.

    Raises
    ------
    ValueError
        A sum differs, a member is missing, or the archive is corrupted or cannot be read.
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
            actual = hashlib.sha256(members[name]).hexdigest()
            _compare(f"SHA-256 of {name}:", expected, actual)
    return members


def _compare(kind: str, expected: str, actual: str) -> None:
    if actual != expected:
        raise ValueError(f"expected {kind} {expected}\n  found    {kind} {actual}")


@contextmanager
def _clear_errors(expected: str) -> Iterator[None]:
    try:
        yield
    except CORRUPT_FILE as error:
        raise ValueError(
            f"expected {expected}\n  found    a truncated or corrupted file ({error})"
        ) from error
    except OSError as error:
        raise ValueError(f"expected {expected}\n  found    {error.strerror or error}") from error
