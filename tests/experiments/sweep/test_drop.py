"""`fanin drop` removes the chosen cells and nothing else, whenever it is interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored_packs import contents, loaded, result, store

from analysis import load
from experiments.config.catalog import config_loader
from experiments.drop import main
from experiments.sweep.cli import run_command
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.plan_file import read_plan, read_request, record_request
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninWarning

SMALL = (
    *("model=linear", "data.side=8", "data.n_train=64", "data.n_test=50", "train.steps=2"),
    *("probe.draws=1", "probe.size=4", "runner=inline"),
)


def run(results: Path, *overrides: str) -> None:
    arguments = [*SMALL, *overrides, f"sweep.results={results}", "sweep.name=s"]
    assert run_command(config_loader(), "config", arguments) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """Run 2 inits x 2 rates x 2 seeds, then 4 more seeds at one setting: 12 cells on digits."""
    results = tmp_path_factory.mktemp("drop")
    run(results, "init=he_normal,zeros", "optim.lr=0.01,0.1", "seed=0,1")
    run(results, "init=he_normal", "optim.lr=0.1", "seed=2,3,4,5")
    return SweepFolder(results / "s")


@pytest.fixture
def sweep(finished: SweepFolder, tmp_path: Path) -> SweepFolder:
    copy = SweepFolder(tmp_path / "s")
    shutil.copytree(finished.root, copy.root)
    return copy


def drop(folder: SweepFolder, *arguments: str) -> None:
    main([folder.root.name, *arguments, "--results", str(folder.root.parent)])


def refused(folder: SweepFolder, *arguments: str) -> None:
    """Check that a command exits with status 2 and leaves every file as it is."""
    before = files(folder)
    with pytest.raises(SystemExit) as ended:
        drop(folder, *arguments)
    assert ended.value.code == 2
    assert files(folder) == before


def files(folder: SweepFolder) -> dict[Path, bytes]:
    return {
        path.relative_to(folder.root): path.read_bytes()
        for path in folder.root.rglob("*")
        if path.is_file() and path.name not in (".launcher.lock", "launcher.json")
    }


def rows_of(folder: SweepFolder, keep: Callable[[Any], bool]) -> dict[str, list[Any]]:
    """Return the rows of every table of the cells that meet a condition on their row."""
    results = load(folder.root.name, folder.root.parent, all=True)
    ids = [
        cell for cell, kept in zip(results.cells.cell_id, keep(results.cells), strict=True) if kept
    ]
    rows = {}
    for table in TABLES:
        frame = getattr(results, table)
        if not frame.empty:
            chosen = frame[frame.cell_id.isin(ids)]
            rows[table] = sorted(map(repr, chosen.astype(object).to_dict("records")))
    return rows


@pytest.mark.parametrize(
    ("conditions", "n", "is_removed"),
    [
        (["optim.lr=0.01"], 4, lambda c: c["optim.lr"] == 0.01),
        (
            ["init=zeros", "optim.lr=1e-1"],
            2,
            lambda c: (c.init == "zeros") & (c["optim.lr"] == 0.1),
        ),
        (["seed=range(1,4)"], 6, lambda c: c.seed.isin([1, 2, 3])),
        (["init=he_normal,zeros", "seed=5"], 1, lambda c: c.seed == 5),
        (["outcome=ok"], 12, lambda c: c.outcome == "ok"),
    ],
)
def test_only_the_chosen_cells_are_removed(
    sweep: SweepFolder, conditions: list[str], n: int, is_removed: Callable[[Any], Any], capsys
) -> None:
    kept = rows_of(sweep, lambda cells: ~is_removed(cells))
    drop(sweep, *conditions, "--yes")
    out = capsys.readouterr().out
    assert f"{n} cell" in out
    assert f"{12 - n} remain" in out
    remaining = set(read_states(sweep))
    assert len(remaining) == 12 - n
    assert set(read_plan(sweep)) == remaining
    if remaining:
        assert rows_of(sweep, lambda cells: cells.seed >= 0) == kept


def test_the_last_request_loses_its_removed_cells(sweep: SweepFolder) -> None:
    drop(sweep, "seed=2,3", "--yes")
    with pytest.warns(FaninWarning, match="left out 8 cells"):
        results = load("s", sweep.root.parent)
    assert sorted(results.cells.seed) == [4, 5]
    drop(sweep, "seed=4,5", "--yes")  # none of its cells remains
    assert read_request(sweep) is None
    assert len(load("s", sweep.root.parent).cells) == 8


def test_removed_cells_run_again_with_the_same_command(sweep: SweepFolder) -> None:
    before = rows_of(sweep, lambda cells: cells.seed == 3)
    drop(sweep, "seed=3", "--yes")
    run(sweep.root.parent, "init=he_normal", "optim.lr=0.1", "seed=2,3,4,5")
    after = rows_of(sweep, lambda cells: cells.seed == 3)
    assert after["layers"] == before["layers"]
    assert after["curves"] == before["curves"]


@pytest.mark.parametrize(("answer", "n"), [("y", 8), ("yes", 8), ("", 12), ("n", 12), ("x", 12)])
def test_it_lists_the_cells_and_asks(
    sweep: SweepFolder, answer: str, n: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, f"{answer}\n".encode())
    os.close(write_end)
    with os.fdopen(read_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        drop(sweep, "optim.lr=0.01")
    out = capsys.readouterr().out
    assert out.count("Remove these cells and their results (4)? [y/N] ") == 1
    assert f"{sweep.root}: 4 cells of 12:\n" in out
    assert "  zeros lr=0.01 seed=1 (ok)\n" in out
    assert ("Nothing was removed." in out) == (n == 12)
    assert len(read_states(sweep)) == n


def test_it_needs_yes_if_nobody_can_answer(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with open(os.devnull) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        refused(sweep, "optim.lr=0.01")
    assert "add --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("optim.rate=1", "no cell has the key optim.rate; did you mean optim"),
        ("seed=7", "seed=7: no cell has this value; seed is 0, 1, 2, 3, 4, 5"),
        ("seed=true", "seed=true: no cell has this value"),
        ("seed", "invalid override"),
        ("init=he_norml", "init is he_normal, zeros"),
    ],
)
def test_a_condition_that_matches_nothing_is_an_error(
    sweep: SweepFolder, condition: str, message: str, capsys
) -> None:
    refused(sweep, condition, "--yes")
    assert message in capsys.readouterr().err


def test_it_refuses_two_conditions_that_exclude_each_other(sweep: SweepFolder, capsys) -> None:
    refused(sweep, "init=zeros", "seed=4", "--yes")
    assert "no cell has init=zeros and seed=4" in capsys.readouterr().err


def test_it_refuses_a_running_sweep(sweep: SweepFolder, capsys) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        sweep.launcher.write_text(json.dumps({"host": platform.node(), "pid": other.pid}))
        refused(sweep, "seed=0", "--yes")
        other.communicate(b"\n")
    assert f"process {other.pid} is running this sweep" in capsys.readouterr().err


def test_it_refuses_a_sweep_with_slurm_jobs(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("experiments.drop.cells_in_jobs", lambda folder: {"a": "token"})
    refused(sweep, "seed=0", "--yes")
    assert "Slurm jobs still run 1 cell of this sweep" in capsys.readouterr().err


def plan(folder: SweepFolder, cells: str) -> None:
    """Write plan records of cells whose number is their seed."""
    records = [
        {"cell_id": c, "assignment": {"seed": n}, "choices": {}, "config": {"seed": n}}
        for n, c in enumerate(cells)
    ]
    folder.plan.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    record_request(folder, cells)


@pytest.fixture
def packs(tmp_path: Path) -> SweepFolder:
    """Return three packs: both attempts of `x` in packs of other cells, and `y` on its own."""
    folder = SweepFolder(tmp_path / "packs")
    store(folder, "a", result("v"), result("x", 2))
    store(folder, "b", result("x", outcome="killed"), result("w"))
    store(folder, "c", result("y"))
    plan(folder, "vwxy")
    folder.errors.mkdir()
    folder.checkpoints.mkdir()
    for cell in "wx":
        (folder.errors / f"{cell}.1.txt").touch()
        (folder.checkpoints / f"{cell}.pt").touch()
    return folder


def test_all_attempts_and_files_of_a_cell_are_removed(packs: SweepFolder) -> None:
    drop(packs, "seed=2", "--yes")
    assert set(read_states(packs)) == {*"vwy"}
    assert [path.name for path in packs.errors.iterdir()] == ["w.1.txt"]
    assert [path.name for path in packs.checkpoints.iterdir()] == ["w.pt"]


def _drop_and_die(folder: SweepFolder, step: int, number: int) -> None:
    """Drop `x` and `y`; send this process a signal before its `step`th change of files."""
    left = iter(range(step))

    def dying(change: Any) -> Any:
        def changed(*arguments: Any, **more: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), number)
            return change(*arguments, **more)

        return changed

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("replace", "unlink", "mkdir", "touch"):
        setattr(Path, name, dying(getattr(Path, name)))
    drop(folder, "seed=2,3", "--yes")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interruption_at_any_step_loses_no_other_cell(
    packs: SweepFolder, tmp_path: Path, number: signal.Signals
) -> None:
    full = contents(loaded(packs))
    kept = {
        table: [row for row in rows if "'v'" in row or "'w'" in row] for table, rows in full.items()
    }
    states = read_states(packs)
    context = multiprocessing.get_context("fork")
    exits: list[int | None] = []
    while 0 not in exits:
        copy = SweepFolder(tmp_path / f"try-{len(exits)}" / "s")
        shutil.copytree(packs.root, copy.root)
        child = context.Process(target=_drop_and_die, args=(copy, len(exits), number))
        child.start()
        child.join()
        exits.append(child.exitcode)
        left = contents(loaded(copy))
        for table, rows in left.items():
            assert set(kept[table]) <= set(rows) <= set(full[table]), (len(exits), table)
            assert len(rows) == len(set(rows))
        interrupted = read_states(copy)
        assert all(interrupted[cell] == states[cell] for cell in interrupted)
        if child.exitcode:  # the same command continues, unless nothing is left to remove
            remaining = {"x", "y"} & set(read_plan(copy))
            assert remaining in ({"x", "y"}, set())
            if remaining:
                drop(copy, "seed=2,3", "--yes")
        assert contents(loaded(copy)) == kept
        assert set(read_plan(copy)) == {"v", "w"}
        assert not copy.quarantine.exists()
        assert not list(copy.journals.iterdir())
    expected = -signal.SIGKILL if number == signal.SIGKILL else 130
    assert set(exits) == {0, expected}
    assert len(exits) > 20
