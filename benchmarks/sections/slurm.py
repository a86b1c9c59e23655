"""Sweeps on a Slurm cluster on this machine, against Hydra's submitit launcher.

`slurm/testcluster` starts a cluster of three nodes and stops it at the end.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT
from benchmarks.page import Table
from benchmarks.section import Case, Record, Settings, by
from benchmarks.sections.sweep import Grid, check_files, run_fanin, run_hydra
from fanin.errors import FaninError

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
SHORT, LONG = "10 ms", "1 s"
# Time per cell and grid. Hydra's throughput does not depend on the size of the grid.
RUNS = (
    (HYDRA, SHORT, Grid(seeds=4, n_train=128, n_test=100)),
    (FANIN, SHORT, Grid(seeds=4, n_train=128, n_test=100)),
    (FANIN, SHORT, Grid(seeds=64, n_train=128, n_test=100)),
    (HYDRA, LONG, Grid(seeds=4)),
    (FANIN, LONG, Grid(seeds=4)),
)


def check(settings: Settings) -> None:
    """Raise FaninError if MNIST's files are missing or the user is not root."""
    check_files(settings.data_root)
    if os.geteuid() != 0:
        raise FaninError("section slurm starts a Slurm cluster, which needs root")


def cases(settings: Settings) -> list[Case]:
    """Return a case for each tool and grid; only one in mode tiny."""
    runs = RUNS[1:2] if settings.mode == "tiny" else RUNS
    return [
        Case(
            f"{name}, {grid.cells} cells of {duration}",
            160 if name == HYDRA else 30,
            partial(
                measure, name, duration, grid, settings.data_root, settings.folder / f"{number}"
            ),
        )
        for number, (name, duration, grid) in enumerate(runs)
    ]


def measure(name: str, duration: str, grid: Grid, root: Path, folder: Path) -> Record:
    """Run one grid on a new cluster; return the seconds of the command."""
    with cluster(folder / "cluster"):
        started = time.perf_counter()
        if name == FANIN:
            sizes = (f"data.n_train={grid.n_train}", f"data.n_test={grid.n_test}")
            data = ("data=mnist", f"data.root='{root}'", *sizes)
            run_fanin(grid, data, folder / "results", SLURM_SETTINGS)
        else:
            run_hydra("submitit_slurm", grid, root, folder / "results", HYDRA_SETTINGS)
        seconds = time.perf_counter() - started
    return {"method": name, "time_per_cell": duration, "cells": grid.cells, "seconds": [seconds]}


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start a cluster and use it for Slurm commands of this process and its children."""
    _testcluster(folder, "up", "--nodes", str(NODES), "--cpus", str(CPUS))
    os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        yield
    finally:
        _testcluster(folder, "down")


def _testcluster(folder: Path, *arguments: str) -> None:
    script = str(ROOT / "slurm" / "testcluster")
    command: Sequence[str] = [script, *arguments, "--folder", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        output = process.stderr.strip() or process.stdout.strip()
        raise FaninError(f"{' '.join(command)}: {output}")


# --- results ----------------------------------------------------------------------------------


def rate(record: Record) -> float:
    """Return the cells per minute."""
    (seconds,) = record["seconds"]
    return float(60 * record["cells"] / seconds)


def line(record: Record) -> str:
    """Return the cells per minute."""
    return f"{rate(record):.0f} cells/min"


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the table of all runs."""
    rows = [
        (
            *(record["method"], record["time_per_cell"], f"{record['cells']:,}"),
            *(f"{record['seconds'][0]:.1f}", f"{rate(record):.0f}"),
        )
        for record in records
    ]
    return [
        Table(
            f"On Slurm: {NODES} nodes of {CPUS} CPUs, all on this machine's cores",
            ("", "time per cell", "cells", "s (n=1)", "cells/min"),
            tuple(rows),
            (
                "The script of section *sweep* runs under Hydra's submitit launcher with one job "
                "per cell; fanin runs packs of cells. All jobs have one thread. Hydra's launcher "
                "runs about the same number of cells per minute in a grid of any size. fanin runs "
                "more in a larger grid: in the smallest, the start-up of the command and of its "
                "jobs takes most of the time.",
            ),
        )
    ]


def short_table(records: Sequence[Record]) -> None:
    """Return None: the section is only in the appendix."""


def answer(records: Sequence[Record]) -> str:
    """Return the throughput relative to Hydra's launcher by time per cell."""
    factors = [
        f"{rate(fanin) / rate(hydra):.1f} ({hydra['cells']} cells of {hydra['time_per_cell']})"
        for hydra in by(records, method=HYDRA)
        for fanin in by(records, method=FANIN)
        if all(fanin[key] == hydra[key] for key in ("time_per_cell", "cells"))
    ]
    return (
        f"On Slurm, fanin runs {' and '.join(factors)} times as many cells per minute as Hydra's "
        "submitit launcher (one run each)."
    )


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw nothing: the section has no plot."""
