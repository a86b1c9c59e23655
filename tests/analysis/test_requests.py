"""Analysis uses the cells of a sweep's last request, and says how many others it leaves out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from small_sweep import SMALL

from analysis import Results, load
from analysis.check.__main__ import main as check
from analysis.compare.__main__ import main as compare
from analysis.report.__main__ import main as report
from experiments.config.catalog import config_loader
from experiments.sweep.cli import CheckedCommand, exit_if_finished, run_command
from experiments.sweep.store.plan_file import read_request
from fanin.errors import DataError, FaninWarning

LEFT_OUT = "s: left out {} that the sweep's last command did not request; include them with --all"


def run(results: Path, *overrides: str) -> None:
    """Run a command, as `fanin run` does: without building cells if all of them are done."""
    arguments = [*SMALL, "model=mlp", "model.width=8", *overrides]
    arguments += [f"sweep.results={results}", "sweep.name=s"]
    loader = config_loader()
    with suppress(SystemExit):
        exit_if_finished(CheckedCommand(loader, "config", arguments))
        assert run_command(loader, "config", arguments) == 0


def quietly(results: Path, *, all: bool = False) -> Results:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load("s", results, all=all)


@pytest.fixture(scope="module")
def two_requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two commands under one name: two inits at rate 0.1, then two at 0.01."""
    results = tmp_path_factory.mktemp("requests")
    run(results, "init=he_normal,xavier_normal", "seed=0,1,2", "optim.lr=0.1")
    run(results, "init=he_normal,zeros", "seed=0,1,2", "optim.lr=0.01")
    return results


def output(command: object, results: Path, arguments: Sequence[str], capsys) -> tuple[str, str]:
    with suppress(SystemExit):  # of `check`: a layer may disagree with theory
        command(["s", "--results", str(results), *arguments])
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_load_uses_the_last_request_and_says_what_it_leaves_out(two_requests: Path) -> None:
    with pytest.warns(FaninWarning, match=LEFT_OUT.format("6 cells")):
        results = load("s", two_requests)
    assert results.n_left_out == 6
    assert set(results.cells["optim.lr"]) == {0.01}
    assert set(results.cells["init"]) == {"he_normal", "zeros"}
    assert set(results.plan) == set(results.cells.cell_id) == results.request
    for table in (results.layers, results.curves):
        assert set(table.cell_id) == set(results.cells.cell_id)


def test_all_includes_every_request_without_a_message(two_requests: Path) -> None:
    results = quietly(two_requests, all=True)
    assert (len(results.cells), len(results.plan), results.n_left_out) == (12, 12, 0)


@pytest.mark.parametrize("command", [compare, check])
def test_compare_and_check_use_the_last_request(
    two_requests: Path, command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = output(command, two_requests, [], capsys)
    assert err.count(LEFT_OUT.format("6 cells")) == 1
    assert "xavier_normal" not in out
    out, err = output(command, two_requests, ["--all"], capsys)
    assert "left out" not in err
    assert "xavier_normal" in out


def test_report_uses_the_last_request(
    two_requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = two_requests / "s" / "report" / "index.html"
    _, err = output(report, two_requests, ["--no-theory"], capsys)
    assert err.count(LEFT_OUT.format("6 cells")) == 1
    text = page.read_text()
    assert "left out 6 cells" in text
    summary = text.partition("<footer>")[0]
    assert "6 cells: 6 ok." in summary
    assert len(page.with_name("cells.csv").read_text().splitlines()) == 1 + 6
    output(report, two_requests, ["--no-theory", "--all"], capsys)
    text = page.read_text()
    assert "left out" not in text
    assert "12 cells: 12 ok." in text


def test_repeating_a_finished_command_makes_it_the_last_request(tmp_path: Path) -> None:
    run(tmp_path, "seed=0,1")
    first = read_request(quietly(tmp_path).folder)
    run(tmp_path, "seed=0,1,2")  # a larger grid includes the first
    assert len(quietly(tmp_path).cells) == 3
    run(tmp_path, "seed=0,1")  # no cell runs
    with pytest.warns(FaninWarning, match=LEFT_OUT.format("1 cell")):
        assert load("s", tmp_path).request == first
    run(tmp_path, "seed=0,1")  # no cell is built
    with pytest.warns(FaninWarning, match=LEFT_OUT.format("1 cell")):
        assert load("s", tmp_path).request == first


def test_a_plan_does_not_change_the_last_request(tmp_path: Path) -> None:
    run(tmp_path, "seed=0,1")
    run(tmp_path, "seed=2", "sweep.mode=plan")
    assert len(quietly(tmp_path).cells) == 2


def test_folders_without_a_recorded_request_use_all_cells(tmp_path: Path) -> None:
    run(tmp_path, "seed=0")
    run(tmp_path, "seed=1")
    (tmp_path / "s" / "request.json").unlink()
    results = quietly(tmp_path)
    assert len(results.cells) == 2
    assert results.request is None


@pytest.mark.parametrize("content", ["", "{", json.dumps({"cells": 1}), "[]"])
def test_a_damaged_request_is_an_error(tmp_path: Path, content: str) -> None:
    run(tmp_path, "seed=0")
    (tmp_path / "s" / "request.json").write_text(content)
    with pytest.raises(DataError, match=r"request\.json: not readable .* Run the sweep's command"):
        load("s", tmp_path)
    assert len(quietly(tmp_path, all=True).cells) == 1
    run(tmp_path, "seed=0")
    assert len(quietly(tmp_path).cells) == 1
