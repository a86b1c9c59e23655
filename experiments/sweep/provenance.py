"""Which code runs: the commit, and what the files say where they differ from it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.config.instantiate import TARGET

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = sysconfig.get_path("platlib")  # what lies there is known by its version


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


def own_modules(configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The user's own modules that parts of configs come from, each with a digest of its file.

    To be asked once they are loaded; what they import in their turn isn't looked at.

    Examples
    --------
    >>> own_modules([{"optim": {"_target_": "experiments.optim.Sgd"}}])
    {}
    """
    targets = {target for config in configs for target in _targets(config)}
    names = {target.rpartition(".")[0] for target in targets}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {n: _digest_of(n, file) for n, file in files.items() if file and _is_own(Path(file))}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if TARGET in node:
            yield node[TARGET]
        for value in node.values():
            yield from _targets(value)


def _is_own(file: Path) -> bool:
    return not (file.is_relative_to(PACKAGE) or file.is_relative_to(LIBRARIES))


@cache
def _digest_of(name: str, file: str) -> str:
    """32 bits of SHA-256 over a module's file, as it is when this process first asks."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]


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
