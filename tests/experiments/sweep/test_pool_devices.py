"""Packs on a node with several GPUs, tested with a faked list of devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from device_recorder import record_device

from experiments.sweep.runners import pool
from experiments.sweep.runners.pool import LocalRunner, PoolConfig, run_pool
from experiments.sweep.slurm.run_shard import worker_count
from experiments.sweep.slurm.submission import JobConfig
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack, PackedCell

FAKED = ("cuda:0", "cuda:1")
N_PACKS = 6


def packs() -> list[Pack]:
    """Return packs of which the first ends last."""
    waits = [N_PACKS - 1] + [0] * (N_PACKS - 1)
    return [
        Pack((PackedCell(f"cell{n}", 1, {}, {}),), seconds=wait) for n, wait in enumerate(waits)
    ]


def run_on_faked_devices(
    config: PoolConfig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """Run the packs; return the device and process of each pack, by cell id."""
    monkeypatch.setattr(pool, "run_pack", record_device)
    run_pool(config, SweepFolder(root), packs(), lambda: None)
    return {path.stem: path.read_text().split() for path in root.glob("*.ended")}


def test_one_pack_runs_per_gpu_of_a_faked_device_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PoolConfig(2, FAKED, code="code", modules={})
    # `record_device` fails if two packs run on a device at once. The first pack ends last, so all
    # others must run on the other device.
    ended = run_on_faked_devices(config, tmp_path, monkeypatch)
    assert [ended[f"cell{n}"][0] for n in range(N_PACKS)] == ["cuda:0"] + ["cuda:1"] * 5


def test_a_worker_uses_one_gpu_of_a_faked_device_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PoolConfig(2, FAKED, code="code", modules={})
    ended = run_on_faked_devices(config, tmp_path, monkeypatch)
    assert len({process for _, process in ended.values()}) == 2
    assert len({(device, process) for device, process in ended.values()}) == 2


def test_workers_share_a_faked_device_list_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert LocalRunner().n_workers == 2
    assert worker_count(JobConfig("code"), FAKED) == 2
    config = PoolConfig(LocalRunner(workers=4).n_workers, FAKED)
    assert config.worker_devices(10) == [*FAKED, *FAKED]
    assert config.worker_devices(1) == ["cuda:0"]
