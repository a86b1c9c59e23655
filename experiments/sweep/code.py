"""Which code runs: the commit, and what the files say where they differ from it."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def code_version() -> str:
    """The commit of the code that this process runs, and where the tree differs from it, `+` and a
    digest of what was there when first asked.

    Processes that were forked from this one afterwards give the same answer, as they run the same
    code, whatever has become of the files.

    Examples
    --------
    >>> code_version().partition("+")[0] != ""
    True
    """
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return f"unknown+{_digest()}"
    dirty = git("status", "--porcelain", "-uno")
    return commit.strip() + (f"+{_digest()}" if dirty else "")


def git(*arguments: str) -> str | None:
    """What git says of the repository that this code lies in; None where it says nothing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _digest() -> str:
    """32 bits of SHA-256 over the source files of this package."""
    hashed = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        hashed.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return hashed.hexdigest()[:8]
