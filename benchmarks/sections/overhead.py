"""Overhead of sweeps: start-up, planning, launch, store, load, status and report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.large_sweep import DRAWS, LAYERS, QUANTITIES
from benchmarks.measure import python, run, timed
from benchmarks.operations import (
    SWEEP,
    check_complete,
    command,
    hydra,
    launch,
    load_seconds,
    plan_and_store,
    time_to_first_cell,
)
from benchmarks.page import Table
from benchmarks.samples import MIN_SIZES, Growth, Summary, fit_growth, interleave, rounds_text
from benchmarks.section import Case, Mode, Record, Settings, Workers, by

# Operations by the number of cells, in the order of the tables, with what they include.
OPERATIONS = {
    "planning": "compose, type-check and hash all cells, in a new process without its imports",
    "launch": "the command `fanin run -m`, with cells that do not train (10 images, linear model)",
    "store": "write the results of all cells as Parquet, in packs of 100, in one process",
    "load": "`analysis.load.load`, in a new process without its imports",
    "status": "the command `fanin status NAME`",
    "report": "the command `fanin report NAME`, with a figure but no layers",
}
HYDRA = ("basic", "joblib")
LOAD_LAYERS, LOAD_COMPACTED = "load with layers", "load with layers, compacted"
START_ROUNDS: dict[Mode, int] = {"tiny": 1, "quick": 2, "full": 5}
# Rounds by number of cells: of the operations, of Hydra's launchers, of the loads with layers.
SIZES: dict[Mode, dict[int, int]] = {
    "tiny": {10: 1},
    "quick": {10: 1, 1000: 1},
    "full": {10: 1, 100: 1, 1000: 2, 10_000: 1, 100_000: 1},
}
MAX_LAUNCHED = 10_000  # cells; a launch of 100,000 takes more than ten minutes
HYDRA_SIZES: dict[Mode, dict[int, int]] = {
    "tiny": {},
    "quick": {10: 1},
    "full": {10: 1, 30: 1},
}
LAYER_SIZES: dict[Mode, dict[int, int]] = {
    "tiny": {10: 1},
    "quick": {},
    "full": {10_000: 3},
}


def check(settings: Settings) -> None:
    """Do nothing: the section needs no files."""


def cases(settings: Settings) -> list[Case]:
    """Return the start-up, then the operations by number of cells, then those with layers."""
    mode, folder, workers = settings.mode, settings.folder, settings.workers
    measure: Callable[[], Record]
    chosen = [Case("start-up", 6.0 * START_ROUNDS[mode], partial(start_up, mode, folder))]
    for cells, rounds in SIZES[mode].items():
        results = folder / f"{cells}"
        operations: dict[str, tuple[float, Callable[[], Record]]] = {
            "planning and store": (3 + 7e-4 * cells, partial(_plan, workers, cells, results)),
            "launch": (
                rounds * (5 + 6e-3 * cells),
                partial(_repeat, "launch", cells, rounds, partial(launch, cells, folder)),
            ),
            "load": (
                rounds * (3 + 2e-5 * cells),
                partial(_load, workers, "load", cells, rounds, results),
            ),
            "status": (
                rounds * (1 + 1e-5 * cells),
                partial(_repeat, "status", cells, rounds, partial(command, "status", results)),
            ),
            "report": (
                rounds * (8 + 2e-3 * cells),
                partial(_repeat, "report", cells, rounds, partial(command, "report", results)),
            ),
        }
        if cells > MAX_LAUNCHED:
            del operations["launch"]
        for operation, (seconds, measure) in operations.items():
            chosen.append(Case(f"{operation}, {cells:,} cells", seconds, measure))
    for cells, rounds in HYDRA_SIZES[mode].items():
        for launcher in HYDRA:
            name = f"hydra -m, {launcher}"
            measure = partial(_repeat, name, cells, rounds, partial(hydra, launcher, cells, folder))
            chosen.append(Case(f"{name}, {cells:,} cells", 2 + 0.25 * cells, measure))
    for cells, rounds in LAYER_SIZES[mode].items():
        seconds = 8 + 4e-3 * cells + rounds * 6
        measure = partial(_load_with_layers, workers, cells, rounds, folder / f"layers {cells}")
        chosen.append(Case(f"load with layers, {cells:,} cells", seconds, measure))
    return chosen


# --- measurements -----------------------------------------------------------------------------


def start_up(mode: Mode, folder: Path) -> Record:
    """Measure `import torch` and a sweep of one cell that does not train, in turn."""
    first: list[float] = []
    sweeps = iter(range(100))

    def sweep() -> float:
        to_first, total = time_to_first_cell(folder / f"start {next(sweeps)}")
        first.append(to_first)
        return total

    actions = {
        "import torch": lambda: timed([sys.executable, "-c", "import torch"]),
        "total": sweep,
    }
    times = interleave(actions, START_ROUNDS[mode], budget=60)
    seconds = {"import torch": times["import torch"], "first cell": first, "sweep": times["total"]}
    return {"cells": 1, "seconds": seconds}


def _plan(workers: Workers, cells: int, results: Path) -> Record:
    seconds, memory = workers.call_once(plan_and_store, cells, results, False)
    listed = {name: [value] for name, value in seconds.items()}
    return {"cells": cells, "seconds": listed, "memory_mb": {"planning": [memory]}}


def _load(workers: Workers, name: str, cells: int, rounds: int, results: Path) -> Record:
    loads = [workers.call_once(load_seconds, results) for _ in range(rounds)]
    for load_ in loads:
        check_complete(load_[2], cells, results)
    return {
        "cells": cells,
        "seconds": {name: [load_[0] for load_ in loads]},
        "memory_mb": {name: [load_[1] for load_ in loads]},
        "rows_of_layers": loads[0][3],
    }


def _load_with_layers(workers: Workers, cells: int, rounds: int, results: Path) -> Record:
    seconds, _ = workers.call_once(plan_and_store, cells, results, True)
    record = _load(workers, LOAD_LAYERS, cells, rounds, results)
    run(python("fanin", "compact", SWEEP, f"--results={results}"))
    compacted = _load(workers, LOAD_COMPACTED, cells, rounds, results)
    for key in ("seconds", "memory_mb"):
        record[key] |= compacted[key]
    record["seconds"]["store with layers"] = [seconds["store"]]
    return record


def _repeat(name: str, cells: int, rounds: int, action: Callable[[], float]) -> Record:
    return {"cells": cells, "seconds": {name: [action() for _ in range(rounds)]}}


# --- results ----------------------------------------------------------------------------------


def series(records: Sequence[Record], operation: str) -> dict[int, Summary]:
    """Return the seconds of an operation by number of cells."""
    found = [r for r in records if operation in r["seconds"]]
    return {r["cells"]: Summary.of(r["seconds"][operation]) for r in found}


def growth(records: Sequence[Record], operation: str) -> Growth | None:
    """Return the fitted growth of an operation with the number of cells."""
    by_cells = series(records, operation)
    return fit_growth(list(by_cells), [summary.median for summary in by_cells.values()])


def line(record: Record) -> str:
    """Return the median seconds of the operations."""
    medians = {name: Summary.of(values) for name, values in record["seconds"].items()}
    return ", ".join(f"{name} {summary.text()} s" for name, summary in medians.items())


def tables(records: Sequence[Record]) -> list[Table]:
    """Return tables of the start-up, of the operations by number of cells, and of the rest."""
    layers = [_layer_table(records)] if series(records, LOAD_LAYERS) else []
    return [_start_table(records), *_operation_tables(records), *layers]


def short_table(records: Sequence[Record]) -> Table:
    """Return the seconds of each operation for the smallest and largest numbers of cells."""
    sizes = sorted({cells for name in OPERATIONS for cells in series(records, name)})
    shown = sizes if len(sizes) <= 3 else [sizes[0], sizes[-2], sizes[-1]]
    exponent = ("exponent",) if len(sizes) >= MIN_SIZES else ()
    columns = []
    for n in shown:
        found = [series(records, name).get(n) for name in OPERATIONS]
        columns.append(f"{n:,} cells (n={rounds_text(summary.n for summary in found if summary)})")
    rows = []
    for name in OPERATIONS:
        by_cells, fit = series(records, name), growth(records, name)
        seconds = [_seconds(by_cells[n]) if n in by_cells else "" for n in shown]
        if by_cells:
            fitted = [f"{fit.exponent:.2f}" if fit else ""] if exponent else []
            rows.append((name, *seconds, *fitted))
    remarks = (
        ("*exponent*: of the fit seconds = constant + factor x cells^exponent; 1 is linear.",)
        if exponent
        else ()
    )
    return Table("", ("seconds for", *columns, *exponent), tuple(rows), remarks)


def answer(records: Sequence[Record]) -> str:
    """Return the start-up and the time per additional cell."""
    (start,) = by(records, cells=1)
    first = Summary.of(start["seconds"]["first cell"]).median
    torch_ = Summary.of(start["seconds"]["import torch"]).median
    text = (
        f"A sweep starts its first cell after {first:.1f} s (`import torch` takes {torch_:.1f} s)."
    )
    cost = slope(records, "launch")
    others = [slope(records, f"hydra -m, {launcher}") for launcher in HYDRA]
    cheapest = min((other for other in others if other is not None), default=None)
    if cost is not None:
        text += f" An additional cell that does not train costs {1e3 * cost:.1f} ms"
        text += "." if cheapest is None else f", with Hydra at least {1e3 * cheapest:.0f} ms."
    return text


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the seconds of each operation against the number of cells, in log-log axes."""
    markers = "osD^v<>"
    for number, name in enumerate(OPERATIONS):
        by_cells = series(records, name)
        if by_cells:
            axes.plot(
                list(by_cells), [summary.median for summary in by_cells.values()],
                marker=markers[number], color=str(0.55 * (number % 4) / 3), linewidth=1.2,
                linestyle="-" if number < 4 else "--", label=name,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cells in the sweep")
    axes.set_ylabel("time (s)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def slope(records: Sequence[Record], operation: str) -> float | None:
    """Return the seconds per additional cell, from the two largest numbers of cells."""
    by_cells = series(records, operation)
    if len(by_cells) < 2:
        return None
    smaller, larger = sorted(by_cells)[-2:]
    return (by_cells[larger].median - by_cells[smaller].median) / (larger - smaller)


def _start_table(records: Sequence[Record]) -> Table:
    (start,) = by(records, cells=1)
    reference = Summary.of(start["seconds"]["import torch"]).median
    rows = []
    for name, values in start["seconds"].items():
        summary = Summary.of(values)
        rows.append((name, str(summary.n), summary.text(), f"{summary.median / reference:.2f}"))
    return Table(
        "Overhead: start of a sweep",
        ("", "n", "s", "relative to import torch"),
        tuple(rows),
        (
            "A sweep of one cell that does not train, `fanin run -m runner=local`. *first cell*: "
            "from the start of the command until a worker opens its journal. *sweep*: until the "
            "command ends.",
        ),
    )


def _operation_tables(records: Sequence[Record]) -> list[Table]:
    names = [*OPERATIONS, *(f"hydra -m, {launcher}" for launcher in HYDRA)]
    rows = []
    for name in names:
        for cells, summary in series(records, name).items():
            (record,) = [r for r in by(records, cells=cells) if name in r["seconds"]]
            memory = record.get("memory_mb", {}).get(name)
            rows.append(
                (
                    *(name, f"{cells:,}", str(summary.n), summary.text()),
                    f"{1e3 * summary.median / cells:.3f}",
                    f"{Summary.of(memory).median:.0f}" if memory else "",
                )
            )
    fits = []
    for name in names:
        fit, cost = growth(records, name), slope(records, name)
        if cost is not None:
            fitted = (f"{fit.exponent:.2f}", f"{fit.constant:.2f}") if fit else ("", "")
            fits.append((name, *fitted, f"{1e3 * cost:.3f}"))
    return [
        Table(
            "Overhead: time by number of cells",
            ("", "cells", "n", "s", "ms per cell", "peak memory, MB"),
            tuple(rows),
            (
                *(f"*{name}*: {text}." for name, text in OPERATIONS.items()),
                "*hydra -m*: a script that does nothing, with as many config groups as fanin; "
                "Hydra writes its default folder for each job; joblib runs two jobs at a time.",
            ),
        ),
        Table(
            "Overhead: growth with the number of cells",
            ("", "exponent", "constant, s", "ms per additional cell"),
            tuple(fits),
            (
                "Fit of constant + coefficient · cells^exponent, by least squares of the logarithm "
                f"of the time, to {MIN_SIZES} numbers of cells or more. The time per additional "
                "cell is the slope between the two largest numbers of cells.",
            ),
        ),
    ]


def _layer_table(records: Sequence[Record]) -> Table:
    rows = []
    for name in ("store with layers", LOAD_LAYERS, LOAD_COMPACTED):
        for cells, summary in series(records, name).items():
            (record,) = [r for r in by(records, cells=cells) if name in r["seconds"]]
            memory = record["memory_mb"].get(name)
            rows.append(
                (
                    *(name, f"{cells:,}", f"{record['rows_of_layers']:,}", str(summary.n)),
                    summary.text(),
                    f"{Summary.of(memory).median:.0f}" if memory else "",
                )
            )
    return Table(
        "Overhead: sweeps with measured layers",
        ("", "cells", "rows of layers", "n", "s", "peak memory, MB"),
        tuple(rows),
        (
            f"{LAYERS} layers, {len(QUANTITIES)} quantities and {DRAWS} draws per cell, in packs "
            "of 16 cells. Each file's checksum is verified. *compacted*: after `fanin compact`.",
        ),
    )


def _seconds(summary: Summary) -> str:
    return f"{summary.median:.2f}" if summary.median < 10 else f"{summary.median:.0f}"
