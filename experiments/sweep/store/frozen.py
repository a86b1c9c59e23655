"""The frozen plan: what was asked, of which code, on which machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from experiments.config.identity import fingerprint
from experiments.errors import ConfigError
from experiments.sweep.expand import PlannedCell
from experiments.sweep.store.paths import SweepFolder, write_whole

LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "scipy", "hydra-core")
REPOSITORY = Path(__file__).resolve().parents[3]


def freeze(folder: SweepFolder, cells: Sequence[PlannedCell], asked: Mapping[str, Any]) -> None:
    """Write `cells.jsonl` and `sweep.yaml`, adding to what earlier launches wrote there.

    Raises
    ------
    ConfigError
        A cell that is there under the same id has another configuration.
    """
    known = {line["cell_id"]: line for line in read_frozen(folder)}
    for cell in cells:
        before = known.get(cell.id)
        if before is not None and fingerprint(before["config"]) != fingerprint(cell.config):
            raise ConfigError(
                f"{folder.plan}: {cell.id} is there with another configuration; "
                "choose another sweep.name"
            )
        known[cell.id] = {
            "cell_id": cell.id,
            "asked": cell.assignment,
            "choices": cell.choices,
            "config": cell.config,
        }
    lines = "".join(f"{json.dumps(line)}\n" for line in known.values())
    write_whole(folder.plan, lines.encode())
    about = {
        **asked,
        "cells": len(cells),
        "launched": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
        "diff": _git("diff", "HEAD") or "",
    }
    # One YAML document a launch: results of earlier launches came from the code named there.
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=100)
    earlier = folder.provenance.read_text() if folder.provenance.exists() else ""
    write_whole(folder.provenance, f"{earlier}---\n{text}".encode())


def read_frozen(folder: SweepFolder) -> list[dict[str, Any]]:
    """Every cell that was ever planned in this folder: what was `asked`, and what that made."""
    if not folder.plan.exists():
        return []
    return [json.loads(line) for line in folder.plan.read_text().splitlines()]


@cache
def code_version() -> str:
    """The commit of the code that runs, `+` where the tree differs from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return commit.strip() + ("+" if _git("status", "--porcelain", "-uno") else "")


def machine() -> dict[str, Any]:
    """Where this process runs."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "command": shlex.join(sys.orig_argv),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
