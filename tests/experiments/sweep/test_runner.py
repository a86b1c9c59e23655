"""Whole sweeps: resuming, tables, identical results on all runners, and dead workers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch
from stored_parts import read_parts

from analysis import load
from experiments.config.catalog import config_loader
from experiments.result import CellResult
from experiments.sweep.cli import run_command
from experiments.sweep.runners.devices import devices
from experiments.sweep.runners.pool import handle_worker_death
from experiments.sweep.store.journal import Journal, take_journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from experiments.sweep.types import EngineName, Pack, PackedCell, PackJob
from experiments.sweep.worker.finalize import complete_row
from fanin.errors import ConfigError

TINY = [
    "model=linear",
    "data.n_train=64",
    "data.n_test=32",
    "data.side=8",
    "train.steps=2",
    "runner=inline",
]
TEXT = pa.dictionary(pa.int32(), pa.string())
NOT_COMPARED = {
    "seconds",
    "attempt",
    "host",
    "device",
    "code",
}  # columns that may differ between runs


@pytest.fixture(autouse=True)
def restore_torch_settings() -> Iterator[None]:
    """Restore torch's settings, which the inline runner changes in this process."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def sweep(results: Path, *overrides: str, name: str = "s") -> int:
    arguments = [*TINY, f"sweep.results={results}", f"sweep.name={name}", *overrides]
    by_key = {
        word.partition("=")[0]: word for word in arguments
    }  # the last override of a key counts
    return run_command(config_loader(None), "config", list(by_key.values()))


def test_new_axis_values_run_only_new_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "seed=0,1", "probe=none") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    capsys.readouterr()
    grown = ("seed=0,1,2,3", "probe=none")
    assert sweep(tmp_path, *grown, "sweep.mode=plan") == 0
    output = capsys.readouterr().out
    assert "4 cells: 2 done, 2 missing, 0 failed, 0 interrupted" in output
    assert "Would run 2 cells in" in output
    assert sweep(tmp_path, *grown) == 0
    assert sweep(tmp_path, *grown, "sweep.mode=plan") == 0
    assert "4 cells: 4 done, 0 missing" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    cells = load("s", tmp_path).cells
    assert sorted(cells["seed"]) == [0, 1, 2, 3]
    assert set(cells["attempt"]) == {1}


def test_planned_cell_with_another_config_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "seed=0,1", "probe=none") == 0
    plan = SweepFolder(tmp_path / "s").plan
    records = [json.loads(line) for line in plan.read_text().splitlines()]
    records[0]["config"]["init"]["gain"] = 2.0
    plan.write_text("".join(f"{json.dumps(line)}\n" for line in records))
    assert sweep(tmp_path, "seed=0,1,2", "probe=none") == 2
    output = capsys.readouterr().err
    assert f"{records[0]['cell_id']} is already planned with another config" in output
    assert "choose another sweep.name" in output


def test_tables_have_the_documented_columns(tmp_path: Path) -> None:
    overrides = (
        "optim=sgd,adam",
        "init.bias=null,0.5",
        "probe.histograms=true",
        "probe.draws=2",
        "probe.tensors=[weight,act]",
    )
    assert sweep(tmp_path, *overrides) == 0
    folder = SweepFolder(tmp_path / "s")
    expected = {
        "layers": {"cell_id": TEXT, "draw": pa.int32(), "step": pa.int32(), "image": pa.int32(),
                   "layer": pa.int32(), "layer_name": TEXT, "quantity": TEXT,
                   "value": pa.float64()},
        "histograms": {"cell_id": TEXT, "draw": pa.int32(), "step": pa.int32(),
                       "layer": pa.int32(), "layer_name": TEXT, "quantity": TEXT,
                       "left": pa.float64(), "right": pa.float64(), "count": pa.int32()},
        "tensors": {"cell_id": TEXT, "draw": pa.int32(), "step": pa.int32(), "image": pa.int32(),
                    "layer": pa.int32(), "layer_name": TEXT, "quantity": TEXT, "shape": TEXT,
                    "index": pa.int32(), "value": pa.float64()},
        "curves": {"cell_id": TEXT, "step": pa.int32(), "metric": TEXT, "value": pa.float64()},
    }  # fmt: skip
    for name, columns in expected.items():
        for _, part in read_parts(folder, name):
            types = dict(zip(part.schema.names, part.schema.types, strict=True))
            assert types == columns, name
    cells = load("s", tmp_path).cells
    assert {
        "cell_id", "outcome", "outcome_step", "outcome_tensor", "outcome_reason", "test_accuracy",
        "test_loss", "train_loss", "seconds", "engine", "attempt", "host", "device", "code",
        "optim", "optim.lr", "init", "init.gain", "init.bias", "data.n_train", "seed",
    } <= set(cells.columns)  # fmt: skip
    assert cells["optim"].value_counts().to_dict() == {"sgd": 2, "adam": 2}
    assert cells["init.bias"].isna().sum() == 2


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    kept = frame.drop(columns=[name for name in frame.columns if name in NOT_COMPARED])
    uncategorized = kept.astype({c: object for c in kept.columns if kept[c].dtype == "category"})
    keys = [c for c in ("cell_id", "draw", "step", "image", "layer", "quantity", "metric", "left")
            if c in uncategorized.columns]  # fmt: skip
    return uncategorized[sorted(uncategorized.columns)].sort_values(
        keys, kind="stable", ignore_index=True
    )


