"""Merge a sweep's part files into fewer, larger ones: `fanin compact NAME`.

A concurrent reader always finds each row exactly once. The last part of a merged pack to be written
is that of the table `cells`. As soon as it exists, readers skip the packs that it lists as
superseded. Only then are those deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from experiments.atomic_write import writing
from experiments.console import exit_on_error
from experiments.parser import CommandParser
from experiments.sweep.status.reader import find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.parquet import decode, is_complete, part_path, write_pack
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.plan_file import read_plan
from experiments.sweep.store.scan import FileProblem, Parts, StoredPack, quarantine, read_pack, scan
from experiments.sweep.store.tables import concatenate, latest_by_part, select_rows
from experiments.sweep.worker.finalize import recover_journals
from fanin.errors import DataError

TARGET_ROWS = 1 << 21  # a pack with so many rows, over all tables, is not merged further
CLAIM = ".merging"  # file beside the journals; marks the parts of a merge that is not complete


def main(argv: Sequence[str] | None = None) -> None:
    """Compact a sweep's tables and print the numbers of part files and dropped rows."""
    args = _parser().parse_args(argv)
    with exit_on_error(
        interrupted="Interrupted. All rows are kept. Run the same command again to continue."
    ):
        compact(find_sweep(Path(args.results), args.name))


def compact(folder: SweepFolder) -> None:
    """Merge the part files of a sweep that is not running, and print the result.

    Raises
    ------
    FaninError
        The sweep is running, or a file cannot be written.
    """
    name = folder.root.name
    with acquire_sweep_lock(folder) as hold:
        recover_journals(folder, read_plan(folder))
        problems = quarantine(folder)
        for problem in problems:
            print(problem)
        if any(problem.stem is not None for problem in problems):
            print("Run the sweep's command again to run the cells of the damaged packs.")
        counts = merge_packs(folder, hold.heartbeat)
    if counts.before == counts.after and not counts.dropped:
        print(f"{name}: {counts.after:,} part files; nothing to do")
    else:
        print(
            f"{name}: merged {counts.before:,} part files into {counts.after:,}; "
            f"dropped {counts.dropped:,} rows of superseded attempts"
        )


def _parser() -> CommandParser:
    parser = CommandParser(
        "compact",
        description="Merge a sweep's part files into fewer, larger ones, and drop the rows of "
        "superseded attempts. The content of the tables does not change, and other processes can "
        "read them meanwhile.",
        epilog="The sweep must not be running. If this command is interrupted, run it again to "
        "continue. Damaged part files are moved to quarantine/ with the rest of their pack; run "
        "the sweep's command to run those cells again.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the sweep's folder under results/")
    parser.add_argument(
        "--results", default="results", help="folder of all sweeps (default: results)"
    )
    return parser


@dataclass(frozen=True)
class MergeCounts:
    """Numbers of part files before and after merging, and of dropped rows."""

    before: int
    after: int
    dropped: int


def merge_packs(folder: SweepFolder, heartbeat: Callable[[], None] = lambda: None) -> MergeCounts:
    """Merge small packs and drop superseded attempts. A second call changes nothing.

    The caller holds `acquire_sweep_lock` and has called `quarantine`.

    Parameters
    ----------
    folder
        The sweep's folder; other processes may read it meanwhile.
    heartbeat
        Called regularly, so that the sweep stays locked.

    Raises
    ------
    DataError
        A part file is damaged.
    """
    before = _count(folder)
    _clear(folder)
    packs = scan(folder).packs
    kept = latest_by_part({s: decode(p.cells, ("cell_id", "attempt")) for s, p in packs.items()})
    dropped = 0
    for group in _groups(folder, packs.values(), kept):
        heartbeat()
        dropped += sum(pack.dropped for pack in group)
        if len(group) > 1 or group[0].dropped:
            _replace(folder, group)
    return MergeCounts(before, _count(folder), dropped)


@dataclass(frozen=True)
class _FilteredPack:
    """A pack and the rows of it that are kept."""

    pack: StoredPack
    parts: Parts
    dropped: int  # rows

    @property
    def rows(self) -> int:
        return _rows(self.parts)


def _groups(
    folder: SweepFolder, packs: Iterable[StoredPack], kept: dict[str, list[str]]
) -> Iterator[list[_FilteredPack]]:
    """Yield groups of packs; each group becomes one pack. Only one is in memory at a time."""
    group: list[_FilteredPack] = []
    for pack in packs:
        filtered = _filter(folder, pack, kept.get(pack.stem, []))
        if filtered.rows >= TARGET_ROWS:
            yield [filtered]
            continue
        group.append(filtered)
        if sum(member.rows for member in group) >= TARGET_ROWS:
            yield group
            group = []
    if group:
        yield group


def _filter(folder: SweepFolder, pack: StoredPack, cells: list[str]) -> _FilteredPack:
    parts = read_pack(folder, pack)
    if isinstance(parts, FileProblem):
        raise DataError(f"{parts}. Run the same command again to move its pack to quarantine/.")
    if len(cells) == parts["cells"].num_rows:
        return _FilteredPack(pack, parts, 0)
    kept = {name: select_rows(part, cells) for name, part in parts.items()}
    return _FilteredPack(pack, kept, _rows(parts) - _rows(kept))


def _rows(parts: Parts) -> int:
    return sum(part.num_rows for part in parts.values())


def _replace(folder: SweepFolder, group: list[_FilteredPack]) -> None:
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
        _unlink(claim)
    for member in group:
        _remove(folder, member.pack.stem)


def _clear(folder: SweepFolder) -> None:
    """Remove the files of a merge that was interrupted."""
    for claim in folder.journals.glob(f"*{CLAIM}"):
        if not part_path(folder, "cells", claim.stem).exists():
            _remove(folder, claim.stem)  # the merged packs still exist
        _unlink(claim)
    for pack in scan(folder).packs.values():
        if pack.manifest is not None and is_complete(folder, pack.stem):
            for stem in pack.manifest.supersedes:
                _remove(folder, stem)


def _remove(folder: SweepFolder, stem: str) -> None:
    """Remove a pack, its `cells` part first, so that no reader looks for the other parts."""
    for name in reversed(TABLES):
        _unlink(part_path(folder, name, stem))


def _unlink(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _count(folder: SweepFolder) -> int:
    return sum(len(list(folder.table(name).glob("*.parquet"))) for name in TABLES)


if __name__ == "__main__":
    main()
