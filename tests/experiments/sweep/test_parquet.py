"""Parquet tables: their schema, and values that round-trip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stored_parts import read_parts

from analysis import load
from experiments.result import CellResult
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import TABLES, SweepFolder

NUMBERS = [math.inf, -math.inf, 0.1, 5e-324, 1.7976931348623157e308, -0.0]
WORDS = pa.dictionary(pa.int32(), pa.string())


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


def row(name: str, **more: Any) -> dict[str, Any]:
    outcome = {"outcome": "ok", "outcome_step": None, "outcome_tensor": None}
    return {"cell_id": name, **outcome, "outcome_reason": None, "attempt": 1, **more}


def journal(folder: SweepFolder, stem: str, *rows: dict[str, Any]) -> Path:
    writer = Journal(folder.journals / f"{stem}.journal")
    for one in rows:
        points = {"step": list(range(6)), "metric": ["train_loss"] * 6, "value": NUMBERS}
        writer.done(CellResult(one, {"curves": points, "layers": {}}))
    writer.close()
    return writer.path


def commit(folder: SweepFolder, stem: str, *rows: dict[str, Any]) -> None:
    commit_journal(folder, journal(folder, stem, *rows))


def cells(folder: SweepFolder) -> Any:
    folder.plan.touch()
    write_format(folder)
    return load(folder.root.name, folder.root.parent).cells.set_index("cell_id")


def test_numbers_round_trip_bit_identically(folder: SweepFolder) -> None:
    commit(folder, "p", row("x", loss=math.nan))
    ((_, curves),) = read_parts(folder, "curves")
    assert [v.hex() for v in curves["value"].to_pylist()] == [v.hex() for v in NUMBERS]
    ((_, table),) = read_parts(folder, "cells")
    assert table["loss"].null_count == 0
    assert math.isnan(table["loss"][0].as_py())


def test_second_commit_changes_nothing(folder: SweepFolder) -> None:
    path = journal(folder, "p", row("x"), row("y"))
    left = path.read_bytes()
    commit_journal(folder, path)
    before = {p: p.read_bytes() for p in folder.root.rglob("*.parquet")}
    assert len(before) == 2
    path.write_bytes(left)  # as after a crash between the parts and the unlinking
    commit_journal(folder, path)
    assert {p: p.read_bytes() for p in folder.root.rglob("*.parquet")} == before
    commit_journal(folder, path)  # as if another process had just done it
    assert not path.exists()


def test_empty_journal_writes_no_part(folder: SweepFolder) -> None:
    commit(folder, "p")
    assert [table for table in TABLES if folder.table(table).exists()] == []


def test_strings_are_dictionaries_and_indices_int32(folder: SweepFolder) -> None:
    commit(folder, "p", row("x", **{"init": "normal", "init.gain": 1.0, "seed": 3, "flag": True}))
    ((_, table),) = read_parts(folder, "cells")
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert types == {
        "cell_id": WORDS, "outcome": WORDS, "outcome_step": pa.int32(), "outcome_tensor": WORDS,
        "outcome_reason": WORDS, "attempt": pa.int32(), "init": WORDS, "init.gain": pa.float64(),
        "seed": pa.int64(), "flag": pa.bool_(),
    }  # fmt: skip
    ((_, curves),) = read_parts(folder, "curves")
    assert curves.schema.types == [WORDS, pa.int32(), WORDS, pa.float64()]


VALUES: list[list[Any]] = [[None, 200], [None, "zeros"], [1, 0.5], [None, True], [None, 0.5]]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("packs", [1, 2])
def test_option_may_be_null_in_some_cells(
    folder: SweepFolder, values: list[Any], packs: int
) -> None:
    rows = [row(str(index), option=value) for index, value in enumerate(values)]
    if packs == 1:
        commit(folder, "p", *rows)
    else:
        for one in rows:
            commit(folder, one["cell_id"], one)
    results = cells(folder)["option"]
    for index, value in enumerate(values):
        got = results[str(index)]
        assert got == value or (value is None and got != got) or (value is got is None)


def test_bias_may_be_null_a_number_or_a_mapping(folder: SweepFolder) -> None:
    commit(
        folder,
        "p",
        row("null", **{"init.bias": None}),
        row("number", **{"init.bias": 0.5}),
        row("normal", **{"init.bias.mean": 0.0, "init.bias.std": 0.1}),
    )
    results = cells(folder)
    assert results["init.bias"].dropna().to_dict() == {"number": 0.5}
    assert results["init.bias.std"].dropna().to_dict() == {"normal": 0.1}


def test_mixed_types_are_stored_as_json(folder: SweepFolder) -> None:
    commit(folder, "p", row("a", o=[1, 2]), row("b", o="word"), row("c", o=2**70), row("d", o={}))
    assert cells(folder)["o"].to_dict() == {"a": "[1, 2]", "b": "word", "c": str(2**70), "d": "{}"}


def test_too_large_integer_is_stored_as_a_string(
    folder: SweepFolder,
) -> None:
    commit(folder, "p", row("a", seed=2**70))
    assert cells(folder)["seed"].to_dict() == {"a": str(2**70)}


def test_load_gives_the_latest_attempt(folder: SweepFolder) -> None:
    commit(folder, "z", row("x", note="first"))
    commit(folder, "a", row("x", attempt=2, note="second"))
    assert cells(folder)["note"].to_dict() == {"x": "second"}
    results = load(folder.root.name, folder.root.parent)
    assert list(results.curves["step"]) == list(range(6))