def test_results_are_bit_identical_across_runners(tmp_path: Path) -> None:
    overrides = (
        "model=two_layer", "model.channels=4", "probe.draws=2", "probe.size=16",
        "probe.histograms=true", "probe.tensors=[weight,preact]", "probe.images=[0,3]",
        "init=he_normal,pytorch_default", "optim=sgd,adam",
    )  # fmt: skip
    assert sweep(tmp_path, *overrides, name="here") == 0
    assert sweep(tmp_path, *overrides, "runner.pack_cells=3", name="again") == 0
    local = ("runner=local", "runner.workers=2", "runner.pack_cells=2")
    assert sweep(tmp_path, *overrides, *local, name="there") == 0
    site = load("here", tmp_path)
    assert len(site.cells) == 4
    for other in (load("again", tmp_path), load("there", tmp_path)):
        for table in ("cells", "layers", "histograms", "tensors", "curves"):
            left, right = ordered(getattr(site, table)), ordered(getattr(other, table))
            pd.testing.assert_frame_equal(left, right, check_exact=True, obj=table)


def test_sweep_resumes_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync, calls = os.fsync, iter(range(1000))
    overrides = ("seed=range(6)", "probe=none")

    def fail_after_some_calls(fd: int) -> None:
        if next(calls) > 7:  # launcher, format, plan, provenance, journal; then one per cell
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_after_some_calls)
        patched.setattr("experiments.sweep.store.journal.SYNC_INTERVAL", 0.0)
        assert sweep(tmp_path, *overrides) == 2
    output = capsys.readouterr().err
    assert "can't be written (No space left on device)" in output
    assert "run the same command again" in output
    kept = read_states(SweepFolder(tmp_path / "s"))
    assert 1 <= len(kept) < 6
    assert sweep(tmp_path, *overrides) == 0
    assert f"6 cells: {len(kept)} done" in capsys.readouterr().out
    cells = load("s", tmp_path).cells
    assert sorted(cells["seed"]) == list(range(6))
    assert set(cells["attempt"]) == {1}


def test_missing_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runner.device=cuda:99: no such device.*cpu"):
        devices("cuda:99")


KILLED = ("killed", "worker process died (exit code -9, SIGKILL)")


def pack_of(*names: str, engine: EngineName = "serial") -> Pack:
    return Pack(tuple(PackedCell(name, 1, {"seed": 0}, {}) for name in names), engine)


def job_of(folder: SweepFolder, *names: str, engine: EngineName = "serial") -> PackJob:
    return PackJob(str(folder.root), "p", pack_of(*names, engine=engine), "cpu", "code", {})


def test_worker_death_after_the_last_cell_costs_nothing(tmp_path: Path) -> None:
    folder, pack = SweepFolder(tmp_path), pack_of("x", "y")
    journal = Journal(folder.journals / "p.journal")
    for cell in pack.cells:
        journal.start(cell.cell_id, 1)
        row = {"outcome": "ok", "seconds": 1.0, "outcome_reason": None}
        journal.done(CellResult(complete_row(cell, row, "cpu", "serial"), {}))
    journal.close()
    commit_journal(folder, journal.path)
    assert handle_worker_death(folder, job_of(folder, "x", "y"), *KILLED) == []
    assert set(read_states(folder)) == {"x", "y"}


def test_worker_death_before_the_first_cell_returns_the_pack(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert handle_worker_death(folder, job_of(folder, "x", "y"), *KILLED) == [pack_of("x", "y")]


def write_journal(folder: SweepFolder, *names: str) -> Path:
    journal = Journal(folder.journals / "p.journal")
    for name in names:
        journal.start(name, 1)
    journal.close()
    return journal.path


def outcomes(folder: SweepFolder) -> dict[str, str]:
    return {cell: state.outcome for cell, state in read_states(folder).items()}


def test_worker_death_fails_the_running_cell_only(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    write_journal(folder, "x")
    assert handle_worker_death(folder, job_of(folder, "x", "y", "z"), *KILLED) == [
        pack_of("y", "z")
    ]
    assert outcomes(folder) == {"x": "killed"}


def test_worker_death_while_writing_tables_loses_nothing(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert take_journal(write_journal(folder, "x"))
    assert handle_worker_death(folder, job_of(folder, "x", "y"), *KILLED) == [pack_of("y")]
    assert outcomes(folder) == {"x": "killed"}
    assert not list(folder.journals.iterdir())


def test_worker_death_in_a_stack_isolates_its_cells(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    write_journal(folder, "x", "y")
    packs = handle_worker_death(folder, job_of(folder, "x", "y", engine="stacked"), *KILLED)
    assert packs == [pack_of("x", engine="stacked"), pack_of("y", engine="stacked")]
    assert outcomes(folder) == {}
