"""Fetch a file once, however many processes ask, and keep it only if it is the right one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from pooch import HTTPDownloader

from fanin.errors import DataError

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds without a byte after which a host is given up."""


def fetch(urls: Sequence[str], destination: Path, check: Callable[[Path], object]) -> None:
    """Bring the first sound copy among `urls` to `destination`.

    The file arrives in a temporary folder beside its destination, is checked there, and is
    renamed into place whole. A lock makes a second process wait for the first one's file.

    Parameters
    ----------
    urls
        The same file at several hosts, tried in this order.
    destination
        Where the file should be; nothing happens if it is there.
    check
        Called with the arrived file; raises ValueError if it is not the right one.

    Raises
    ------
    DataError
        No host gave the right file, or the folder can't be written; names each reason.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if not destination.exists():
                _fetch_first_sound(urls, destination, check)
    except OSError as error:
        raise DataError(
            f"can't write {destination}: {error.strerror or error}\nSet data.root to a folder of "
            "yours."
        ) from error


def _fetch_first_sound(
    urls: Sequence[str], destination: Path, check: Callable[[Path], object]
) -> None:
    # Identity: a host that compresses on the fly would change the sum of what arrives.
    downloader = HTTPDownloader(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    failures = []
    with TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
        arriving = Path(folder) / destination.name
        for url in urls:
            log.info("downloading %s", url)
            try:
                downloader(url, str(arriving), None)
                check(arriving)
            except (OSError, ValueError) as error:  # what requests raises is an OSError
                failures.append(f"{url}:\n  {_reason(error)}")
            else:
                arriving.replace(destination)
                return
    listed = "\n".join(failures)
    raise DataError(
        f"could not download {destination.name}:\n{listed}\n"
        f"Mend the connection, or put the file into {destination.parent} yourself."
    )


def _reason(error: Exception) -> str:
    """Requests nests its errors: the innermost one says why."""
    if isinstance(error, ValueError):
        return str(error)
    inner: BaseException = error
    while inner.__context__ is not None:
        inner = inner.__context__
    # A 404 has no inner error and a good text; a failed look-up has both.
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__
