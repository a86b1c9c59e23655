"""Tests of `analysis.load`: the latest attempt of each cell, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from analysis import Results, load
from analysis.theory_comparison import compare_to_theory
from experiments.console import exit_on_error
from experiments.result import CellResult
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal, write_part
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError, FaninWarning


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Create a planned sweep without results."""
    folder = SweepFolder(tmp_path / "by_hand")
    folder.root.mkdir()
    folder.plan.write_text("")
    write_format(folder)
    return folder


def _loaded(folder: SweepFolder) -> Results:
    return load(folder.root.name, folder.root.parent)


def _result(cell: str, attempt: int, outcome: str, values: list[float]) -> CellResult:
    row: dict[str, Any] = {"cell_id": cell, "outcome": outcome, "attempt": attempt, "seed": 0}
    layers = {"draw": [0] * len(values), "quantity": ["m"] * len(values), "value": values}
    curves = {"step": [1], "metric": ["train_loss"], "value": [float(attempt)]}
    histograms = {"left": [0.0], "count": [attempt]}
    tables = {"layers": layers, "curves": curves, "histograms": histograms}
    return CellResult(row, tables if values else {})


def _commit(folder: SweepFolder, stem: str, *results: CellResult) -> None:
    journal = Journal(folder.journals / f"{stem}.journal")
    for result in results:
        journal.done(result)
    journal.close()
    commit_journal(folder, journal.path)


# By file name, an attempt may come before or after the one that replaces it.
@pytest.mark.parametrize(("first", "second"), [("aa", "zz"), ("zz", "aa")])
def test_the_latest_attempt_is_used_in_every_table(
    folder: SweepFolder, first: str, second: str
) -> None:
    _commit(folder, first, _result("x", 1, "killed", [1.0, 2.0]), _result("y", 1, "ok", [3.0]))
    _commit(folder, second, _result("x", 2, "ok", [4.0]))
    results = _loaded(folder)
    cells = results.cells.set_index("cell_id").sort_index()
    assert cells.outcome.tolist() == ["ok", "ok"]
    assert cells.attempt.tolist() == [2, 1]
    assert sorted(results.layers.value) == [3.0, 4.0]
    assert sorted(results.curves.value) == [1.0, 2.0]
    assert sorted(results.histograms["count"]) == [1, 2]


def test_a_failed_latest_attempt_removes_older_rows(folder: SweepFolder) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]), _result("y", 1, "ok", [2.0]))
    _commit(folder, "b", _result("x", 2, "error", []))
    results = _loaded(folder)
    assert results.layers.value.tolist() == [2.0]
    assert dict(zip(results.cells.cell_id, results.cells.outcome, strict=True)) == {
        "x": "error",
        "y": "ok",
    }


def test_rows_without_their_pack_in_cells_are_not_results(folder: SweepFolder) -> None:
    """`cells` is written last, so a crash before it leaves rows without a cell."""
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    write_part(folder, "layers", "incomplete", pa.table({"cell_id": ["x"], "value": [9.0]}))
    with pytest.warns(
        FaninWarning, match=r"layers/incomplete\.parquet: no matching part in cells/"
    ):
        assert _loaded(folder).layers.value.tolist() == [1.0]
    Journal(folder.journals / "incomplete.journal").close()  # the pack is still being written
    assert _loaded(folder).layers.value.tolist() == [1.0]


def test_repeated_strings_are_categoricals(small: Results) -> None:
    for column in ("cell_id", "layer_name", "quantity"):
        assert isinstance(small.layers[column].dtype, pd.CategoricalDtype), column


def test_every_cell_is_loaded_once_with_its_rows(small: Results) -> None:
    assert len(small.cells) == small.cells.cell_id.nunique() == 80
    assert set(small.layers.cell_id) == set(small.cells.cell_id)
    keys = ["cell_id", "draw", "step", "image", "layer", "quantity"]
    assert not small.layers.duplicated(keys).any()
    assert small.name == "small"


def test_missing_columns_of_a_part_are_null(folder: SweepFolder) -> None:
    for cell, option in (("x", {"model.depth": 10}), ("y", {"model.channels": 3})):
        row = {"cell_id": cell, "outcome": "ok", "attempt": 1, **option}
        _commit(folder, cell, CellResult(row, {}))
    cells = _loaded(folder).cells.set_index("cell_id")
    assert cells.loc["x", "model.depth"] == 10
    assert pd.isna(cells.loc["y", "model.depth"])
    assert cells.loc["y", "model.channels"] == 3


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (None, 0.5, [None, 0.5]),
        (1, 0.5, [1.0, 0.5]),
        (None, "zeros", [None, "zeros"]),
        ('{"std": 0.1}', 0.5, ['{"std": 0.1}', "0.5"]),  # init.bias of two sweeps in one folder
        (None, None, [None, None]),
        (True, "half", ["true", "half"]),
        (True, 3, ["true", "3"]),
    ],
)
def test_a_column_with_different_types_in_parts_is_read(
    folder: SweepFolder, first: Any, second: Any, expected: list[Any]
) -> None:
    for cell, value in (("x", first), ("y", second)):
        row = {"cell_id": cell, "outcome": "ok", "attempt": 1, "init.bias": value}
        _commit(folder, cell, CellResult(row, {}))
    column = _loaded(folder).cells.sort_values("cell_id")["init.bias"]
    assert [None if pd.isna(value) else value for value in column] == expected


def test_a_sweep_without_results_has_empty_tables(folder: SweepFolder) -> None:
    results = _loaded(folder)
    tables = ("cells", "layers", "histograms", "curves", "predictions")
    assert all(getattr(results, table).empty for table in tables)
    with pytest.raises(FaninError, match="no layer was measured at initialization"):
        compare_to_theory(results)


def test_an_unknown_sweep_is_refused_with_the_nearest_name(small: Results) -> None:
    with pytest.raises(FaninError, match=r"smal: no such sweep; did you mean small\?"):
        load("smal", small.folder.root.parent)


def test_an_empty_results_folder_has_no_valid_names(tmp_path: Path) -> None:
    with pytest.raises(FaninError, match=r"no such sweep; .*contains no sweep"):
        load("anything", tmp_path / "nowhere")


@pytest.mark.parametrize("table", ["cells", "layers", "predictions"])
def test_one_warning_lists_unreadable_files_and_the_rest_is_loaded(
    folder: SweepFolder, table: str
) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    damaged = folder.table(table) / "damaged.parquet"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"PAR1 not really")
    note = folder.table("cells") / "notes.txt"
    note.write_text("a note")
    with pytest.warns(FaninWarning) as warned:
        results = _loaded(folder)
    assert len(warned) == 1
    assert all(str(path) in str(warned[0].message) for path in (damaged, note))
    assert results.layers.value.tolist() == [1.0]


def test_a_pack_with_a_damaged_part_is_skipped(folder: SweepFolder) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    _commit(folder, "b", _result("y", 1, "ok", [2.0]))
    part = folder.table("histograms") / "a.parquet"
    part.write_bytes(part.read_bytes()[::-1])
    with pytest.warns(FaninWarning, match=r"a\.parquet: .*checksum"):
        results = _loaded(folder)
    assert results.cells.cell_id.tolist() == ["y"]
    assert results.layers.value.tolist() == [2.0]
    assert results.curves.cell_id.tolist() == ["y"]


def test_commands_print_warnings_about_foreign_files(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    (folder.table("cells") / "stray.txt").write_text("somebody's notes")
    with exit_on_error():
        _loaded(folder)
    output = capsys.readouterr().err
    assert "stray.txt: not a table of this sweep" in output
    assert "FaninWarning" not in output
