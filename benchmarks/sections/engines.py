"""Serial against stacked training, by model, width and number of cells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.cells import image_file, image_shape, specs
from benchmarks.page import Table
from benchmarks.samples import Summary, interleave, ratios, rounds_text
from benchmarks.section import Case, Mode, Record, Settings, by
from experiments.training.loop import train, train_stacked

FANIN = "fanin"  # the process with the settings of fanin's workers
MODELS = {
    "linear": ("model=linear",),
    "mlp, width 32": ("model=mlp", "model.width=32"),
    "mlp, width 128": ("model=mlp", "model.width=128"),
    "two_layer, 4 channels": ("model=two_layer", "model.channels=4"),
    "two_layer, 16 channels": ("model=two_layer", "model.channels=16"),
    "two_layer, 32 channels": ("model=two_layer", "model.channels=32"),
    "plain, 8 channels": ("model=plain", "model.width=8"),
    "alexnet, 8 channels": ("model=alexnet", "model.width=8", "model.dense=64"),
}
SMALL_MODELS = ("linear", "mlp, width 128", "two_layer, 4 channels", "two_layer, 16 channels")
BATCH_SIZE = 32
MAX_SERIAL = 4  # cells that are trained one by one; others take as long
# Models, numbers of cells, rounds, and CPU seconds of one engine in one round.
SIZES: dict[Mode, tuple[tuple[str, ...], tuple[int, ...], int, float]] = {
    "tiny": (("linear",), (2,), 1, 0.0),
    "quick": (SMALL_MODELS, (2, 16), 2, 0.2),
    "full": (tuple(MODELS), (2, 8, 32), 5, 0.2),
}
MIN_STEPS, MAX_STEPS = 4, 200


def check(settings: Settings) -> None:
    """Do nothing: the images are random."""


def cases(settings: Settings) -> list[Case]:
    """Return a case for each model and number of cells."""
    names, counts, repeats, seconds = SIZES[settings.mode]
    return [
        Case(
            f"{name}, {cells} cells",
            0.7 + 4 * repeats * seconds,
            partial(measure, settings, name, cells, repeats, seconds),
        )
        for name in names
        for cells in counts
    ]


def measure(settings: Settings, name: str, cells: int, repeats: int, seconds: float) -> Record:
    """Measure both engines in turn, in one process."""
    file = image_file(settings.folder, image_shape(MODELS[name][0].partition("=")[2]))
    data = ("data=arrays", f"data.file='{file}'", "probe=none", "scaling=standardize")
    overrides = (*data, *MODELS[name], f"train.batch_size={BATCH_SIZE}", "optim.lr=1e-4")
    call = settings.workers.call

    def run(function: Any, steps: int) -> float:
        return float(call(FANIN, function, overrides, cells, steps))

    run(stacked_seconds, MIN_STEPS)  # warm up
    run(serial_seconds, MIN_STEPS)
    n_serial = min(cells, MAX_SERIAL)
    step = run(serial_seconds, MIN_STEPS) / MIN_STEPS  # of one cell
    steps = max(MIN_STEPS, min(MAX_STEPS, int(2 * seconds / (step * (n_serial + cells)))))
    times = interleave(
        {
            "serial": lambda: run(serial_seconds, steps),
            "stacked": lambda: run(stacked_seconds, steps),
        },
        repeats,
        budget=12 * repeats * max(seconds, 0.1),
    )
    return {
        "model": name,
        "cells": cells,
        "steps": steps,
        "seconds_per_cell_step": {key: [t / steps for t in ts] for key, ts in times.items()},
    }


def serial_seconds(overrides: tuple[str, ...], cells: int, steps: int) -> float:
    """Train cells one by one; return the mean CPU seconds of a cell's `steps` steps.

    The seconds of a training of one step are subtracted from those of a longer one: they include
    the start and the end of a training.
    """
    return _serial_run(overrides, cells, steps + 1) - _serial_run(overrides, cells, 1)


def stacked_seconds(overrides: tuple[str, ...], cells: int, steps: int) -> float:
    """Train cells as one stack; return the CPU seconds of `steps` steps, divided by the cells."""
    return _stacked_run(overrides, cells, steps + 1) - _stacked_run(overrides, cells, 1)


def _serial_run(overrides: tuple[str, ...], cells: int, steps: int) -> float:
    chosen = specs((*overrides, f"train.steps={steps}"), min(cells, MAX_SERIAL))
    started = time.process_time()
    for spec in chosen:
        assert train(spec, lambda done, total: None).divergence is None
    return (time.process_time() - started) / len(chosen)


def _stacked_run(overrides: tuple[str, ...], cells: int, steps: int) -> float:
    chosen = specs((*overrides, f"train.steps={steps}"), cells)
    started = time.process_time()
    results = [result for _, result in train_stacked(chosen, lambda done, total: None)]
    assert [result.divergence for result in results] == cells * [None]
    return (time.process_time() - started) / cells


# --- results ----------------------------------------------------------------------------------


def speed_up(record: Record) -> Summary:
    """Return the speed of the stack relative to one cell after the other."""
    times = record["seconds_per_cell_step"]
    return Summary.of(ratios(times["serial"], times["stacked"]))


def line(record: Record) -> str:
    """Return the speed of the stack."""
    ratio = speed_up(record)
    return f"stacked {ratio.text()} times as fast as serial, n={ratio.n}"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return one table with all cases."""
    rows = []
    for record in records:
        times, ratio = record["seconds_per_cell_step"], speed_up(record)
        milliseconds = [f"{1e3 * Summary.of(times[key]).median:.3f}" for key in times]
        rows.append(
            (record["model"], str(record["cells"]), str(ratio.n), *milliseconds, ratio.text())
        )
    return [
        Table(
            "Engines: serial against stacked training on one thread of a CPU",
            (
                *("model", "cells", "n", "serial, ms per cell and step"),
                *("stacked, ms per cell and step", "speed of stacked relative to serial"),
            ),
            tuple(rows),
            (
                f"Random images of 1x28x28 (plain, alexnet: 3x32x32), batches of {BATCH_SIZE}. The "
                "cells differ in their seeds. Only the steps are timed, not drawing the weights or "
                "evaluation: the time of a training of one step is subtracted. At most "
                f"{MAX_SERIAL} cells are trained one by one. Both engines run in one process, in "
                "turn.",
            ),
        )
    ]


