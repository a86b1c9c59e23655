"""Whole sweeps on MNIST, against Hydra's launchers, submitit and a process pool."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.load import load
from benchmarks.baselines import mnist, pool, submitit_local
from benchmarks.cells import config
from benchmarks.machine import cores
from benchmarks.measure import python, run
from benchmarks.page import Table
from benchmarks.samples import Summary, interleave, ratios
from benchmarks.section import Case, Mode, Record, Settings
from experiments.data import Dataset, Split
from experiments.schema import build_cell
from fanin.errors import DataError, FaninError

FANIN, BASIC, JOBLIB = "fanin, runner=local", "hydra -m, basic", "hydra -m, joblib"
SUBMITIT, POOL = "submitit, local executor", "process pool, no results stored"
INITS = tuple(mnist.INITS)
LRS = ("0.01", "0.02", "0.05", "0.1")
SCRIPTS = (
    "All tools train the same network (a 3x3 convolution, ReLU, a 2x2 max-pool and a linear "
    "layer) for one epoch of plain SGD on the same 8-bit images in batches of the same size, and "
    "compute the accuracy on the same test images. The order of the batches differs. "
    "`benchmarks/baselines/mnist.py`, the script of Hydra and submitit, uses a Dataset and a "
    "DataLoader without worker processes. Hydra's basic launcher runs one job at a time with "
    "torch's default number of threads; joblib runs a job per core; submitit runs one job per core "
    "with one thread, each a `FunctionSequence` of its share of the cells. The process pool reads "
    "no configs and stores nothing: a one-thread process per core, tensors in memory, "
    "channels_last. Every command is timed from its start to its exit."
)


@dataclass(frozen=True)
class Grid:
    """A grid of all combinations of init, learning rate and seed, one epoch each."""

    seeds: int
    channels: int = 16  # the default of two_layer
    n_lrs: int = len(LRS)
    n_train: int = 6400
    n_test: int = 1000
    batch_size: int = 128

    @property
    def lrs(self) -> tuple[str, ...]:
        """Learning rates."""
        return LRS[: self.n_lrs]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(INITS) * self.n_lrs * self.seeds


# Grids with the largest number of rounds and the seconds after which no other round starts.
SIZES: dict[Mode, tuple[tuple[Grid, int, float], ...]] = {
    "tiny": ((Grid(1, channels=1, n_lrs=1, n_train=64, n_test=32, batch_size=32), 1, 0),),
    "quick": ((Grid(1, n_lrs=2, n_train=3200), 1, 0),),
    "full": (
        (Grid(1, channels=4, n_lrs=2), 3, 100),
        (Grid(2), 3, math.inf),  # the grid of `answer`
        (Grid(1, channels=32, n_lrs=2), 3, 100),
    ),
}


def check(settings: Settings) -> None:
    """Raise DataError if MNIST's files are missing; the message says how to get them."""
    if settings.mode != "tiny":
        check_files(settings.data_root)


def check_files(root: Path) -> None:
    """Raise DataError if MNIST's files are missing; the message says how to get them."""
    for split in ("train", "t10k"):
        path = root.expanduser() / "mnist" / f"{split}-images-idx3-ubyte"
        if not path.exists() and not path.with_name(f"{path.name}.gz").exists():
            raise DataError(
                f"{path}: no such file, needed by section sweep. Download it, or name other "
                f"sections:\n  fanin data fetch mnist --root {root}"
            )


def cases(settings: Settings) -> list[Case]:
    """Return a case for each network size."""
    found = []
    for grid, rounds, budget in SIZES[settings.mode]:
        seconds = 20 + 3e-5 * (10 + grid.channels) * grid.n_train * grid.cells  # of one round
        found.append(
            Case(
                f"{grid.channels} channels, {grid.cells} cells",
                min(rounds * seconds, max(seconds, budget)),
                partial(measure, settings, grid, rounds, budget),
            )
        )
    return found


def measure(settings: Settings, grid: Grid, rounds: int, budget: float) -> Record:
    """Run the grid with all tools in turn, and check that all cells are trained."""
    random = settings.mode == "tiny"
    data = _random(grid) if random else _mnist(settings.data_root, grid)
    folder = settings.folder / f"{grid.channels}"
    files = write_images(data, folder / "images")
    methods: dict[str, Callable[[Path], Sequence[float]]] = {
        FANIN: partial(run_fanin, grid, ("data=arrays", f"data.file='{files / 'images.npz'}'")),
        BASIC: partial(run_hydra, "basic", grid, files),
        JOBLIB: partial(run_hydra, "joblib", grid, files),
        SUBMITIT: partial(run_submitit, grid, files),
        POOL: partial(run_pool, grid, files),
    }
    accuracies: dict[str, list[float]] = {name: [] for name in methods}

    def timed(name: str) -> float:
        started = time.perf_counter()
        found = methods[name](folder / f"{name} {len(accuracies[name])}")
        seconds = time.perf_counter() - started
        accuracies[name].append(statistics.fmean(found))
        return seconds

    times = interleave({name: partial(timed, name) for name in methods}, rounds, budget)
    return {
        "grid": asdict(grid),
        "cells": grid.cells,
        "seconds": times,
        "accuracy": {name: statistics.fmean(found) for name, found in accuracies.items()},
        "random_images": random,
    }


