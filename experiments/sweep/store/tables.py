"""A sweep's tables from its parts: what is sound, and which attempt at a cell is the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from experiments.sweep.store.parquet import decode, part_path
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.scan import Fault, StoredPack, steadily, survey, verified

Parts = dict[str, pa.Table]
"""Parts of one table by the stem of their files, or of one pack by table."""
THREADS = 4


def read_tables(
    folder: SweepFolder, names: Sequence[str] = TABLES, columns: Sequence[str] | None = None
) -> tuple[dict[str, Parts], list[Fault]]:
    """Read tables, each part in full and verified.

    Parameters
    ----------
    folder
        The sweep's; others may write and merge packs there meanwhile.
    names
        Which tables.
    columns
        Which columns of `cells`; None: all.

    Returns
    -------
    tables, faults
        A pack of which any part is spoilt is in no table. Each file that was passed over is named.
    """
    return steadily(lambda: _read(folder, names, columns))


def read_parts(
    folder: SweepFolder, name: str, columns: Sequence[str] | None = None
) -> list[tuple[str, pa.Table]]:
    """The sound parts of one table with their stems; `read_tables` also names the others."""
    return list(read_tables(folder, (name,), columns)[0][name].items())


def latest(cells: Parts) -> dict[str, list[str]]:
    """For each part, the cells whose latest attempt it holds (the last part, should two tie)."""
    where: dict[str, tuple[int, str]] = {}
    for stem, part in cells.items():
        rows = zip(part["cell_id"].to_pylist(), part["attempt"].to_pylist(), strict=True)
        for cell, attempt in rows:
            where[cell] = max(where.get(cell, (0, "")), (attempt, stem))
    found: dict[str, list[str]] = {}
    for cell, (_, stem) in where.items():
        found.setdefault(stem, []).append(cell)
    return found


def of_cells(part: pa.Table, cells: Iterable[str]) -> pa.Table:
    """A part's rows of some cells."""
    ids = part["cell_id"].cast(pa.string())
    return part.filter(pc.is_in(ids, value_set=pa.array(list(cells), pa.string())))


def read_pack(
    folder: SweepFolder,
    pack: StoredPack,
    names: Sequence[str] = TABLES,
    columns: Sequence[str] | None = None,
) -> Parts | Fault:
    """Read a pack's parts by table, or say which of them is spoilt."""
    parts: Parts = {}
    for name in names:
        try:
            if name == "cells":
                parts[name] = decode(pack.cells, columns)
            elif name in pack.siblings:
                parts[name] = decode(verified(pack, name))
        except (ValueError, OSError) as error:
            return Fault(part_path(folder, name, pack.stem), str(error), pack.stem)
    return parts


def _read(
    folder: SweepFolder, names: Sequence[str], columns: Sequence[str] | None
) -> tuple[dict[str, Parts], list[Fault]]:
    found = survey(folder)
    tables: dict[str, Parts] = {name: {} for name in names}
    faults = list(found.faults)

    def read(pack: StoredPack) -> Parts | Fault:
        return read_pack(folder, pack, names, columns)

    with ThreadPoolExecutor(THREADS) as pool:
        for stem, parts in zip(found.packs, pool.map(read, found.packs.values()), strict=True):
            if isinstance(parts, Fault):
                faults.append(parts)
                continue
            for name, part in parts.items():
                tables[name][stem] = part
    return tables, faults
