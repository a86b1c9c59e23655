"""Remove cells and their results from a sweep: `fanin drop NAME key=value`.

Removing the cells from the plan is the last step. After an interruption, the same command therefore
finds them again and continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.compact import TARGET_ROWS
from experiments.config.catalog import config_loader
from experiments.config.identity import flatten
from experiments.console import ask, exit_on_error
from experiments.sweep.differences import short_labels
from experiments.sweep.overrides import Argument, parse_arguments
from experiments.sweep.slurm.submission import cells_in_jobs
from experiments.sweep.status.format import plural
from experiments.sweep.status.reader import find_sweep
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.parquet import read_part
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import PlanRecord, read_plan, remove_planned
from experiments.sweep.store.replace import remove_cells, unlink
from experiments.sweep.store.scan import quarantine
from experiments.sweep.store.tables import read_states
from experiments.sweep.worker.finalize import recover_journals
from fanin.commands import command_line
from fanin.errors import ConfigError, DataError, FaninError, suggest
from fanin.parser import CommandParser

MAX_LISTED = 20  # cells, or values of a key in a message
MISSING = "missing"  # outcome of a cell without a result


def main(argv: Sequence[str] | None = None) -> None:
    """List the cells that match, ask, and remove them."""
    args = _parser().parse_args(argv)
    interrupted = "Interrupted. Other cells are unchanged. To continue, run the same command again."
    with exit_on_error(interrupted=interrupted):
        folder = find_sweep(Path(args.results), args.name)
        drop(folder, parse_arguments(config_loader(), args.conditions), confirmed=args.yes)


def drop(folder: SweepFolder, conditions: Sequence[Argument], confirmed: bool = False) -> None:
    """Remove the cells that meet all conditions, and print what happened.

    Parameters
    ----------
    folder
        Folder of the sweep.
    conditions
        Keys and their values, parsed as overrides. A cell matches a condition if it has one of the
        values. `outcome` is a key too.
    confirmed
        Remove the cells without a question.

    Raises
    ------
    FaninError
        The sweep is running, no cell matches, or there is nobody to answer the question.
    """
    with _idle_sweep(folder):
        labels = short_labels(
            {cell: record["assignment"] for cell, record in read_plan(folder).items()}
        )
        outcomes = {cell: state.outcome for cell, state in read_states(folder).items()}
        cells = matching_cells(read_plan(folder), outcomes, conditions)
    print(f"{folder.root}: {plural(len(cells), 'cell')} of {len(labels):,}:")
    for cell in cells[:MAX_LISTED]:
        print(f"  {labels[cell]} ({outcomes.get(cell, MISSING)})")
    if len(cells) > MAX_LISTED:
        print(f"  and {len(cells) - MAX_LISTED:,} others")
    if not confirmed and not _confirm(f"Remove these cells and their results ({len(cells):,})?"):
        print("Nothing was removed.")
        return
    with _idle_sweep(folder) as heartbeat:
        remove(folder, cells, heartbeat)
    print(f"Removed {plural(len(cells), 'cell')}; {len(labels) - len(cells):,} remain.")


@contextmanager
def _idle_sweep(folder: SweepFolder) -> Iterator[Callable[[], None]]:
    """Lock a sweep that is not running, and yield the function that keeps it locked.

    Raises
    ------
    FaninError
        A launcher or Slurm jobs run it.
    """
    with acquire_sweep_lock(folder) as lock:
        if queued := cells_in_jobs(folder):
            raise FaninError(
                f"{folder.root}: Slurm jobs still run {plural(len(queued), 'cell')} of this sweep. "
                f"Wait for them, or run: {command_line('cancel', folder.argument)}"
            )
        recover_journals(folder, read_plan(folder))
        for problem in quarantine(folder):
            print(problem)
        yield lock.heartbeat


def matching_cells(
    records: Mapping[str, PlanRecord], outcomes: Mapping[str, str], conditions: Sequence[Argument]
) -> list[str]:
    """Return the ids of the planned cells that meet all conditions, in plan order.

    Raises
    ------
    ConfigError
        A key exists in no cell, or no cell matches.
    """
    rows = {cell: _row(record, outcomes) for cell, record in records.items()}
    keys = {key for row in rows.values() for key in row}
    for condition in conditions:
        if condition.key not in keys:
            raise ConfigError(
                f"{condition.text}: no cell has the key {condition.key}; "
                f"{suggest(condition.key, keys)}"
            )
        if not any(_meets(row, condition) for row in rows.values()):
            values = {str(row[condition.key]) for row in rows.values() if condition.key in row}
            listed = ", ".join(sorted(values)[:MAX_LISTED])
            more = f" and {len(values) - MAX_LISTED:,} others" if len(values) > MAX_LISTED else ""
            raise ConfigError(
                f"{condition.text}: no cell has this value; {condition.key} is {listed}{more}"
            )
    cells = [
        c for c, row in rows.items() if all(_meets(row, condition) for condition in conditions)
    ]
    if not cells:
        raise ConfigError(f"no cell has {' and '.join(condition.text for condition in conditions)}")
    return cells


def _row(record: PlanRecord, outcomes: Mapping[str, str]) -> dict[str, Any]:
    cell = record["cell_id"]
    values = dict(flatten(record["config"])) | dict(record["choices"])
    return values | {"cell_id": cell, "outcome": outcomes.get(cell, MISSING)}


def _meets(row: Mapping[str, Any], condition: Argument) -> bool:
    """Return True if a row has one of the values; `True` and 1 differ, 1 and 1.0 do not."""
    if condition.key not in row:
        return False
    actual = row[condition.key]
    return any(
        actual == value and isinstance(actual, bool) == isinstance(value, bool)
        for value in condition.values
    )


def _confirm(question: str) -> bool:
    answer = ask(Console(), f"{question} [y/N] ")
    if not answer:
        raise FaninError("no answer, so nothing was removed; add --yes to confirm")
    return answer.strip().lower() in ("y", "yes")


def remove(
    folder: SweepFolder, cells: Sequence[str], heartbeat: Callable[[], None] = lambda: None
) -> None:
    """Remove cells: their results, stored predictions, tracebacks, checkpoints, and plan records.

    The caller holds the lock of a sweep that is not running. All attempts of a cell are removed.
    """
    chosen = frozenset(cells)
    remove_cells(folder, chosen, TARGET_ROWS, heartbeat)
    for path in folder.table("predictions").glob("*.parquet"):
        if chosen & _predicted_cells(path):
            unlink(path)  # `fanin check` computes the predictions of the other cells again
    for path in folder.errors.glob("*.txt"):
        if path.name.rsplit(".", 2)[0] in chosen:  # CELL_ID.ATTEMPT.txt
            unlink(path)
    for cell in cells:
        unlink(folder.checkpoints / f"{cell}.pt")
    heartbeat()
    remove_planned(folder, chosen)


def _predicted_cells(path: Path) -> set[str]:
    """Return the cells of a part of `predictions`; none if it is damaged, as analysis skips it."""
    try:
        return set(read_part(path, ("cell_id",))["cell_id"].to_pylist())
    except DataError:
        return set()


def _parser() -> CommandParser:
    parser = CommandParser(
        "drop",
        description="Remove cells and their results from a sweep: the rows of all tables, "
        "tracebacks, checkpoints and the plan's records. Lists the cells and asks first.",
        epilog="A cell is removed if it meets all conditions. Conditions are written as in "
        "`fanin run`: init=zeros,he_normal or 'seed=range(3)'. The sweep must not be running. If "
        "this command is interrupted, no other cell is changed; run it again to continue. The "
        "sweep's command runs removed cells again.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the sweep's folder under results/")
    parser.add_argument(
        "conditions",
        metavar="key=value",
        nargs="+",
        help="config key or group and its value, or several values, comma-separated; also "
        "outcome=error and cell_id=ID",
    )
    parser.add_argument("--yes", action="store_true", help="remove the cells without a question")
    parser.add_argument(
        "--results", default="results", help="folder of all sweeps (default: results)"
    )
    return parser


if __name__ == "__main__":
    main()