def run_fanin(
    grid: Grid, data: Sequence[str], results: Path, runner: Sequence[str] = ("runner=local",)
) -> Sequence[float]:
    """Run the grid with fanin; return the accuracies in its table."""
    cell = [*data, "scaling=standardize", "probe=none", "activation=relu"]
    cell += ["model=two_layer", f"model.channels={grid.channels}", "optim=sgd"]
    cell += ["train.epochs=1", f"train.batch_size={grid.batch_size}"]
    axes = [f"init={','.join(INITS)}", f"optim.lr={','.join(grid.lrs)}"]
    axes += [f"seed=range({grid.seeds})"]
    sweep = [*runner, f"sweep.results='{results}'", "sweep.name=mnist"]
    run(python("fanin", "run", "-m", *cell, *axes, *sweep))
    return _complete(load("mnist", results).cells["test_accuracy"].tolist(), grid)


def run_hydra(
    launcher: str, grid: Grid, files: Path, results: Path, settings: Sequence[str] = ()
) -> Sequence[float]:
    """Run the grid with `benchmarks.baselines.mnist`; return the accuracies in the jobs' logs."""
    hydra = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'", *settings]
    hydra += [f"hydra.launcher.n_jobs={cores()}"] if launcher == "joblib" else []
    sizes = [f"n_train={grid.n_train}", f"n_test={grid.n_test}", f"channels={grid.channels}"]
    sizes += [f"batch_size={grid.batch_size}", f"root='{files}'"]
    axes = [f"init={','.join(INITS)}", f"lr={','.join(grid.lrs)}", f"seed=range({grid.seeds})"]
    run(python(mnist.__name__, "-m", *hydra, *sizes, *axes))
    logs = "".join(path.read_text() for path in results.glob("*/*.log"))
    return _complete([float(text) for text in re.findall(r"accuracy ([\d.]+)", logs)], grid)


def run_submitit(grid: Grid, files: Path, results: Path) -> Sequence[float]:
    """Run the grid with submitit; return the mean accuracy that it prints."""
    folder = ("--folder", str(results))
    return _mean_accuracy(run(python(submitit_local.__name__, *_flags(grid, files), *folder)), grid)


def run_pool(grid: Grid, files: Path, results: Path) -> Sequence[float]:
    """Run the grid in a process pool; return the mean accuracy that it prints."""
    return _mean_accuracy(run(python(pool.__name__, *_flags(grid, files))), grid)


def write_images(data: Dataset, folder: Path) -> Path:
    """Write images for `data=arrays` (`images.npz`) and in MNIST's format (`mnist/`)."""
    (folder / "mnist").mkdir(parents=True)
    arrays: dict[str, Any] = {}
    for split, prefix, suffix in ((data.train, "train", ""), (data.test, "t10k", "_test")):
        x, y = split.x.numpy(), split.y.numpy()
        arrays |= {f"x{suffix}": x, f"y{suffix}": y}
        for name, header, content in (("images-idx3", 16, x), ("labels-idx1", 8, y)):
            path = folder / "mnist" / f"{prefix}-{name}-ubyte"
            path.write_bytes(bytes(header) + content.astype(np.uint8).tobytes())
    np.savez(folder / "images.npz", **arrays)
    return folder


def _mnist(root: Path, grid: Grid) -> Dataset:
    sizes = (f"data.n_train={grid.n_train}", f"data.n_test={grid.n_test}")
    return build_cell(config("data=mnist", f"data.root='{root}'", *sizes)).data.load()


def _random(grid: Grid) -> Dataset:
    def split(n: int) -> Split:
        rng = torch.Generator().manual_seed(n)
        x = torch.randint(256, (n, 1, 28, 28), generator=rng, dtype=torch.uint8)
        return Split(x, torch.arange(n) % 10)

    return Dataset(split(grid.n_train), split(grid.n_test), 10, full_scale=255.0)


