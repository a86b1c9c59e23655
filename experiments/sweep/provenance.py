"""Provenance of results: commit and digest of the code, library versions, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import fanin
from experiments.config.instantiate import TARGET
from experiments.user_code import LIBRARIES

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (REPOSITORY / "experiments", Path(fanin.__file__).parent)  # the code that runs cells


@cache
def code_version() -> str:
    """Return the commit of this code; if files differ from it, followed by `+` and their digest.

    Files in docs/ do not count: no code reads them, and commands write several in one run.

    The result is cached, so processes forked later return the same version: they run the same code
    even if the files have changed since.

    Examples
    --------
    >>> code_version().partition("+")[0] != ""
    True
    """
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return f"unknown+{_digest()}"
    dirty = git("status", "--porcelain", "-uno", "--", ".", ":(exclude)docs")
    return commit.strip() + (f"+{_digest()}" if dirty else "")


def user_modules(configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return digests of the user's own modules that configs name as targets.

    Call this after they are imported. Modules that they import are not included.

    Examples
    --------
    >>> user_modules([{"optim": {"_target_": "experiments.optim.Sgd"}}])
    {}
    """
    targets = {target for config in configs for target in _targets(config)}
    names = {target.rpartition(".")[0] for target in targets}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {
        n: _digest_of(file) for n, file in files.items() if file and _is_user_module(Path(file))
    }


PROBE = "fanin.probes.settings.Probe"


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if TARGET in node:
            yield node[TARGET]
        if node.get(TARGET) == PROBE:
            yield from node.get("quantities", ())
        for value in node.values():
            yield from _targets(value)


def _is_user_module(file: Path) -> bool:
    # Modules of libraries are identified by the versions of these.
    return not any(file.is_relative_to(folder) for folder in (*PACKAGES, *LIBRARIES))


@cache
def _digest_of(file: str) -> str:
    """Return 32 bits of SHA-256 over a module's file; cached for this process."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]
    except OSError:  # deleted or renamed since it was imported
        return "missing"


def git(*arguments: str) -> str | None:
    """Return the output of a git command in this repository; None if it fails."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a diff may contain files in other encodings
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout


def _digest() -> str:
    """Return 32 bits of SHA-256 over the source files that run cells."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


@cache
def versions(*names: str) -> dict[str, str]:
    """Return versions of Python and of libraries."""
    return {
        name: platform.python_version() if name == "python" else version(name) for name in names
    }


def machine() -> dict[str, Any]:
    """Describe this machine and the command line of this process."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "command": shlex.join(sys.orig_argv),
    }


def typed_command(recorded: str) -> str:
    """Return a command line of `machine` as typed, without the path of Python.

    >>> typed_command("/usr/bin/python3 /opt/venv/bin/fanin run -m sweep=he2015")
    'fanin run -m sweep=he2015'
    """
    words = shlex.split(recorded)
    if not words:
        return ""
    if re.fullmatch(r"fanin(-\w+)?", program := PurePath(words[1]).name if words[1:] else ""):
        return shlex.join([program, *words[2:]])
    return shlex.join(["python", *words[1:]])
