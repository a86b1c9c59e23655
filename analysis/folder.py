"""Folder of a sweep. This module loads quickly, so that commands can check a name first."""

from __future__ import annotations

from pathlib import Path

from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError, suggest


def sweep_folder(name: str | Path, results: str | Path) -> SweepFolder:
    """Return the folder of a sweep.

    Raises
    ------
    FaninError
        The sweep does not exist (the message lists the nearest names), or it has another format
        version.
    """
    folder = SweepFolder(Path(results) / name)
    if not folder.plan.exists():
        names = [path.parent.name for path in Path(results).glob("*/cells.jsonl")]
        hint = (
            suggest(folder.root.name, names)
            if names
            else f"{results}/ contains no sweep; set --results FOLDER"
        )
        raise FaninError(f"{folder.root}: no such sweep; {hint}")
    check_format(folder)
    return folder
