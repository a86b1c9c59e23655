"""`sweep.mode=plan` shows the cells, workers and expected time, and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from sweep_process import TINY

from experiments.data import Mnist
from experiments.sweep.cli import run_command


@pytest.fixture
def output_of(
    loader: ConfigLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs a command in this process and returns its output in one line."""

    def run(*arguments: str) -> str:
        command = [*TINY, "runner=inline", f"sweep.results={tmp_path}", *arguments]
        assert run_command(loader, "config", command) == 0
        return " ".join(capsys.readouterr().out.split())

    return run


def test_without_timings_the_plan_prints_the_estimate(
    output_of: Callable[..., str], tmp_path: Path
) -> None:
    plan = output_of("seed=range(2)", "sweep.mode=plan")
    assert "s: 2 cells: 0 done, 2 missing, 0 failed, 0 interrupted" in plan
    assert "Would run 2 cells in 1 pack (1 serial) on 1 worker: about 0." in plan
    assert re.search(
        r"time of a cell: 0\.\d s, estimated from operation counts at the speed of one CPU core "
        r"for 1 kind of cells; add sweep\.pilot=true to measure one cell of each kind first",
        plan,
    )
    assert not list(tmp_path.iterdir())


def test_the_expected_time_comes_from_stored_timings(output_of: Callable[..., str]) -> None:
    output_of("seed=range(2)")
    plan = output_of("seed=range(5)", "sweep.mode=plan")
    assert "s: 5 cells: 2 done, 3 missing" in plan
    assert re.search(r"Would run 3 cells in .* on 1 worker: about [\d.]+ s\.", plan)
    assert re.search(r"time of a cell: [\d.]+ s, the median of finished cells", plan)
    other_kind = output_of("seed=0", "train.batch_size=7", "sweep.mode=plan")
    assert "estimated from operation counts and the times of other cells" in other_kind


def test_two_kinds_of_which_one_is_timed(output_of: Callable[..., str]) -> None:
    output_of("seed=0")
    plan = output_of("seed=0,1", "train.batch_size=64,7", "sweep.mode=plan", "sweep.pilot=true")
    assert "estimated from operation counts and the times of other cells for 1 kind" in plan
    assert "sweep.pilot=true runs 1 cell first and sizes packs by the measured time" in plan


def test_the_plan_names_the_folder_of_missing_data_files(
    output_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    monkeypatch.setenv("FANIN_DATA", str(folder))
    missing = f"data=mnist: not all of its files are in {folder}"
    plan = output_of("data=mnist", "seed=range(2)", "sweep.mode=plan")
    assert plan.count(missing) == 1
    assert "the launch downloads them" in plan
    offline = output_of("data=mnist", "data.download=false", "sweep.mode=plan")
    assert "the launch downloads them" not in offline
    (folder / "mnist").mkdir(parents=True)
    for name in Mnist.files.sha256:
        (folder / "mnist" / f"{name}.gz").touch()
    assert missing not in output_of("data=mnist", "sweep.mode=plan")
    assert "not all of its files" not in output_of("data=digits", "sweep.mode=plan")


def test_a_long_axis_shows_its_first_values_and_the_last(
    output_of: Callable[..., str],
) -> None:
    plan = output_of("seed=range(1000)", "sweep.mode=plan")
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000 values), 999" in plan


def test_axis_values_are_not_parsed_as_markup(output_of: Callable[..., str]) -> None:
    assert "/tmp/[red]" in output_of("data.root='/tmp/[red]'", "sweep.mode=plan")
