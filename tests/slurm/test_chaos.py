"""A sweep of 250 cells while nodes die, the controller is killed and jobs are requeued."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from conftest import Cluster
from limits import slowness
from sweep_command import SweepCommand

from analysis import load

pytestmark = pytest.mark.slurm

CELLS = 250
FAULT_KINDS = ("node", "controller", "requeue")
PAUSE = (1.0, 3.0)  # seconds between two faults
MAX_FAULTS = 9  # one of each kind first; then the sweep finishes without further faults
RUN_COLUMNS = {"seconds", "attempt", "host", "device", "code"}  # they describe the run


def test_random_faults_do_not_change_the_results(healthy_cluster: Cluster, tmp_path: Path) -> None:
    cluster, seed = healthy_cluster, random.randrange(1 << 32)
    sweep = SweepCommand(cluster, tmp_path / "chaos")
    reference = SweepCommand(cluster, tmp_path / "reference")
    # About 50 ms per cell, so that faults hit running cells.
    overrides = (f"seed=range({CELLS})", "train.steps=100", "runner.pack_cells=10")
    rng, faults = random.Random(seed), Counter[str]()
    # A job sends no heartbeat before it has read its submission.
    timeout = f"runner.heartbeat_timeout_seconds={max(60, 8 * slowness()):.0f}"
    limits = ("runner.target_minutes=0.000001", "runner.attempts=50", timeout)
    process = sweep.start(*overrides, *limits)
    sweep.wait_until(sweep.open_journals)
    while process.poll() is None:
        if sum(faults.values()) < MAX_FAULTS:
            missing = [kind for kind in FAULT_KINDS if not faults[kind]]
            kind = rng.choice(missing or [*FAULT_KINDS, "requeue"])
            faults[kind] += inject_fault(cluster, kind, rng)
        repair_cluster(cluster)
        time.sleep(rng.uniform(*PAUSE))
    output = sweep.finish(process)
    assert process.returncode == 0, (seed, faults, output)
    assert min(faults[kind] for kind in FAULT_KINDS) > 0, faults
    assert reference.run(*overrides, runner=("runner=local",))[0] == 0
    actual, expected = load("s", sweep.root), load("s", reference.root)
    assert sorted(actual.cells["cell_id"]) == sorted(expected.cells["cell_id"])
    assert len(set(actual.cells["cell_id"])) == len(actual.cells) == CELLS
    for table in ("cells", "layers", "histograms", "curves"):
        pd.testing.assert_frame_equal(
            sort_rows(getattr(actual, table)), sort_rows(getattr(expected, table)), check_exact=True
        )
    assert not list(sweep.folder.journals.glob("*"))
    assert len(sweep.arrays()) >= 3  # 25 jobs; an array has at most 11 tasks here
    print(f"seed {seed}: {dict(faults)}; {sum(sweep.count_rows().values()) - CELLS} lost attempts")


def inject_fault(cluster: Cluster, kind: str, rng: random.Random) -> bool:
    """Inject one fault; return False if there was no running job to requeue."""
    if kind == "controller":
        cluster.run("restart-controller")
        return True
    if kind == "node":
        node = rng.choice(sorted(cluster.nodes()))
        cluster.run("kill-node", node)
        time.sleep(rng.uniform(0, 2))
        cluster.run("start-node", node)
        return True
    running = cluster.sh("squeue -h -r -t RUNNING -o %F_%K || true").split()
    if not running:
        return False
    cluster.sh(f"scontrol requeue {rng.choice(running)} || true")  # it may have just ended
    return True


def repair_cluster(cluster: Cluster) -> None:
    """Resume drained nodes and release held jobs, as an operator does.

    A killed controller that forgot a job's start makes Slurm drain nodes ("Duplicate jobid") and
    hold jobs that a node refused.
    """
    with suppress(AssertionError):  # the controller may be busy; try again the next time
        cluster.resume()
    held = cluster.sh("squeue -h -r -t PENDING -o '%F_%K %r' | grep held || true").splitlines()
    for line in held:
        cluster.sh(f"scontrol release {line.split()[0]} || true")


def sort_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return a sorted table without the columns that describe the run."""
    kept = table.drop(columns=RUN_COLUMNS & set(table.columns))
    keys = [name for name in ("cell_id", "draw", "step", "image", "layer", "quantity", "metric")
            if name in kept.columns]  # fmt: skip
    # Lost attempts leave unused outcomes among the categories.
    plain = kept.astype({name: str for name in kept if str(kept[name].dtype) == "category"})
    return plain.sort_values(keys, kind="stable").reset_index(drop=True)
