"""Fewer, larger part files: `python -m experiments.compact NAME`.

At every moment a reader finds each row once: the merged pack is written whole, `cells` last, and
from then on readers pass over the packs that it says it supersedes; only then do those go.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from experiments.atomic_write import writing
from experiments.console import exit_on_error
from experiments.sweep.status.watch import find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.parquet import decode, is_written, part_path, write_pack
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.plan_file import read_frozen
from experiments.sweep.store.scan import Fault, Parts, StoredPack, quarantine, read_pack, scan
from experiments.sweep.store.tables import concatenate, latest, of_cells
from experiments.sweep.worker.finalize import recover
from fanin.errors import DataError

ENOUGH = 1 << 21  # rows of all its tables: a pack of so many is large enough
CLAIM = ".merging"  # beside the journals: parts of that stem are a merge that isn't whole yet


def main(argv: Sequence[str] | None = None) -> None:
    """Compact a sweep's tables and print what was done."""
    asked = _parser().parse_args(argv)
    with exit_on_error(interrupted="Interrupted; every row is kept. The same command goes on."):
        compact(find_sweep(Path(asked.results), asked.name))


def compact(folder: SweepFolder) -> None:
    """Merge the parts of a sweep that nobody runs, and say what became of them.

    Raises
    ------
    FaninError
        Somebody runs it, or a file can't be written.
    """
    name = folder.root.name
    with acquire_sweep_lock(folder) as hold:
        recover(folder, read_frozen(folder))
        for fault in quarantine(folder):
            print(fault)
        done = merge_packs(folder, hold.beat)
    if done.before == done.after and not done.dropped:
        print(f"{name}: {done.after:,} part files; nothing to do")
    else:
        print(
            f"{name}: {done.before:,} part files are now {done.after:,}; "
            f"{done.dropped:,} rows of superseded attempts dropped"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compact",
        description="Merge a sweep's part files into fewer, larger ones, and drop the rows of "
        "attempts that a later one superseded. What the tables say stays the same; reading them "
        "meanwhile is safe.",
        epilog="Not while the sweep runs. It may be interrupted at any moment: the same command "
        "goes on from there. A damaged part is moved to quarantine/ with its pack, whose cells the "
        "sweep's own command then runs again.",
    )
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    return parser


@dataclass(frozen=True)
class Merged:
    """Result of merging: part files before and after, rows of superseded attempts dropped."""

    before: int
    after: int
    dropped: int


def merge_packs(folder: SweepFolder, beat: Callable[[], None] = lambda: None) -> Merged:
    """Merge small packs, drop superseded attempts; again, it finds nothing to do.

    To be called under `acquire_sweep_lock`, after `quarantine`.

    Parameters
    ----------
    folder
        The sweep's; others may read there meanwhile.
    beat
        Called now and then.

    Raises
    ------
    DataError
        A part is spoilt.
    """
    before = _count(folder)
    _clear(folder)
    found = scan(folder)
    kept = latest({s: decode(p.cells, ("cell_id", "attempt")) for s, p in found.packs.items()})
    dropped = 0
    for group in _groups(folder, found.packs.values(), kept):
        beat()
        dropped += sum(pack.dropped for pack in group)
        if len(group) > 1 or group[0].dropped:
            _replace(folder, group)
    return Merged(before, _count(folder), dropped)


@dataclass(frozen=True)
class _Kept:
    """A pack and the rows of it that are kept."""

    pack: StoredPack
    parts: Parts
    dropped: int  # rows

    @property
    def rows(self) -> int:
        return _rows(self.parts)


def _groups(
    folder: SweepFolder, packs: Iterable[StoredPack], kept: dict[str, list[str]]
) -> Iterator[list[_Kept]]:
    """Packs that become one: as many as make it large enough, in memory one group at a time."""
    group: list[_Kept] = []
    for pack in packs:
        read = _keep(folder, pack, kept.get(pack.stem, []))
        if read.rows >= ENOUGH:
            yield [read]
            continue
        group.append(read)
        if sum(one.rows for one in group) >= ENOUGH:
            yield group
            group = []
    if group:
        yield group


def _keep(folder: SweepFolder, pack: StoredPack, cells: list[str]) -> _Kept:
    parts = read_pack(folder, pack)
    if isinstance(parts, Fault):
        raise DataError(f"{parts}; the same command moves its pack away")
    if len(cells) == parts["cells"].num_rows:
        return _Kept(pack, parts, 0)
    less = {name: of_cells(part, cells) for name, part in parts.items()}
    return _Kept(pack, less, _rows(parts) - _rows(less))


def _rows(parts: Parts) -> int:
    return sum(part.num_rows for part in parts.values())


def _replace(folder: SweepFolder, group: list[_Kept]) -> None:
    tables = {
        name: concatenate([one.parts[name] for one in group if name in one.parts] or [pa.table({})])
        for name in TABLES
    }
    if tables["cells"].num_rows:
        # Also what those superseded: should it come back, from whoever was slow, it is known.
        older = (one.pack.manifest.supersedes for one in group if one.pack.manifest is not None)
        stems = [one.pack.stem for one in group] + [stem for stems in older for stem in stems]
        claim = folder.journals / f"{uuid4().hex}{CLAIM}"
        with writing(claim):
            claim.parent.mkdir(exist_ok=True)
            claim.touch()
        write_pack(folder, claim.stem, tables, stems)
        _unlink(claim)
    for one in group:
        _remove(folder, one.pack.stem)


def _clear(folder: SweepFolder) -> None:
    """Remove what a merge that was killed has left."""
    for claim in folder.journals.glob(f"*{CLAIM}"):
        if not part_path(folder, "cells", claim.stem).exists():
            _remove(folder, claim.stem)  # all of its rows are still where they came from
        _unlink(claim)
    for pack in scan(folder).packs.values():
        if pack.manifest is not None and is_written(folder, pack.stem):
            for stem in pack.manifest.supersedes:
                _remove(folder, stem)


def _remove(folder: SweepFolder, stem: str) -> None:
    """Remove a pack, `cells` first: no reader then looks for the rest."""
    for name in reversed(TABLES):
        _unlink(part_path(folder, name, stem))


def _unlink(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _count(folder: SweepFolder) -> int:
    return sum(len(list(folder.table(name).glob("*.parquet"))) for name in TABLES)


if __name__ == "__main__":
    main()
