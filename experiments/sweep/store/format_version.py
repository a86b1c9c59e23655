"""Format version of a sweep's folder: written with its plan, checked by every reader."""

from __future__ import annotations

import json

from experiments.atomic_write import atomic_write
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

FORMAT_VERSION = 1  # raise it when a column, a value or a file changes its name or its meaning


def write_format(folder: SweepFolder) -> None:
    """Write the format version, if the folder has none."""
    if not folder.format.exists():
        atomic_write(folder.format, json.dumps({"format": FORMAT_VERSION}).encode())


def check_format(folder: SweepFolder) -> None:
    """Check that this version of the code can read a folder; a folder without results passes.

    Raises
    ------
    FaninError
        The folder has results and another format version, or none.
    """
    version = _read_format(folder)
    if version == FORMAT_VERSION or (version is None and not _has_results(folder)):
        return
    if version is None:
        actual = f"no readable format version ({folder.format.name})"
    else:
        actual = f"format version {version}"
    raise FaninError(
        f"{folder.root}: this sweep has {actual}; this version of fanin reads format version "
        f"{FORMAT_VERSION}. Run the sweep again under another sweep.name, or delete the folder; "
        f"to read it as it is, check out the commit that wrote it (see {folder.provenance})"
    )


def _read_format(folder: SweepFolder) -> object:
    """Return the version that the folder's file states; None if it states none."""
    try:
        content = json.loads(folder.format.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def _has_results(folder: SweepFolder) -> bool:
    return folder.plan.exists() or folder.table("cells").is_dir()
