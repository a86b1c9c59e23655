"""`sweep.pilot=true` runs one cell of each kind first; its time sizes the packs of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from sweep_process import TINY

from analysis import load
from experiments.sweep.cli import run_command
from experiments.sweep.runners.inline import InlineRunner
from experiments.sweep.slurm.runner import SlurmRunner
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Heartbeat, Pack

PILOT = ("seed=range(4)", "train.batch_size=100,7", "sweep.pilot=true")  # two kinds of cells


@pytest.fixture
def command(
    loader: ConfigLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a sweep; it returns exit status and output in one line."""

    def run(*arguments: str) -> tuple[int, str]:
        words = [*TINY, f"sweep.results={tmp_path}", *arguments]
        status = run_command(loader, "config", words)
        captured = capsys.readouterr()
        return status, " ".join((captured.out + captured.err).split())

    return run


@pytest.fixture
def packs_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the number of cells of each pack, for each time that the runner ran."""
    recorded: list[list[int]] = []
    run = InlineRunner.run

    def record(
        self: InlineRunner, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat
    ) -> None:
        recorded.append([len(pack.cells) for pack in packs])
        run(self, folder, packs, heartbeat)

    monkeypatch.setattr(InlineRunner, "run", record)
    return recorded


def test_one_cell_of_each_kind_runs_first(
    command: Callable[..., tuple[int, str]], packs_of_runs: list[list[int]], tmp_path: Path
) -> None:
    status, output = command(*PILOT, "runner=inline")
    assert status == 0, output
    assert packs_of_runs[0] == [1, 1]
    assert sum(packs_of_runs[1]) == 6
    assert "running 2 cells first, to measure the time of 2 kinds of cells" in output
    assert "the median of finished cells: 6 cells in" in output
    cells = load("s", tmp_path).cells
    assert (len(cells), set(cells["attempt"])) == (8, {1})


def test_kinds_with_finished_cells_need_no_pilot(
    command: Callable[..., tuple[int, str]], packs_of_runs: list[list[int]]
) -> None:
    assert command(*PILOT, "runner=inline")[0] == 0
    packs_of_runs.clear()
    status, output = command("seed=range(6)", *PILOT[1:], "runner=inline")
    assert status == 0, output
    assert [sum(packs) for packs in packs_of_runs] == [4]


def test_without_the_option_all_cells_run_at_once(
    command: Callable[..., tuple[int, str]], packs_of_runs: list[list[int]]
) -> None:
    assert command(*PILOT[:2], "runner=inline")[0] == 0
    assert [sum(packs) for packs in packs_of_runs] == [8]


def test_submit_submits_only_the_pilot_cells(
    command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Sequence[Pack]] = []

    def submit(
        self: SlurmRunner, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat
    ) -> None:
        submitted.append(packs)

    monkeypatch.setattr(SlurmRunner, "submit", submit)
    arguments = (*PILOT, "runner=slurm", "sweep.mode=submit")
    status, output = command(*arguments)
    assert status == 0, output
    assert [len(pack.cells) for pack in submitted[0]] == [1, 1]
    pilots = [cell.cell_id for pack in submitted[0] for cell in pack.cells]
    # While the pilot cells are in jobs, the others are not submitted.
    monkeypatch.setattr("experiments.sweep.launch.cells_in_jobs", lambda folder: set(pilots))
    status, output = command(*arguments)
    assert status == 2
    assert "the pilot cells of 2 kinds of cells have not ended yet" in output
    assert len(submitted) == 1
