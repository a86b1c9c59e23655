"""Distribution of packs over Slurm jobs."""

from __future__ import annotations

from experiments.sweep.slurm.shards import make_shards
from experiments.sweep.types import Pack


def test_a_job_of_several_workers_takes_several_times_the_work() -> None:
    packs = [Pack((), seconds=10.0) for _ in range(12)]
    sizes = {workers: [len(s) for s in make_shards(packs, 30, workers)] for workers in (1, 2, 4)}
    assert sizes == {1: [3] * 4, 2: [6] * 2, 4: [12]}
