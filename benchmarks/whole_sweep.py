"""A real grid on MNIST from command to tables, against a plain script under Hydra's launchers."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.load import load
from benchmarks.measure import python, run
from benchmarks.overhead import name_of
from benchmarks.page import Section
from benchmarks.rivals import mnist, pool
from fanin.errors import DataError, FaninError

Say = Callable[[str], None]
OURS = "fanin, runner=local"
POOL = "bare pool (a bound)"
JOBS = ("hydra.launcher.n_jobs=2",)
INITS = tuple(mnist.INITS)
LRS = ("0.01", "0.02", "0.05", "0.1")


@dataclass(frozen=True)
class Size:
    """Size of the grid: each init with each learning rate and each seed, one epoch."""

    seeds: int
    n_train: int = 6400
    n_test: int = 1000
    batch_size: int = 128
    channels: int = 16  # as two_layer has by default

    @property
    def cells(self) -> int:
        """Cells of the grid."""
        return len(INITS) * len(LRS) * self.seeds


def whole_sweep(size: Size, root: Path, folder: Path, say: Say) -> Section:
    """Time a whole sweep, once each way, and check that every way trains.

    Parameters
    ----------
    size
        How much there is to do.
    root
        `data.root`, with MNIST's four files in its folder `mnist`.
    folder, say
        As in `overhead`.

    Raises
    ------
    DataError
        The files are not there.
    """
    check_files(root)
    ways: dict[str, Callable[[], Sequence[float]]] = {
        OURS: lambda: run_ours(size, root, folder),
        name_of("basic"): lambda: run_script("basic", size, root, folder / "basic"),
        name_of("joblib"): lambda: run_script("joblib", size, root, folder / "joblib", JOBS),
        POOL: lambda: run_pool(size, root),
    }
    seconds, accuracies = {}, {}
    for name, way in ways.items():
        say(f"{size.cells} cells on MNIST: {name}")
        began = time.perf_counter()
        accuracies[name] = statistics.fmean(way())
        seconds[name] = time.perf_counter() - began
    rows = tuple(
        (
            name,
            str(size.cells),
            f"{seconds[name]:.1f}",
            f"{60 * size.cells / seconds[name]:.0f}",
            f"{seconds[name] / seconds[OURS]:.2f}",
            f"{accuracies[name]:.3f}",
        )
        for name in ways
    )
    return Section(
        title=f"A whole sweep: {size.cells} cells on {size.n_train:,} MNIST images, one epoch, "
        f"{size.channels} channels",
        columns=("", "cells", "s (n=1)", "cells/min", "time / fanin's", "mean test accuracy"),
        rows=rows,
        remarks=(
            f"The network is a 3x3 convolution with {size.channels} channels, ReLU, a max-pool and "
            f"a linear layer; batches of {size.batch_size}, plain SGD, {size.n_test:,} test "
            "images. The script under `hydra -m` has a DataLoader without worker processes and "
            "torch's default number of threads; under joblib two jobs run at once. The bare pool "
            "keeps no results and reads no configs: two one-thread processes, tensors in memory, "
            "channels_last. Accuracies show that every way trains; they differ by the order of the "
            "batches, and by the test images: fanin takes as many of each class, the scripts take "
            "the first thousand, which are harder.",
        ),
    )


def check_files(root: Path) -> None:
    """See that MNIST's files are there.

    Raises
    ------
    DataError
        They are not; the text says how to get them.
    """
    missing = [p for p in ("train", "t10k") if not _images(root, p).exists()]
    if missing:
        raise DataError(
            f"{_images(root, missing[0])}: not there; this fetches the files, and unpacks them as "
            f"the plain script reads them:\n"
            f"  python -m experiments.run data=mnist data.root={root} train.steps=0\n"
            f"  gunzip --keep {root}/mnist/*.gz"
        )


def run_ours(
    size: Size, root: Path, results: Path, runner: Sequence[str] = ("runner=local",)
) -> Sequence[float]:
    """The grid under fanin; the accuracies that its table holds."""
    data = ["data=mnist", f"data.root='{root}'", f"data.n_train={size.n_train}"]
    data += [f"data.n_test={size.n_test}", "scaling=standardize", "probe=none"]
    model = ["model=two_layer", f"model.channels={size.channels}", "activation=relu"]
    length = ["train.epochs=1", f"train.batch_size={size.batch_size}", "optim=sgd"]
    axes = [f"init={','.join(INITS)}", f"optim.lr={','.join(LRS)}", f"seed=range({size.seeds})"]
    where = [*runner, f"sweep.results='{results}'", "sweep.name=mnist"]
    run(python("experiments.run", "-m", *data, *model, *length, *axes, *where))
    cells = load("mnist", results).cells
    return _complete(cells["test_accuracy"].tolist(), size)


def run_script(
    launcher: str, size: Size, root: Path, results: Path, settings: Sequence[str] = ()
) -> Sequence[float]:
    """The same grid of `benchmarks.rivals.mnist`; the accuracies in its jobs' logs."""
    by = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'"]
    by += settings
    sizes = [f"n_train={size.n_train}", f"n_test={size.n_test}", f"channels={size.channels}"]
    sizes += [f"batch_size={size.batch_size}", f"root='{root}'"]
    axes = [f"init={','.join(INITS)}", f"lr={','.join(LRS)}", f"seed=range({size.seeds})"]
    run(python(mnist.__name__, "-m", *by, *sizes, *axes))
    logs = "".join(path.read_text() for path in results.glob("*/*.log"))
    return _complete([float(found) for found in re.findall(r"accuracy ([\d.]+)", logs)], size)


def run_pool(size: Size, root: Path) -> Sequence[float]:
    """The same arithmetic in a bare pool; the mean accuracy that it prints."""
    words = ["--root", str(root), "--inits", *INITS, "--lrs", *LRS, "--seeds", str(size.seeds)]
    words += ["--n-train", str(size.n_train), "--n-test", str(size.n_test)]
    words += ["--batch-size", str(size.batch_size), "--channels", str(size.channels)]
    return [float(run(python(pool.__name__, *words)).split()[-1])]


def _complete(accuracies: list[float], size: Size) -> list[float]:
    if len(accuracies) != size.cells:
        raise FaninError(f"{len(accuracies)} cells instead of {size.cells}: nothing to compare")
    return accuracies


def _images(root: Path, split: str) -> Path:
    return root.expanduser() / "mnist" / f"{split}-images-idx3-ubyte"
