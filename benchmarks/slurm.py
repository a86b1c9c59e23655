"""On a real Slurm cluster: `python -m benchmarks.slurm [--data-root DIR] [--write]`.

The cluster is one of three nodes on this machine, which `slurm/testcluster` starts and takes down.
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
from benchmarks.page import Section, circumstances, show, write
from benchmarks.whole_sweep import Size, check_files, run_ours, run_script
from experiments.console import exit_on_error
from fanin.errors import FaninError

NAME = "benchmarks.slurm"
NODES, CPUS = 3, 2
OURS, THEIRS = "fanin, runner=slurm_cpu", "hydra -m, submitit_slurm"
ON_SLURM = (
    "runner=slurm_cpu", f"runner.slurm.cpus={CPUS}", "runner.slurm.mem_gb=null",
    "runner.target_minutes=0.05", "runner.poll_seconds=5",
)  # fmt: skip
# These nodes bind no job to the CPU that it asked for, as clusters do: torch would start as many
# threads as the machine has cores, in six jobs at once.
STOCK = (
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=60",
    "hydra.launcher.setup=['export OMP_NUM_THREADS=1']",
)  # fmt: skip
SHORT = Size(seeds=4, n_train=128, n_test=100)  # some 10 ms a cell
LONG = Size(seeds=4)  # about a second
MANY = Size(seeds=64, n_train=128, n_test=100)

Say = Callable[[str], None]


def main() -> int:
    """Measure, print, and with --write put what came out into docs/appendix/performance.md."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/appendix/performance.md")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("~/.cache/fanin").expanduser(),
        help="folder with MNIST's files in mnist/ (default: %(default)s)",
    )
    asked = parser.parse_args()
    out, log = Console(), Console(stderr=True)
    known = circumstances(NAME)
    with exit_on_error():
        check_files(asked.data_root)
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as made:
            folder = Path(made)
            with cluster(folder / "cluster"):
                section = on_slurm(
                    asked.data_root,
                    folder,
                    lambda what: log.print(f"... {what}", highlight=False, markup=False),
                )
        show(out, section)
        if asked.write:
            write(NAME, known, [section])
    return 0


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A cluster that Slurm's commands of this process, and of those it starts, talk to."""
    _testcluster(folder, "up", "--nodes", str(NODES), "--cpus", str(CPUS))
    os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        yield
    finally:
        _testcluster(folder, "down")


def on_slurm(root: Path, folder: Path, say: Say) -> Section:
    """Cells a minute, theirs and ours, of cells that are short and cells that are long.

    Parameters
    ----------
    root
        `data.root`, with MNIST's four files in its folder `mnist`.
    folder
        Where results go.
    say
        Told what is about to be measured.
    """
    rows, rates = [], {}
    for number, (size, kind, ways) in enumerate(
        ((SHORT, "10 ms", (THEIRS, OURS)), (MANY, "10 ms", (OURS,)), (LONG, "1 s", (THEIRS, OURS)))
    ):
        for name in ways:
            say(f"{size.cells} cells of {kind}: {name}")
            seconds = _seconds(name, size, root, folder / f"{number} {name}")
            rates[kind, name, size.cells] = rate = 60 * size.cells / seconds
            rows.append((name, kind, f"{size.cells:,}", f"{seconds:.1f}", f"{rate:.0f}"))
    short = rates["10 ms", OURS, SHORT.cells] / rates["10 ms", THEIRS, SHORT.cells]
    many = rates["10 ms", OURS, MANY.cells] / rates["10 ms", THEIRS, SHORT.cells]
    long = rates["1 s", OURS, LONG.cells] / rates["1 s", THEIRS, LONG.cells]
    return Section(
        title=f"On Slurm: {NODES} nodes of {CPUS} CPUs, all on this machine's cores",
        columns=("", "a cell", "cells", "s (n=1)", "cells/min"),
        rows=tuple(rows),
        remarks=(
            f"fanin against Hydra's submitit launcher, start-up included, cells a minute: "
            f"{short:.1f} times with {SHORT.cells} cells of 10 ms ({many:.0f} times with "
            f"{MANY.cells:,} of ours), {long:.1f} times with {LONG.cells} cells of a second.",
        ),
    )


def _seconds(name: str, size: Size, root: Path, results: Path) -> float:
    began = time.perf_counter()
    if name == OURS:
        run_ours(size, root, results, ON_SLURM)
    else:
        run_script("submitit_slurm", size, root, results, STOCK)
    return time.perf_counter() - began


def _testcluster(folder: Path, *words: str) -> None:
    command: Sequence[str] = [str(ROOT / "slurm" / "testcluster"), *words, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise FaninError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


if __name__ == "__main__":
    raise SystemExit(main())
