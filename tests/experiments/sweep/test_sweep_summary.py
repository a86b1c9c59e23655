"""`sweep.mode=plan` says what would run, where, and how long that takes, and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from sweep_process import TINY

from experiments.sweep.cli import run_command


@pytest.fixture
def said(
    loader: ConfigLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a whole command in this process; gives what it printed, in one line."""

    def run(*words: str) -> str:
        asked = [*TINY, "runner=inline", f"sweep.results={tmp_path}", *words]
        assert run_command(loader, "config", asked) == 0
        return " ".join(capsys.readouterr().out.split())

    return run


def test_without_timings_the_plan_says_so(said: Callable[..., str], tmp_path: Path) -> None:
    plan = said("seed=range(2)", "sweep.mode=plan")
    assert "s: 2 cells: 0 done, 2 missing, 0 failed, 0 interrupted" in plan
    assert "Would run 2 cells in 1 pack (1 serial) on 1 worker: no timings of such cells" in plan
    assert not list(tmp_path.iterdir())


def test_stored_timings_say_how_long_more_of_such_cells_take(said: Callable[..., str]) -> None:
    said("seed=range(2)")
    plan = said("seed=range(5)", "sweep.mode=plan")
    assert "s: 5 cells: 2 done, 3 missing" in plan
    assert re.search(r"Would run 3 cells in .* on 1 worker: about [\d.]+ s\.", plan)
    assert "no timings" in said("seed=0", "train.batch_size=7", "sweep.mode=plan")


def test_of_an_axis_with_many_values_the_first_and_the_last_are_shown(
    said: Callable[..., str],
) -> None:
    plan = said("seed=range(1000)", "sweep.mode=plan")
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000 values), 999" in plan


def test_words_of_an_axis_are_shown_as_they_were_typed(said: Callable[..., str]) -> None:
    assert "/tmp/[red]" in said("data.root='/tmp/[red]'", "sweep.mode=plan")
