"""Merge a sweep's part files into fewer, larger ones: `fanin compact NAME`.

`experiments/sweep/store/replace.py` describes why no row is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.console import exit_on_error
from experiments.sweep.status.reader import find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.plan_file import read_plan
from experiments.sweep.store.replace import (
    FilteredPack,
    clear_interrupted,
    filter_pack,
    replace_packs,
)
from experiments.sweep.store.scan import StoredPack, quarantine, scan
from experiments.sweep.store.tables import latest_by_part
from experiments.sweep.worker.finalize import recover_journals
from fanin.parser import CommandParser

TARGET_ROWS = 1 << 21  # a pack with so many rows, over all tables, is not merged further


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
    clear_interrupted(folder)
    packs = scan(folder).packs
    kept = latest_by_part({s: decode(p.cells, ("cell_id", "attempt")) for s, p in packs.items()})
    dropped = 0
    for group in _groups(folder, packs.values(), kept):
        heartbeat()
        dropped += sum(pack.dropped for pack in group)
        if len(group) > 1 or group[0].dropped:
            replace_packs(folder, group)
    return MergeCounts(before, _count(folder), dropped)


def _groups(
    folder: SweepFolder, packs: Iterable[StoredPack], kept: dict[str, list[str]]
) -> Iterator[list[FilteredPack]]:
    """Yield groups of packs; each group becomes one pack. Only one is in memory at a time."""
    group: list[FilteredPack] = []
    for pack in packs:
        filtered = filter_pack(folder, pack, kept.get(pack.stem, []))
        if filtered.rows >= TARGET_ROWS:
            yield [filtered]
            continue
        group.append(filtered)
        if sum(member.rows for member in group) >= TARGET_ROWS:
            yield group
            group = []
    if group:
        yield group


def _count(folder: SweepFolder) -> int:
    return sum(len(list(folder.table(name).glob("*.parquet"))) for name in TABLES)


if __name__ == "__main__":
    main()
