"""Spoilt packs, moved out of the way so that their cells run again."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from experiments.atomic_write import writing
from experiments.sweep.store.parquet import part_path
from experiments.sweep.store.paths import TABLES, TEMPORARY, SweepFolder
from experiments.sweep.store.scan import Fault, steadily, survey
from experiments.sweep.store.tables import read_pack


def quarantine(folder: SweepFolder) -> list[Fault]:
    """Verify every part in full, and move all parts of spoilt packs to `spoilt/`.

    Nothing is deleted but what killed processes left half written, and files that are none of the
    sweep's are left alone. To be called under `sole_launcher`, before it is decided what runs.

    Returns
    -------
    list of Fault
        What is wrong with which file, and where it is now.
    """
    _clear(folder)
    faults = steadily(lambda: _faults(folder))
    for stem in dict.fromkeys(fault.stem for fault in faults if fault.stem is not None):
        for name in reversed(TABLES):  # first `cells`, which readers go by
            _set_aside(folder, name, stem)
    return [
        replace(fault, reason=f"{fault.reason}; its pack is now in {folder.spoilt}/")
        if fault.stem is not None
        else fault
        for fault in faults
    ]


def _clear(folder: SweepFolder) -> None:
    """Remove temporary files; `predictions` may be written now, and are analysis's own affair."""
    tables = (folder.table(name) for name in TABLES)
    for where in (folder.root, folder.errors, folder.journals, *tables):
        for path in where.glob(TEMPORARY):
            with writing(path):
                path.unlink(missing_ok=True)


def _faults(folder: SweepFolder) -> list[Fault]:
    found = survey(folder)
    read = (read_pack(folder, pack) for pack in found.packs.values())
    return found.faults + [parts for parts in read if isinstance(parts, Fault)]


def _set_aside(folder: SweepFolder, name: str, stem: str) -> None:
    path, there = part_path(folder, name, stem), folder.spoilt / name
    with writing(path):
        if not path.exists():
            return
        there.mkdir(parents=True, exist_ok=True)
        names = (f"{stem}{f'.{n}' if n else ''}.parquet" for n in count())
        path.replace(next(there / new for new in names if not (there / new).exists()))
