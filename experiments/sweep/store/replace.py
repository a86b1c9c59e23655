"""Replacement of packs by packs with fewer rows, safe against a crash at any step.

A concurrent reader always finds each row exactly once. The last part of a new pack to be written
is that of the table `cells`. As soon as it exists, readers skip the packs that it lists as
superseded. Only then are those deleted. The caller holds `acquire_sweep_lock` and has called
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from experiments.atomic_write import writing
from experiments.sweep.store.parquet import decode, is_complete, part_path, write_pack
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.scan import FileProblem, Parts, StoredPack, read_pack, scan
from experiments.sweep.store.tables import concatenate, select_rows
from fanin.errors import DataError

CLAIM = ".merging"  # file beside the journals; marks the parts of a merge that is not complete


@dataclass(frozen=True)
class FilteredPack:
    """A pack and the rows of it that are kept."""

    pack: StoredPack
    parts: Parts
    dropped: int  # rows

    @property
    def rows(self) -> int:
        return _rows(self.parts)


def filter_pack(folder: SweepFolder, pack: StoredPack, cells: Sequence[str]) -> FilteredPack:
    """Read a pack and keep the rows of the given cells.

    Raises
    ------
    DataError
        A part file is damaged.
    """
    parts = read_pack(folder, pack)
    if isinstance(parts, FileProblem):
        raise DataError(f"{parts}. Run the same command again to move its pack to quarantine/.")
    if len(cells) == parts["cells"].num_rows:
        return FilteredPack(pack, parts, 0)
    kept = {name: select_rows(part, cells) for name, part in parts.items()}
    return FilteredPack(pack, kept, _rows(parts) - _rows(kept))


def _rows(parts: Parts) -> int:
    return sum(part.num_rows for part in parts.values())


def replace_packs(folder: SweepFolder, group: Sequence[FilteredPack]) -> None:
    """Replace packs by one pack with the rows that are kept; by none if no row is kept."""
    tables = {
        name: concatenate(
            [member.parts[name] for member in group if name in member.parts] or [pa.table({})]
        )
        for name in TABLES
    }
    if tables["cells"].num_rows:
        # Include the packs that these packs supersede: a slow process may still write one of them.
        manifests = [member.pack.manifest for member in group]
        older = (manifest.supersedes for manifest in manifests if manifest is not None)
        stems = [member.pack.stem for member in group] + [stem for stems in older for stem in stems]
        claim = folder.journals / f"{uuid4().hex}{CLAIM}"
        with writing(claim):
            claim.parent.mkdir(exist_ok=True)
            claim.touch()
        write_pack(folder, claim.stem, tables, stems)
        unlink(claim)
    for member in group:
        remove_pack(folder, member.pack.stem)


def clear_interrupted(folder: SweepFolder) -> None:
    """Remove the files of a replacement that was interrupted."""
    for claim in folder.journals.glob(f"*{CLAIM}"):
        if not part_path(folder, "cells", claim.stem).exists():
            remove_pack(folder, claim.stem)  # the merged packs still exist
        unlink(claim)
    for pack in scan(folder).packs.values():
        if pack.manifest is not None and is_complete(folder, pack.stem):
            for stem in pack.manifest.supersedes:
                remove_pack(folder, stem)


def remove_pack(folder: SweepFolder, stem: str) -> None:
    """Remove a pack, its `cells` part first, so that no reader looks for the other parts."""
    for name in reversed(TABLES):
        unlink(part_path(folder, name, stem))


def remove_cells(
    folder: SweepFolder,
    cells: Collection[str],
    group_rows: int,
    heartbeat: Callable[[], None] = lambda: None,
) -> None:
    """Remove all attempts of some cells from the tables that the sweep has written.

    Parameters
    ----------
    folder
        The sweep's folder; other processes may read it meanwhile.
    cells
        Ids of the cells to remove.
    group_rows
        Packs that contain these cells are replaced together, up to this number of rows, so that
        the cells of one group disappear at once.
    heartbeat
        Called regularly, so that the sweep stays locked.

    Raises
    ------
    DataError
        A part file is damaged.
    """
    clear_interrupted(folder)
    affected: list[tuple[int, StoredPack, list[str]]] = []
    for pack in scan(folder).packs.values():
        columns = decode(pack.cells, ("cell_id", "attempt")).to_pydict()
        rows = list(zip(columns["cell_id"], columns["attempt"], strict=True))
        attempts = [attempt for cell, attempt in rows if cell in cells]
        if attempts:
            kept = [cell for cell, _ in rows if cell not in cells]
            affected.append((max(attempts), pack, kept))
    group: list[FilteredPack] = []
    # Old attempts first: an interruption between two groups does not bring one back.
    for _, pack, kept in sorted(affected, key=lambda item: item[0]):
        heartbeat()
        group.append(filter_pack(folder, pack, kept))
        if sum(member.rows for member in group) >= group_rows:
            replace_packs(folder, group)
            group = []
    if group:
        replace_packs(folder, group)


def unlink(path: Path) -> None:
    """Delete a file if it exists."""
    with writing(path):
        path.unlink(missing_ok=True)
