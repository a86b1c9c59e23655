"""Tables as Parquet: immutable parts, each written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.atomic_write import atomic_write, sync_folder, writing
from experiments.result import CellResult
from experiments.sweep.store.journal import read_results, take
from experiments.sweep.store.manifest import Manifest, Sum, encode, seal, unseal
from experiments.sweep.store.paths import SIBLINGS, SweepFolder
from experiments.sweep.store.tabulate import tabulate
from fanin.errors import DataError


def commit_journal(folder: SweepFolder, journal: Path) -> None:
    """Take a journal, turn it into parts of the tables, and remove it.

    The parts carry the journal's name, so doing it again after a crash halfway changes nothing,
    and where the journal is gone somebody else has taken it: then nothing is written.

    Parameters
    ----------
    folder
        The sweep's.
    journal
        `STEM.journal`; or a `STEM.taken` whose taker is dead.
    """
    taken = journal if journal.suffix == ".taken" else take(journal)
    if taken is None:
        return
    try:
        results = read_results(taken)
    except FileNotFoundError:
        return
    publish(folder, taken, results)


def publish(folder: SweepFolder, taken: Path, results: Sequence[CellResult]) -> None:
    """Write a taken journal's results, unless they are there already, and remove it."""
    if results and not is_written(folder, taken.stem):
        write_results(folder, taken.stem, results)
    with writing(taken):
        taken.unlink(missing_ok=True)


def write_results(folder: SweepFolder, stem: str, results: Sequence[CellResult]) -> None:
    """Write the parts of a pack.

    Parameters
    ----------
    folder
        The sweep's.
    stem
        The parts' name; unique.
    results
        The pack's cells, at least one.
    """
    write_pack(folder, stem, {name: tabulate(name, results) for name in (*SIBLINGS, "cells")})


def write_pack(
    folder: SweepFolder, stem: str, tables: Mapping[str, pa.Table], supersedes: Sequence[str] = ()
) -> None:
    """Write a pack's tables; `cells` comes last, and vouches for what was written before it."""
    sums: dict[str, Sum] = {}
    for name in SIBLINGS:
        if tables[name].num_rows:
            data = encode(tables[name])
            sums[name] = Sum.of(data)
            atomic_write(part_path(folder, name, stem), data)
    cells = seal(tables["cells"], Manifest(sums, tuple(supersedes)))
    atomic_write(part_path(folder, "cells", stem), cells)
    for name in (*sums, "cells"):
        sync_folder(folder.table(name))  # before anything that the parts replace may go


def write_part(folder: SweepFolder, name: str, stem: str, table: pa.Table) -> None:
    """Write one part of a table, whole."""
    atomic_write(part_path(folder, name, stem), encode(table))


def part_path(folder: SweepFolder, name: str, stem: str) -> Path:
    """Where a pack's part of a table lies."""
    return folder.table(name) / f"{stem}.parquet"


def is_written(folder: SweepFolder, stem: str) -> bool:
    """Whether all parts of a pack are there, as they were written."""
    try:
        manifest = unseal(part_path(folder, "cells", stem).read_bytes())
        return manifest is not None and all(
            Sum.of(part_path(folder, name, stem).read_bytes()) == expected
            for name, expected in manifest.parts.items()
        )
    except (OSError, ValueError):
        return False


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part, or some columns of it.

    Raises
    ------
    DataError
        It can't be read; its file is named.
    """
    try:
        return decode(path.read_bytes(), columns)
    except (ValueError, OSError) as error:
        pattern = f"{path.parent.parent}/*/{path.name}"
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); move {pattern} away (a pack's parts "
            "belong together) and run the sweep again: it makes those cells anew"
        ) from error


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file's table, its pages checked; columns that it lacks are left out.

    Raises
    ------
    ValueError, OSError
        It isn't a whole Parquet file.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    # Arrow's own threads now and then abort a process that ends soon after (pyarrow 26).
    return file.read(columns=list(columns) if columns else None, use_threads=False)
