"""Whole sweeps: what is run, what is not run again, and that where it ran leaves no trace."""

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
WORDS = pa.dictionary(pa.int32(), pa.string())
FREE = {"seconds", "attempt", "host", "device", "code"}  # what may differ between runs


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """The inline runner sets this process up as a worker."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def sweep(results: Path, *overrides: str, name: str = "s") -> int:
    words = [*TINY, f"sweep.results={results}", f"sweep.name={name}", *overrides]
    by_key = {word.partition("=")[0]: word for word in words}  # the last one given counts
    return run_command(config_loader(None), "config", list(by_key.values()))


def test_new_values_of_an_axis_run_only_the_new_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "seed=0,1", "probe=none") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    capsys.readouterr()
    grown = ("seed=0,1,2,3", "probe=none")
    assert sweep(tmp_path, *grown, "sweep.mode=plan") == 0
    said = capsys.readouterr().out
    assert "4 cells: 2 done, 2 missing, 0 failed, 0 interrupted" in said
    assert "Would run 2 cells in" in said
    assert sweep(tmp_path, *grown) == 0
    assert sweep(tmp_path, *grown, "sweep.mode=plan") == 0
    assert "4 cells: 4 done, 0 missing" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    cells = load("s", tmp_path).cells
    assert sorted(cells["seed"]) == [0, 1, 2, 3]
    assert set(cells["attempt"]) == {1}


def test_a_frozen_cell_with_another_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, "seed=0,1", "probe=none") == 0
    plan = SweepFolder(tmp_path / "s").plan
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    lines[0]["config"]["init"]["gain"] = 2.0
    plan.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert sweep(tmp_path, "seed=0,1,2", "probe=none") == 2
    said = capsys.readouterr().err
    assert f"{lines[0]['cell_id']} is there with another configuration" in said
    assert "choose another sweep.name" in said


def test_tables_are_as_documented(tmp_path: Path) -> None:
    asked = (
        "optim=sgd,adam",
        "init.bias=null,0.5",
        "probe.histograms=true",
        "probe.draws=2",
        "probe.tensors=[weight,act]",
    )
    assert sweep(tmp_path, *asked) == 0
    folder = SweepFolder(tmp_path / "s")
    expected = {
        "layers": {"cell_id": WORDS, "draw": pa.int32(), "step": pa.int32(), "image": pa.int32(),
                   "layer": pa.int32(), "layer_name": WORDS, "quantity": WORDS,
                   "value": pa.float64()},
        "histograms": {"cell_id": WORDS, "draw": pa.int32(), "step": pa.int32(),
                       "layer": pa.int32(), "layer_name": WORDS, "quantity": WORDS,
                       "left": pa.float64(), "right": pa.float64(), "count": pa.int32()},
        "tensors": {"cell_id": WORDS, "draw": pa.int32(), "step": pa.int32(), "image": pa.int32(),
                    "layer": pa.int32(), "layer_name": WORDS, "quantity": WORDS, "shape": WORDS,
                    "index": pa.int32(), "value": pa.float64()},
        "curves": {"cell_id": WORDS, "step": pa.int32(), "metric": WORDS, "value": pa.float64()},
    }  # fmt: skip
    for name, columns in expected.items():
        for _, part in read_parts(folder, name):
            found = dict(zip(part.schema.names, part.schema.types, strict=True))
            assert found == columns, name
    cells = load("s", tmp_path).cells
    assert {
        "cell_id", "outcome", "outcome_step", "outcome_tensor", "outcome_reason", "test_accuracy",
        "test_loss", "train_loss", "seconds", "engine", "attempt", "host", "device", "code",
        "optim", "optim.lr", "init", "init.gain", "init.bias", "data.n_train", "seed",
    } <= set(cells.columns)  # fmt: skip
    assert cells["optim"].value_counts().to_dict() == {"sgd": 2, "adam": 2}
    assert cells["init.bias"].isna().sum() == 2


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    kept = frame.drop(columns=[name for name in frame.columns if name in FREE])
    plain = kept.astype({c: object for c in kept.columns if kept[c].dtype == "category"})
    keys = [c for c in ("cell_id", "draw", "step", "image", "layer", "quantity", "metric", "left")
            if c in plain.columns]  # fmt: skip
    return plain[sorted(plain.columns)].sort_values(keys, kind="stable", ignore_index=True)


def test_where_and_when_cells_ran_changes_no_bit(tmp_path: Path) -> None:
    asked = (
        "model=two_layer", "model.channels=4", "probe.draws=2", "probe.size=16",
        "probe.histograms=true", "probe.tensors=[weight,preact]", "probe.images=[0,3]",
        "init=he_normal,pytorch_default", "optim=sgd,adam",
    )  # fmt: skip
    assert sweep(tmp_path, *asked, name="here") == 0
    assert sweep(tmp_path, *asked, "runner.pack_cells=3", name="again") == 0
    local = ("runner=local", "runner.workers=2", "runner.pack_cells=2")
    assert sweep(tmp_path, *asked, *local, name="there") == 0
    here = load("here", tmp_path)
    assert len(here.cells) == 4
    for other in (load("again", tmp_path), load("there", tmp_path)):
        for table in ("cells", "layers", "histograms", "tensors", "curves"):
            left, right = ordered(getattr(here, table)), ordered(getattr(other, table))
            pd.testing.assert_frame_equal(left, right, check_exact=True, obj=table)


def test_a_full_disk_ends_in_a_line_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync, calls = os.fsync, iter(range(1000))
    asked = ("seed=range(6)", "probe=none")

    def full_after_a_while(fd: int) -> None:
        if next(calls) > 6:  # launcher, plan, the sweep's description, journal; then one a cell
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_after_a_while)
        patched.setattr("experiments.sweep.store.journal.SYNC_INTERVAL", 0.0)
        assert sweep(tmp_path, *asked) == 2
    said = capsys.readouterr().err
    assert "can't be written (No space left on device)" in said
    assert "the same command goes on" in said
    kept = read_states(SweepFolder(tmp_path / "s"))
    assert 1 <= len(kept) < 6
    assert sweep(tmp_path, *asked) == 0
    assert f"6 cells: {len(kept)} done" in capsys.readouterr().out
    cells = load("s", tmp_path).cells
    assert sorted(cells["seed"]) == list(range(6))
    assert set(cells["attempt"]) == {1}


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"runner.device=cuda:99: no such device.*cpu"):
        devices("cuda:99")


KILLED = ("killed", "its worker process died (exit code -9, SIGKILL)")


def pack_of(*names: str, engine: EngineName = "serial") -> Pack:
    return Pack(tuple(PackedCell(name, 1, {"seed": 0}, {}) for name in names), engine)


def order_of(folder: SweepFolder, *names: str, engine: EngineName = "serial") -> PackJob:
    return PackJob(str(folder.root), "p", pack_of(*names, engine=engine), "cpu", "code", {})


def test_a_worker_that_dies_after_its_last_cell_costs_nothing(tmp_path: Path) -> None:
    folder, pack = SweepFolder(tmp_path), pack_of("x", "y")
    journal = Journal(folder.journals / "p.journal")
    for task in pack.cells:
        journal.start(task.cell_id, 1)
        ended = {"outcome": "ok", "seconds": 1.0, "outcome_reason": None}
        journal.done(CellResult(complete_row(task, ended, "cpu", "serial"), {}))
    journal.close()
    commit_journal(folder, journal.path)
    assert handle_worker_death(folder, order_of(folder, "x", "y"), *KILLED) == []
    assert set(read_states(folder)) == {"x", "y"}


def test_a_worker_that_dies_before_its_first_cell_gives_its_pack_back(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert handle_worker_death(folder, order_of(folder, "x", "y"), *KILLED) == [pack_of("x", "y")]


def begun(folder: SweepFolder, *names: str) -> Path:
    journal = Journal(folder.journals / "p.journal")
    for name in names:
        journal.start(name, 1)
    journal.close()
    return journal.path


def outcomes(folder: SweepFolder) -> dict[str, str]:
    return {cell: state.outcome for cell, state in read_states(folder).items()}


def test_a_dead_workers_cell_is_blamed_and_the_rest_given_back(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    begun(folder, "x")
    assert handle_worker_death(folder, order_of(folder, "x", "y", "z"), *KILLED) == [
        pack_of("y", "z")
    ]
    assert outcomes(folder) == {"x": "killed"}


def test_a_worker_that_dies_as_it_writes_its_tables_loses_nothing(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert take_journal(begun(folder, "x"))
    assert handle_worker_death(folder, order_of(folder, "x", "y"), *KILLED) == [pack_of("y")]
    assert outcomes(folder) == {"x": "killed"}
    assert not list(folder.journals.iterdir())


def test_of_cells_that_ran_together_none_is_blamed_but_each_runs_alone(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    begun(folder, "x", "y")
    back = handle_worker_death(folder, order_of(folder, "x", "y", engine="stacked"), *KILLED)
    assert back == [pack_of("x", engine="stacked"), pack_of("y", engine="stacked")]
    assert outcomes(folder) == {}
