"""The smallest piece of each benchmark: it does what it says; how fast is not asked here."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planning
from benchmarks.engines import NETWORKS, seconds_a_cell
from benchmarks.measure import Timing, python, run
from benchmarks.overhead import (
    OURS,
    check_complete,
    count_ours,
    count_theirs,
    name_of,
    overhead,
    run_ours,
    run_theirs,
)
from benchmarks.whole_sweep import Size, check_files, run_pool, run_script
from fanin.errors import DataError, FaninError

SMALL = Size(seeds=1, n_train=64, n_test=32, batch_size=32, channels=1)


def launcher(name: str) -> str:
    if name == "joblib":
        try:
            version("hydra-joblib-launcher")
        except PackageNotFoundError:
            pytest.skip("Hydra's joblib launcher is not installed")
    return name


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    """Noise in MNIST's format."""
    root = tmp_path_factory.mktemp("data")
    (root / "mnist").mkdir()
    random = np.random.default_rng(0)
    for split, size in (("train", 64), ("t10k", 32)):
        images = random.integers(256, size=16 + size * 784, dtype=np.uint8)
        labels = random.integers(10, size=8 + size, dtype=np.uint8)
        images.tofile(root / "mnist" / f"{split}-images-idx3-ubyte")
        labels.tofile(root / "mnist" / f"{split}-labels-idx1-ubyte")
    return root


def test_trivial_cells_of_ours_go_through_the_store(tmp_path):
    run_ours(2, tmp_path)
    assert list((tmp_path / "trivial" / "cells").glob("*.parquet"))
    assert count_ours(tmp_path) == 2


@pytest.mark.parametrize("name", ["basic", "joblib"])
def test_trivial_jobs_of_theirs_leave_their_folders(tmp_path, name):
    run_theirs(launcher(name), 2, tmp_path)
    assert count_theirs(tmp_path) == 2


def test_a_grid_that_lost_a_job_is_not_compared(tmp_path):
    with pytest.raises(FaninError, match="0 cells instead of 2"):
        check_complete(count_theirs(tmp_path), 2, tmp_path)


@pytest.mark.parametrize("name", ["basic", "joblib"])
def test_the_plain_script_trains_a_grid(tmp_path, data_root, name):
    accuracies = run_script(launcher(name), SMALL, data_root, tmp_path)
    assert len(accuracies) == SMALL.cells == 16
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_the_bare_pool_trains_a_grid(data_root):
    (accuracy,) = run_pool(SMALL, data_root)
    assert 0 <= accuracy <= 1


def test_missing_files_are_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"python -m experiments\.run data=mnist data\.root="):
        check_files(tmp_path)


def test_a_grid_is_planned_in_a_process_of_its_own():
    cells, seconds = planning.planned_afresh(["seed=range(3)", "init=zeros,he_normal"])
    assert cells == 6
    assert seconds > 0


def test_the_grids_that_are_planned_are_as_large_as_they_say():
    assert {name: planning.plan(words) for name, words in planning.GRIDS.items()} == {
        "mixed axes": 10_000,
        "groups alone": 2880,
    }


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_each_engine_runs_when_asked_for(tmp_path, engine):
    assert seconds_a_cell(NETWORKS["linear"], 2, engine, tmp_path) > 0


def test_start_up_is_told_from_the_cost_of_one_more_cell(tmp_path, monkeypatch):
    """A launcher that takes 2 s to start and 10 ms a cell, against 1 s and 0.1 ms."""
    monkeypatch.setattr("benchmarks.overhead.timed", lambda action, places: action(places[0]))
    monkeypatch.setattr(
        "benchmarks.overhead.run_ours", lambda cells, where: Timing((1 + 1e-4 * cells,))
    )
    monkeypatch.setattr(
        "benchmarks.overhead.run_theirs", lambda by, cells, where: Timing((2 + 1e-2 * cells,))
    )
    for name in ("count_ours", "count_theirs", "check_complete"):
        monkeypatch.setattr(f"benchmarks.overhead.{name}", lambda *_: None)
    section = overhead(quick=False, folder=tmp_path, say=lambda what: None)
    assert {row[0] for row in section.rows} == {OURS, name_of("basic"), name_of("joblib")}
    assert [row[-1] for row in section.rows if row[-1]] == ["0.10", "10.00", "10.00"]
    assert "fanin: 100 times for one more cell; 10.9 times, start-up included" in section.remarks[0]


def test_a_command_that_fails_says_what_it_printed():
    with pytest.raises(FaninError, match=r"exit status 2\n.*init=he_norml: no such option"):
        run(python("experiments.run", "init=he_norml"))