def _flags(grid: Grid, files: Path) -> list[str]:
    flags = ["--root", str(files), "--inits", *INITS, "--lrs", *grid.lrs]
    flags += ["--seeds", str(grid.seeds), "--workers", str(cores())]
    flags += ["--n-train", str(grid.n_train), "--n-test", str(grid.n_test)]
    return [*flags, "--batch-size", str(grid.batch_size), "--channels", str(grid.channels)]


def _mean_accuracy(output: str, grid: Grid) -> list[float]:
    """Return the accuracy in `accuracy A of N`, once for each cell."""
    (found,) = re.findall(r"accuracy ([\d.]+) of (\d+)", output)
    return _complete([float(found[0])] * int(found[1]), grid)


def _complete(accuracies: list[float], grid: Grid) -> list[float]:
    if len(accuracies) != grid.cells:
        raise FaninError(f"{len(accuracies)} cells instead of {grid.cells}: can't compare times")
    return accuracies


# --- results ----------------------------------------------------------------------------------


def relative(record: Record, method: str) -> Summary:
    """Return a tool's seconds relative to fanin's, by round."""
    return Summary.of(ratios(record["seconds"][method], record["seconds"][FANIN]))


def line(record: Record) -> str:
    """Return the time of the tools relative to fanin."""
    others = [name for name in record["seconds"] if name != FANIN]
    factors = [f"{name} {relative(record, name).text()}" for name in others]
    return f"time relative to fanin: {'; '.join(factors)}"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return a table for each network size."""
    return [_table(record) for record in records]


def short_table(records: Sequence[Record]) -> Table:
    """Return the time relative to fanin by network size."""
    columns = tuple(
        f"{r['grid']['channels']} channels, {r['cells']} cells (n={_rounds(r)})" for r in records
    )
    names = list(records[0]["seconds"])
    rows = [
        (name, *(relative(record, name).text() for record in records))
        for name in names
        if name != FANIN
    ]
    seconds = [f"{Summary.of(r['seconds'][FANIN]).median:.1f} s" for r in records]
    return Table("", ("time relative to fanin", *columns), ((FANIN, *seconds), *rows))


def answer(records: Sequence[Record]) -> str:
    """Return the speed relative to Hydra's launchers in the largest grid."""
    record = max(records, key=lambda r: r["cells"])
    factors = {name: relative(record, name).median for name in (BASIC, JOBLIB, SUBMITIT, POOL)}
    return (
        f"A sweep of {record['cells']} small CNNs on {record['grid']['n_train']:,} MNIST images is "
        f"{factors[JOBLIB]:.1f} times as fast as with Hydra's joblib launcher, "
        f"{factors[BASIC]:.1f} times as fast as with its basic launcher, {factors[SUBMITIT]:.1f} "
        f"times as fast as with submitit, and {factors[POOL]:.1f} times as fast as in a bare "
        f"process pool ({'one round' if _rounds(record) == 1 else f'{_rounds(record)} rounds'})."
    )


def _rounds(record: Record) -> int:
    return len(record["seconds"][FANIN])


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the time of the other tools relative to fanin, a group of bars for each network size."""
    names = [name for name in records[0]["seconds"] if name != FANIN]
    looks = (("0.15", ""), ("0.45", ""), ("0.7", "//"), ("1.0", ""))
    width = 0.8 / len(names)
    for number, (name, (color, hatch)) in enumerate(zip(names, looks, strict=True)):
        factors = [relative(record, name) for record in records]
        medians = [factor.median for factor in factors]
        axes.bar(
            [position + (number - 1.5) * width for position in range(len(records))],
            medians, width, color=color, hatch=hatch, edgecolor="black", linewidth=0.6, label=name,
            yerr=[
                [factor.median - factor.low for factor in factors],
                [factor.high - factor.median for factor in factors],
            ],
            error_kw={"elinewidth": 1, "capsize": 2},
        )  # fmt: skip
    labels = [f"{r['grid']['channels']} channels\n{r['cells']} cells" for r in records]
    axes.set_xticks(range(len(records)), labels)
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    axes.set_ylabel("time relative to fanin (1: equal)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _table(record: Record) -> Table:
    grid = Grid(**record["grid"])
    rows = []
    for name, values in record["seconds"].items():
        seconds, factor = Summary.of(values), relative(record, name)
        rows.append(
            (
                *(name, str(seconds.n), seconds.text("{:.1f}")),
                f"{60 * grid.cells / seconds.median:.0f}",
                factor.text(),
                f"{record['accuracy'][name]:.3f}",
            )
        )
    return Table(
        f"Sweep: {grid.channels} channels, {grid.cells} cells on {grid.n_train:,} images",
        ("", "n", "s", "cells/min", "time relative to fanin", "mean test accuracy"),
        tuple(rows),
        (f"Batches of {grid.batch_size}, {grid.n_test:,} test images. {SCRIPTS}",),
    )
