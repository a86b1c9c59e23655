"""250 cells while nodes die, the controller is killed and jobs are requeued, all the time."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from conftest import Cluster
from launching import Grid
from limits import slowness

from analysis import load

pytestmark = pytest.mark.slurm

CELLS = 250
KINDS = ("node", "controller", "requeue")
PAUSE = (1.0, 3.0)  # seconds between two faults
MOST = 9  # faults, one of each kind first; then the sweep is left in peace, to come to an end
SET_UP = {"seconds", "attempt", "host", "device", "code"}  # columns that say how, not what


def test_a_sweep_under_random_faults_is_the_undisturbed_one(
    healthy_cluster: Cluster, tmp_path: Path
) -> None:
    cluster, seed = healthy_cluster, random.randrange(1 << 32)
    grid, calm = Grid(cluster, tmp_path / "chaos"), Grid(cluster, tmp_path / "calm")
    # Some 50 ms a cell, so that faults hit some in the middle.
    words = (f"seed=range({CELLS})", "train.steps=100", "runner.pack_cells=10")
    chance, faults = random.Random(seed), Counter[str]()
    silent = (
        f"runner.heartbeat_timeout_seconds={max(60, 8 * slowness()):.0f}"  # a job that loads is
        silent too
    )
    ours = ("runner.target_minutes=0.000001", "runner.attempts=50", silent)
    process = grid.start(*words, *ours)
    grid.until(grid.running)
    while process.poll() is None:
        if sum(faults.values()) < MOST:
            missing = [kind for kind in KINDS if not faults[kind]]
            kind = chance.choice(missing or [*KINDS, "requeue"])
            faults[kind] += strike(cluster, kind, chance)
        see_to_it(cluster)
        time.sleep(chance.uniform(*PAUSE))
    said = grid.end(process)
    assert process.returncode == 0, (seed, faults, said)
    assert min(faults[kind] for kind in KINDS) > 0, faults
    assert calm.run(*words, runner=("runner=local",))[0] == 0
    found, expected = load("s", grid.root), load("s", calm.root)
    assert sorted(found.cells["cell_id"]) == sorted(expected.cells["cell_id"])
    assert len(set(found.cells["cell_id"])) == len(found.cells) == CELLS
    for table in ("cells", "layers", "histograms", "curves"):
        pd.testing.assert_frame_equal(
            ordered(getattr(found, table)), ordered(getattr(expected, table)), check_exact=True
        )
    assert not list(grid.folder.journals.glob("*"))
    assert len(grid.arrays()) >= 3  # of 25 jobs: an array has 11 elements at most here
    print(f"seed {seed}: {dict(faults)}; {sum(grid.rows().values()) - CELLS} lost attempts")


def strike(cluster: Cluster, kind: str, chance: random.Random) -> bool:
    """One fault; whether there was anything to hit."""
    if kind == "controller":
        cluster.run("restart-controller")
        return True
    if kind == "node":
        node = chance.choice(sorted(cluster.nodes()))
        cluster.run("kill-node", node)
        time.sleep(chance.uniform(0, 2))
        cluster.run("start-node", node)
        return True
    running = cluster.sh("squeue -h -r -t RUNNING -o %F_%K || true").split()
    if not running:
        return False
    cluster.sh(f"scontrol requeue {chance.choice(running)} || true")  # it may have just ended
    return True


def see_to_it(cluster: Cluster) -> None:
    """What an operator does: Slurm holds jobs that a node refused, and drains nodes that it doubts.

    It does so ("Duplicate jobid") where a controller that was killed has forgotten a job's start.
    """
    with suppress(AssertionError):  # the controller may be busy: the next time
        cluster.resume()
    held = cluster.sh("squeue -h -r -t PENDING -o '%F_%K %r' | grep held || true").splitlines()
    for line in held:
        cluster.sh(f"scontrol release {line.split()[0]} || true")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what says how it was made, in an order of its own."""
    kept = table.drop(columns=SET_UP & set(table.columns))
    keys = [name for name in ("cell_id", "draw", "step", "image", "layer", "quantity", "metric")
            if name in kept.columns]  # fmt: skip
    # Lost attempts leave outcomes among the categories that no cell has in the end.
    plain = kept.astype({name: str for name in kept if str(kept[name].dtype) == "category"})
    return plain.sort_values(keys, kind="stable").reset_index(drop=True)
