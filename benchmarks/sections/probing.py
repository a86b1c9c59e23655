"""Probing (measuring the layers at initialization) as a share of training, at default settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.cells import CPU, config, models
from benchmarks.page import Table
from benchmarks.samples import Summary, interleave
from benchmarks.section import Case, Mode, Record, Settings
from experiments.cell import CellRun
from experiments.training.loop import train

FANIN = "fanin"  # the process with the settings of fanin's workers
# Largest number of rounds, and the seconds after which no other round starts.
SIZES: dict[Mode, tuple[int, float]] = {"tiny": (1, 0), "quick": (2, 2), "full": (5, 6)}
AIM = 0.05  # share of the time of training
TINY = ("train.steps=2", "probe.draws=2", "data.n_train=64", "data.n_test=32")


def check(settings: Settings) -> None:
    """Do nothing: the digits are part of scikit-learn."""


def cases(settings: Settings) -> list[Case]:
    """Return a case for each model."""
    rounds, budget = SIZES[settings.mode]
    overrides = TINY if settings.mode == "tiny" else ()
    # Five pools of vgg need larger images than the digits.
    names = ["linear"] if settings.mode == "tiny" else [m for m in models() if m != "vgg"]
    return [
        Case(name, 1.5 + 0.8 * budget, partial(measure, settings, name, overrides, rounds, budget))
        for name in names
    ]


def measure(
    settings: Settings, model: str, overrides: tuple[str, ...], rounds: int, budget: float
) -> Record:
    """Measure draws with and without the default probe, and training."""
    cell = (f"model={model}", *overrides)
    probed, bare = cell, (*cell, "probe=none")
    call = settings.workers.call
    shape, steps = call(FANIN, describe, probed)
    short = tuple(text for text in bare if not text.startswith("train.steps"))
    call(FANIN, train_seconds, (*short, "train.steps=2"))  # warm up
    times = interleave(
        {
            "draws and probe": lambda: float(call(FANIN, draw_seconds, probed)),
            "one draw": lambda: float(call(FANIN, draw_seconds, bare)),
            "training": lambda: float(call(FANIN, train_seconds, bare)),
        },
        rounds,
        budget,
    )
    return {"model": model, "shape": "x".join(map(str, shape)), "steps": steps, "seconds": times}


def describe(overrides: tuple[str, ...]) -> tuple[tuple[int, ...], int]:
    """Return the shape of the images and the number of training steps."""
    run = CellRun.start(config(*overrides), CPU)
    return run.cell.data.shape, run.cell.train.total_steps(len(run.data.train))


def draw_seconds(overrides: tuple[str, ...]) -> float:
    """Draw a cell's weights and probe them; return the CPU seconds."""
    run = CellRun.start(config(*overrides), CPU)
    started = time.process_time()
    run.measure_draws()
    return time.process_time() - started


def train_seconds(overrides: tuple[str, ...]) -> float:
    """Train a cell; return the CPU seconds."""
    run = CellRun.start(config(*overrides), CPU)
    run.measure_draws()
    spec = run.train_spec()
    started = time.process_time()
    train(spec, lambda done, total: None)
    return time.process_time() - started


# --- results ----------------------------------------------------------------------------------


def share(record: Record) -> Summary:
    """Return the time of probing relative to training, by round."""
    times = record["seconds"]
    rounds = zip(times["draws and probe"], times["one draw"], times["training"], strict=True)
    return Summary.of([(probed - bare) / training for probed, bare, training in rounds])


def steps_for_aim(record: Record) -> int:
    """Return the number of training steps of which probing takes 5 % of the time."""
    return round(share(record).median * record["steps"] / AIM)


def percent(record: Record) -> str:
    """Return the share in percent."""
    summary = share(record)
    values = (summary.median, summary.low, summary.high)
    median, low, high = (f"{100 * value:.1f}" for value in values)
    return median if summary.n == 1 else f"{median} ({low} to {high})"


def line(record: Record) -> str:
    """Return the share."""
    return f"probing takes {percent(record)} % of the time of training, n={share(record).n}"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return one table with all models."""
    rows = []
    for record in records:
        medians = [1e3 * Summary.of(values).median for values in record["seconds"].values()]
        numbers = (record["shape"], str(record["steps"]), str(share(record).n))
        times = tuple(f"{value:.1f}" for value in medians)
        row = (record["model"], *numbers, *times, percent(record), f"{steps_for_aim(record):,}")
        rows.append(row)
    return [
        Table(
            "Probing at the default settings",
            (
                *("model", "image", "steps", "n", "draws and probe, ms", "one draw, ms"),
                *("training, ms", "probing, % of training", "5 % from steps"),
            ),
            tuple(rows),
            (
                "`fanin run model=MODEL`: scikit-learn's digits, three epochs, eight draws "
                "measured on 32 images. Probing is the time to draw and measure all draws minus "
                "the time of the one draw that training needs. On one thread. Its time does not "
                "depend on the number of training steps: with the steps of the last column or "
                "more, it takes at most 5 % of the time of training. (Three epochs of MNIST are "
                "2,811 steps.)",
            ),
        )
    ]


def short_table(records: Sequence[Record]) -> Table:
    """Return the share by model."""
    rows = tuple(
        (
            record["model"],
            str(share(record).n),
            f"{percent(record)} %",
            f"{steps_for_aim(record):,}",
        )
        for record in records
    )
    columns = ("model", "n", "probing relative to training", "at most 5 % from this many steps")
    return Table("", columns, rows)


def answer(records: Sequence[Record]) -> str:
    """Return the range of the share."""
    shares = sorted((share(record).median, record["model"]) for record in records)
    (low, least), (high, most) = shares[0], shares[-1]
    return (
        f"At the default settings ({records[0]['steps']} steps), probing takes {100 * low:.0f} % "
        f"({least}) to {100 * high:.0f} % ({most}) of the time of training. It takes less than 5 % "
        f"from {max(map(steps_for_aim, records)):,} steps on."
    )


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the share of each model as a bar."""
    shares = [share(record) for record in records]
    axes.barh(
        [record["model"] for record in records],
        [100 * summary.median for summary in shares],
        xerr=[
            [100 * (summary.median - summary.low) for summary in shares],
            [100 * (summary.high - summary.median) for summary in shares],
        ],
        **{"height": 0.6, "color": "0.6", "edgecolor": "black", "linewidth": 0.6},
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    axes.invert_yaxis()
    axes.set_xlabel("time of probing relative to training (%)")
