"""Benchmark: a complete sweep on MNIST, against a plain script under Hydra's launchers."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.load import load
from benchmarks.baselines import mnist, pool
from benchmarks.measure import python, run
from benchmarks.overhead import launcher_label
from benchmarks.page import Section
from fanin.errors import DataError, FaninError

Log = Callable[[str], None]
FANIN = "fanin, runner=local"
POOL = "process pool, no results stored"
JOBS = ("hydra.launcher.n_jobs=2",)
INITS = tuple(mnist.INITS)
LRS = ("0.01", "0.02", "0.05", "0.1")


@dataclass(frozen=True)
class Size:
    """Size of the grid: all combinations of init, learning rate and seed, one epoch each."""

    seeds: int
    n_train: int = 6400
    n_test: int = 1000
    batch_size: int = 128
    channels: int = 16  # the default of two_layer

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(INITS) * len(LRS) * self.seeds


def mnist_sweep(size: Size, root: Path, folder: Path, log: Log) -> Section:
    """Time the complete sweep once with each method, and check that all cells are trained.

    Parameters
    ----------
    size
        Size of the grid.
    root
        `data.root`, with MNIST's four files in the subfolder `mnist`.
    folder, log
        As in `overhead`.

    Raises
    ------
    DataError
        The files are missing.
    """
    check_files(root)
    methods: dict[str, Callable[[], Sequence[float]]] = {
        FANIN: lambda: run_fanin(size, root, folder),
        launcher_label("basic"): lambda: run_script("basic", size, root, folder / "basic"),
        launcher_label("joblib"): lambda: run_script("joblib", size, root, folder / "joblib", JOBS),
        POOL: lambda: run_pool(size, root),
    }
    seconds, accuracies = {}, {}
    for name, method in methods.items():
        log(f"{size.cells} cells on MNIST: {name}")
        started = time.perf_counter()
        accuracies[name] = statistics.fmean(method())
        seconds[name] = time.perf_counter() - started
    rows = tuple(
        (
            name,
            str(size.cells),
            f"{seconds[name]:.1f}",
            f"{60 * size.cells / seconds[name]:.0f}",
            f"{seconds[name] / seconds[FANIN]:.2f}",
            f"{accuracies[name]:.3f}",
        )
        for name in methods
    )
    return Section(
        title=f"A complete sweep: {size.cells} cells on {size.n_train:,} MNIST images, one epoch, "
        f"{size.channels} channels",
        columns=(
            "",
            "cells",
            "s (n=1)",
            "cells/min",
            "time relative to fanin",
            "mean test accuracy",
        ),
        rows=rows,
        remarks=(
            f"The network is a 3x3 convolution with {size.channels} channels, ReLU, a max-pool and "
            f"a linear layer; batches of {size.batch_size}, plain SGD, {size.n_test:,} test "
            "images. The script under `hydra -m` uses a DataLoader without worker processes and "
            "torch's default number of threads; under joblib two jobs run at a time. The process "
            "pool reads no configs and stores no results: two one-thread processes, tensors in "
            "memory, channels_last. fanin takes less time because its training step is faster: it "
            "applies the max-pool before ReLU, which gives the same result "
            "(`experiments/training/cpu_performance.py`). The accuracies show that all methods "
            "train the networks. The accuracies differ because the order of the batches and the "
            "test images differ: fanin uses a stratified subset, the scripts use the first "
            "thousand images, which are harder.",
        ),
    )


def check_files(root: Path) -> None:
    """Raise DataError if MNIST's files are missing; the message says how to get them."""
    missing = [p for p in ("train", "t10k") if not _images(root, p).exists()]
    if missing:
        raise DataError(
            f"{_images(root, missing[0])}: no such file. Download and decompress the files with:\n"
            f"  fanin data fetch mnist --root {root}\n"
            f"  gunzip --keep {root}/mnist/*.gz"
        )


def run_fanin(
    size: Size, root: Path, results: Path, runner: Sequence[str] = ("runner=local",)
) -> Sequence[float]:
    """Run the grid with fanin; return the accuracies in its table."""
    data = ["data=mnist", f"data.root='{root}'", f"data.n_train={size.n_train}"]
    data += [f"data.n_test={size.n_test}", "scaling=standardize", "probe=none"]
    model = ["model=two_layer", f"model.channels={size.channels}", "activation=relu"]
    length = ["train.epochs=1", f"train.batch_size={size.batch_size}", "optim=sgd"]
    axes = [f"init={','.join(INITS)}", f"optim.lr={','.join(LRS)}", f"seed=range({size.seeds})"]
    runner = [*runner, f"sweep.results='{results}'", "sweep.name=mnist"]
    run(python("experiments.run", "-m", *data, *model, *length, *axes, *runner))
    cells = load("mnist", results).cells
    return _complete(cells["test_accuracy"].tolist(), size)


def run_script(
    launcher: str, size: Size, root: Path, results: Path, settings: Sequence[str] = ()
) -> Sequence[float]:
    """Run the grid with `benchmarks.baselines.mnist`; return the accuracies in the jobs' logs."""
    hydra = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'", *settings]
    sizes = [f"n_train={size.n_train}", f"n_test={size.n_test}", f"channels={size.channels}"]
    sizes += [f"batch_size={size.batch_size}", f"root='{root}'"]
    axes = [f"init={','.join(INITS)}", f"lr={','.join(LRS)}", f"seed=range({size.seeds})"]
    run(python(mnist.__name__, "-m", *hydra, *sizes, *axes))
    logs = "".join(path.read_text() for path in results.glob("*/*.log"))
    return _complete([float(text) for text in re.findall(r"accuracy ([\d.]+)", logs)], size)


def run_pool(size: Size, root: Path) -> Sequence[float]:
    """Run the grid in a process pool; return the mean accuracy that it prints."""
    flags = ["--root", str(root), "--inits", *INITS, "--lrs", *LRS, "--seeds", str(size.seeds)]
    flags += ["--n-train", str(size.n_train), "--n-test", str(size.n_test)]
    flags += ["--batch-size", str(size.batch_size), "--channels", str(size.channels)]
    return [float(run(python(pool.__name__, *flags)).split()[-1])]


def _complete(accuracies: list[float], size: Size) -> list[float]:
    if len(accuracies) != size.cells:
        raise FaninError(f"{len(accuracies)} cells instead of {size.cells}: can't compare times")
    return accuracies


def _images(root: Path, split: str) -> Path:
    return root.expanduser() / "mnist" / f"{split}-images-idx3-ubyte"