def short_table(records: Sequence[Record]) -> Table:
    """Return the speed of stacks by model (rows) and number of cells (columns)."""
    counts = sorted({record["cells"] for record in records})
    rows = []
    for model in dict.fromkeys(record["model"] for record in records):
        found = {record["cells"]: record for record in by(records, model=model)}
        speeds = {n: speed_up(record) for n, record in found.items()}
        medians = [f"{speeds[n].median:.2f}" if n in speeds else "" for n in counts]
        rows.append((model, rounds_text(speed.n for speed in speeds.values()), *medians))
    remark = (
        "Speed of stacked relative to serial training, median of *n* rounds: above 1, stacked is "
        "faster."
    )
    return Table("", ("model", "n", *(f"{n} cells" for n in counts)), tuple(rows), (remark,))


def answer(records: Sequence[Record]) -> str:
    """Return the range of the speed of stacks."""
    speeds = sorted((speed_up(r).median, f"{r['model']}, {r['cells']} cells") for r in records)
    (low, slowest), (high, fastest) = speeds[0], speeds[-1]
    return (
        f"On one thread of a CPU, stacked training has {low:.2f} ({slowest}) to {high:.2f} "
        f"({fastest}) times the speed of serial training."
    )


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the speed of stacks against the number of cells, a line for each model."""
    markers = "osD^v<>P"
    for number, model in enumerate(dict.fromkeys(record["model"] for record in records)):
        chosen = by(records, model=model)
        speeds = [speed_up(record) for record in chosen]
        axes.errorbar(
            [record["cells"] for record in chosen],
            [speed.median for speed in speeds],
            yerr=[
                [speed.median - speed.low for speed in speeds],
                [speed.high - speed.median for speed in speeds],
            ],
            color=str(0.6 * (number % 4) / 3),
            linestyle=("-", "--")[number // 4],
            **{"marker": markers[number], "label": model, "capsize": 2, "linewidth": 1.2},
        )
    counts = sorted({record["cells"] for record in records})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.axhline(1, color="black", linewidth=1, linestyle=":")
    axes.set_xlabel("cells in the stack")
    axes.set_ylabel("speed of stacked relative\nto serial (1: equal)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
