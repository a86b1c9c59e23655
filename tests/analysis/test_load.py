"""A sweep's files become DataFrames: of each cell its latest attempt, and nothing else."""

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
    """A planned sweep of which nothing has ended."""
    folder = SweepFolder(tmp_path / "hand_made")
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


# In the files' order of names an attempt may come before or after the one that replaces it.
@pytest.mark.parametrize(("first", "second"), [("aa", "zz"), ("zz", "aa")])
def test_the_latest_attempt_wins_in_every_table(
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


def test_an_attempt_that_left_no_rows_takes_the_older_ones_away(folder: SweepFolder) -> None:
    """A cell whose latest attempt failed has no measurement, whatever an older one measured."""
    _commit(folder, "a", _result("x", 1, "ok", [1.0]), _result("y", 1, "ok", [2.0]))
    _commit(folder, "b", _result("x", 2, "error", []))
    results = _loaded(folder)
    assert results.layers.value.tolist() == [2.0]
    assert dict(zip(results.cells.cell_id, results.cells.outcome, strict=True)) == {
        "x": "error",
        "y": "ok",
    }


def test_rows_without_their_pack_in_cells_are_not_results(folder: SweepFolder) -> None:
    """`cells` is written last: a crash before it leaves rows that no cell vouches for."""
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    write_part(folder, "layers", "torn", pa.table({"cell_id": ["x"], "value": [9.0]}))
    with pytest.warns(FaninWarning, match=r"layers/torn\.parquet: no cells of this sweep"):
        assert _loaded(folder).layers.value.tolist() == [1.0]
    Journal(folder.journals / "torn.journal").close()  # the pack is still being written
    assert _loaded(folder).layers.value.tolist() == [1.0]


def test_repeated_words_are_categoricals(small: Results) -> None:
    for column in ("cell_id", "layer_name", "quantity"):
        assert isinstance(small.layers[column].dtype, pd.CategoricalDtype), column


def test_every_cell_is_loaded_once_with_its_rows(small: Results) -> None:
    assert len(small.cells) == small.cells.cell_id.nunique() == 80
    assert set(small.layers.cell_id) == set(small.cells.cell_id)
    keys = ["cell_id", "draw", "step", "image", "layer", "quantity"]
    assert not small.layers.duplicated(keys).any()
    assert small.name == "small"


def test_columns_that_a_part_lacks_are_null_there(folder: SweepFolder) -> None:
    for cell, option in (("x", {"model.depth": 10}), ("y", {"model.channels": 3})):
        row = {"cell_id": cell, "outcome": "ok", "attempt": 1, **option}
        _commit(folder, cell, CellResult(row, {}))
    cells = _loaded(folder).cells.set_index("cell_id")
    assert cells.loc["x", "model.depth"] == 10
    assert pd.isna(cells.loc["y", "model.depth"])
    assert cells.loc["y", "model.channels"] == 3


@pytest.mark.parametrize(
    ("one", "other", "together"),
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
def test_a_column_of_other_kinds_in_other_parts_is_read(
    folder: SweepFolder, one: Any, other: Any, together: list[Any]
) -> None:
    for cell, value in (("x", one), ("y", other)):
        row = {"cell_id": cell, "outcome": "ok", "attempt": 1, "init.bias": value}
        _commit(folder, cell, CellResult(row, {}))
    read = _loaded(folder).cells.sort_values("cell_id")["init.bias"]
    assert [None if pd.isna(value) else value for value in read] == together


def test_a_sweep_of_which_nothing_has_ended_has_empty_tables(folder: SweepFolder) -> None:
    results = _loaded(folder)
    tables = ("cells", "layers", "histograms", "curves", "predictions")
    assert all(getattr(results, table).empty for table in tables)
    with pytest.raises(FaninError, match="no layer was measured at initialization"):
        compare_to_theory(results)


def test_a_sweep_that_is_not_there_names_the_nearest(small: Results) -> None:
    with pytest.raises(FaninError, match=r"smal: no such sweep; did you mean small\?"):
        load("smal", small.folder.root.parent)


def test_without_any_sweep_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(FaninError, match="no such sweep; there are no valid choices"):
        load("anything", tmp_path / "nowhere")


@pytest.mark.parametrize("table", ["cells", "layers", "predictions"])
def test_one_warning_names_what_cannot_be_read_and_the_rest_is_loaded(
    folder: SweepFolder, table: str
) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    bad = folder.table(table) / "torn.parquet"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(b"PAR1 not really")
    note = folder.table("cells") / "notes.txt"
    note.write_text("Tuesday")
    with pytest.warns(FaninWarning) as warned:
        results = _loaded(folder)
    assert len(warned) == 1
    assert all(str(path) in str(warned[0].message) for path in (bad, note))
    assert results.layers.value.tolist() == [1.0]


def test_a_pack_with_one_spoilt_part_is_in_no_table(folder: SweepFolder) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    _commit(folder, "b", _result("y", 1, "ok", [2.0]))
    part = folder.table("histograms") / "a.parquet"
    part.write_bytes(part.read_bytes()[::-1])
    with pytest.warns(FaninWarning, match=r"a\.parquet: .*checksum"):
        results = _loaded(folder)
    assert results.cells.cell_id.tolist() == ["y"]
    assert results.layers.value.tolist() == [2.0]
    assert results.curves.cell_id.tolist() == ["y"]


def test_a_command_says_of_a_foreign_file_what_load_warns_of(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    _commit(folder, "a", _result("x", 1, "ok", [1.0]))
    (folder.table("cells") / "stray.txt").write_text("somebody's notes")
    with exit_on_error():
        _loaded(folder)
    said = capsys.readouterr().err
    assert "stray.txt: not one of this sweep's tables" in said
    assert "FaninWarning" not in said
