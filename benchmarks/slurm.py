"""Benchmark on a Slurm cluster: `python -m benchmarks.slurm [--data-root DIR] [--write]`.

`slurm/testcluster` starts a cluster of three nodes on this machine and stops it at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.measure import ROOT
from benchmarks.mnist_sweep import Size, check_files, run_fanin, run_script
from benchmarks.page import Section, run_info, show, write
from experiments.console import exit_on_error
from fanin.errors import FaninError

NAME = "benchmarks.slurm"
NODES, CPUS = 3, 2
FANIN, HYDRA = "fanin, runner=slurm_cpu", "hydra -m, submitit_slurm"
SLURM_SETTINGS = (
    "runner=slurm_cpu", f"runner.slurm.cpus={CPUS}", "runner.slurm.mem_gb=null",
    "runner.target_minutes=0.05", "runner.poll_seconds=5",
)  # fmt: skip
# Unlike most clusters, the test cluster does not bind jobs to CPUs, so each of six concurrent jobs
# would start as many torch threads as the machine has cores.
HYDRA_SETTINGS = (
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=60",
    "hydra.launcher.setup=['export OMP_NUM_THREADS=1']",
)  # fmt: skip
SHORT = Size(seeds=4, n_train=128, n_test=100)  # about 10 ms per cell
LONG = Size(seeds=4)  # about 1 s per cell
MANY = Size(seeds=64, n_train=128, n_test=100)

Log = Callable[[str], None]


def main() -> int:
    """Measure fanin and other launchers on a Slurm cluster on this machine; print the tables."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="update docs/appendix/performance.md")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("~/.cache/fanin").expanduser(),
        help="folder with MNIST's files in mnist/ (default: %(default)s)",
    )
    args = parser.parse_args()
    out, progress = Console(), Console(stderr=True)
    info = run_info(NAME)
    with exit_on_error():
        check_files(args.data_root)
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as name:
            folder = Path(name)
            with cluster(folder / "cluster"):
                section = on_slurm(
                    args.data_root,
                    folder,
                    lambda text: progress.print(f"... {text}", highlight=False, markup=False),
                )
        show(out, section)
        if args.write:
            write(NAME, info, [section])
    return 0


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start a cluster and use it for Slurm commands of this process and its children."""
    _testcluster(folder, "up", "--nodes", str(NODES), "--cpus", str(CPUS))
    os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        yield
    finally:
        _testcluster(folder, "down")


def on_slurm(root: Path, folder: Path, log: Log) -> Section:
    """Measure the throughput of fanin and of Hydra's submitit launcher for short and long cells.

    Parameters
    ----------
    root
        `data.root`, with MNIST's four files in the subfolder `mnist`.
    folder
        Folder for the results.
    log
        Called with a message before each measurement.
    """
    rows, rates = [], {}
    for number, (size, duration, methods) in enumerate(
        ((SHORT, "10 ms", (HYDRA, FANIN)), (MANY, "10 ms", (FANIN,)), (LONG, "1 s", (HYDRA, FANIN)))
    ):
        for name in methods:
            log(f"{size.cells} cells of {duration}: {name}")
            seconds = _seconds(name, size, root, folder / f"{number} {name}")
            rates[duration, name, size.cells] = rate = 60 * size.cells / seconds
            rows.append((name, duration, f"{size.cells:,}", f"{seconds:.1f}", f"{rate:.0f}"))
    short = rates["10 ms", FANIN, SHORT.cells] / rates["10 ms", HYDRA, SHORT.cells]
    many = rates["10 ms", FANIN, MANY.cells] / rates["10 ms", HYDRA, SHORT.cells]
    long = rates["1 s", FANIN, LONG.cells] / rates["1 s", HYDRA, LONG.cells]
    return Section(
        title=f"On Slurm: {NODES} nodes of {CPUS} CPUs, all on this machine's cores",
        columns=("", "time per cell", "cells", "s (n=1)", "cells/min"),
        rows=tuple(rows),
        remarks=(
            f"Start-up included, fanin runs {short:.1f} times as many cells per minute as Hydra's "
            f"submitit launcher in a grid of {SHORT.cells} cells of 10 ms, and {long:.1f} times as "
            f"many in one of {LONG.cells} cells of 1 s. fanin with {MANY.cells:,} cells of 10 ms "
            f"runs {many:.0f} times as many per minute as Hydra's launcher with {SHORT.cells}.",
        ),
    )


def _seconds(name: str, size: Size, root: Path, results: Path) -> float:
    started = time.perf_counter()
    if name == FANIN:
        run_fanin(size, root, results, SLURM_SETTINGS)
    else:
        run_script("submitit_slurm", size, root, results, HYDRA_SETTINGS)
    return time.perf_counter() - started


def _testcluster(folder: Path, *arguments: str) -> None:
    script = str(ROOT / "slurm" / "testcluster")
    command: Sequence[str] = [script, *arguments, "--folder", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        output = process.stderr.strip() or process.stdout.strip()
        raise FaninError(f"{' '.join(command)}: {output}")


if __name__ == "__main__":
    raise SystemExit(main())
