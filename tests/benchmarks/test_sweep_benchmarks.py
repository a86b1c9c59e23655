"""Small versions of the benchmarks run and give complete results (times are not tested)."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planning
from benchmarks.engines import NETWORKS, seconds_per_cell
from benchmarks.measure import Timing, python, run
from benchmarks.mnist_sweep import Size, check_files, run_pool, run_script
from benchmarks.overhead import (
    FANIN,
    check_complete,
    count_fanin,
    count_hydra,
    launcher_label,
    overhead,
    run_fanin,
    run_hydra,
)
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
    """Return a folder with random images in MNIST's format."""
    root = tmp_path_factory.mktemp("data")
    (root / "mnist").mkdir()
    random = np.random.default_rng(0)
    for split, size in (("train", 64), ("t10k", 32)):
        images = random.integers(256, size=16 + size * 784, dtype=np.uint8)
        labels = random.integers(10, size=8 + size, dtype=np.uint8)
        images.tofile(root / "mnist" / f"{split}-images-idx3-ubyte")
        labels.tofile(root / "mnist" / f"{split}-labels-idx1-ubyte")
    return root


def test_trivial_cells_of_fanin_are_stored(tmp_path):
    run_fanin(2, tmp_path)
    assert list((tmp_path / "trivial" / "cells").glob("*.parquet"))
    assert count_fanin(tmp_path) == 2


@pytest.mark.parametrize("name", ["basic", "joblib"])
def test_trivial_jobs_of_hydra_have_folders(tmp_path, name):
    run_hydra(launcher(name), 2, tmp_path)
    assert count_hydra(tmp_path) == 2


def test_an_incomplete_grid_is_not_compared(tmp_path):
    with pytest.raises(FaninError, match="0 cells instead of 2"):
        check_complete(count_hydra(tmp_path), 2, tmp_path)


@pytest.mark.parametrize("name", ["basic", "joblib"])
def test_the_plain_script_trains_a_grid(tmp_path, data_root, name):
    accuracies = run_script(launcher(name), SMALL, data_root, tmp_path)
    assert len(accuracies) == SMALL.cells == 16
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_the_bare_pool_trains_a_grid(data_root):
    (accuracy,) = run_pool(SMALL, data_root)
    assert 0 <= accuracy <= 1


def test_missing_files_are_an_error_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="fanin data fetch mnist --root "):
        check_files(tmp_path)


def test_a_grid_is_planned_in_a_subprocess():
    cells, seconds = planning.plan_in_subprocess(["seed=range(3)", "init=zeros,he_normal"])
    assert cells == 6
    assert seconds > 0


def test_the_planned_grids_have_the_expected_sizes():
    assert {name: planning.plan(grid) for name, grid in planning.GRIDS.items()} == {
        "mixed axes": 10_000,
        "groups only": 2880,
    }


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_each_engine_can_be_selected(tmp_path, engine):
    assert seconds_per_cell(NETWORKS["linear"], 2, engine, tmp_path) > 0


def test_start_up_is_separated_from_the_time_per_cell(tmp_path, monkeypatch):
    """Use start-up times of 2 s and 1 s, and times per cell of 10 ms and 0.1 ms."""
    monkeypatch.setattr("benchmarks.overhead.timed", lambda action, folders: action(folders[0]))
    monkeypatch.setattr(
        "benchmarks.overhead.run_fanin", lambda cells, results: Timing((1 + 1e-4 * cells,))
    )
    monkeypatch.setattr(
        "benchmarks.overhead.run_hydra",
        lambda launcher, cells, results: Timing((2 + 1e-2 * cells,)),
    )
    for name in ("count_fanin", "count_hydra", "check_complete"):
        monkeypatch.setattr(f"benchmarks.overhead.{name}", lambda *_: None)
    section = overhead(quick=False, folder=tmp_path, log=lambda text: None)
    assert {row[0] for row in section.rows} == {
        FANIN,
        launcher_label("basic"),
        launcher_label("joblib"),
    }
    assert [row[-1] for row in section.rows if row[-1]] == ["0.10", "10.00", "10.00"]
    expected = (
        "100 times as long as fanin per additional cell. Start-up included, it takes 10.9 times"
    )
    assert expected in section.remarks[0]


def test_the_error_of_a_failed_command_has_its_output():
    with pytest.raises(FaninError, match=r"exit status 2\n.*init=he_norml: no such option"):
        run(python("experiments.run", "init=he_norml"))
