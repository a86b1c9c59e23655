"""A comparison of recordings finds each difference, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from baseline import leaves, main
from compare_recordings import MEASURED_EPSILON, TOLERANCE, Comparison, compare

Tables = dict[str, pd.DataFrame]


def small_tables() -> Tables:
    """Return the tables of two cells, one diverged, with three measurements each."""
    cells = pd.DataFrame(
        {
            "cell_id": ["mlp-1", "mlp-2"],
            "model._target_": "experiments.models.Mlp",
            "init.bias": [None, 0.1],
            "seed": [0, 1],
            "outcome": ["ok", "diverged"],
            "outcome_reason": [None, "nan"],
            "test_loss": [2.5, np.nan],
            "seconds": [1.0, 2.0],
        }
    )
    layers = pd.DataFrame(
        {
            "cell_id": np.repeat(["mlp-1", "mlp-2"], 3),
            "layer": [1, 2, 2] * 2,
            "quantity": ["preact_m2", "preact_m2", "preact_mean"] * 2,
            "value": [1.0, 4.0, 1e-9, 1.0, np.inf, np.nan],
        }
    )
    predictions = pd.DataFrame(
        {"cell_id": ["mlp-1"], "quantity": "preact_m2", "rung": "finite", "value": 1.5}
    )
    bins = {"left": [np.nan, 0.0, 1.0], "right": [np.nan, 1.0, 2.0], "count": [1, 7, 8]}
    histograms = pd.DataFrame({"cell_id": "mlp-1", "quantity": "act", **bins})
    return {
        "cells": cells,
        "layers": layers,
        "predictions": predictions,
        "histograms": histograms,
    }


def write_recording(folder: Path, tables: Tables) -> Path:
    for name, frame in tables.items():
        (folder / "sweep" / name).mkdir(parents=True)
        frame.to_parquet(folder / "sweep" / name / "part.parquet")
    return folder


@pytest.fixture
def compare_with(tmp_path: Path) -> Callable[[Tables], dict[str, Comparison]]:
    """Return a function that compares the small tables with other tables."""

    def run_compare(tables: Tables) -> dict[str, Comparison]:
        old = write_recording(tmp_path / "old", small_tables())
        return compare(old, write_recording(tmp_path / "new", tables))

    return run_compare


def mismatches(comparisons: dict[str, Comparison]) -> dict[str, int]:
    return {name: result.mismatches for name, result in comparisons.items() if result.mismatches}


def test_equal_recordings_have_no_mismatch(compare_with):
    comparisons = compare_with(small_tables())
    assert mismatches(comparisons) == {}
    rows = {"cells": 2, "histograms": 3, "layers": 6, "predictions": 1}
    assert {name: result.rows for name, result in comparisons.items()} == rows


def test_moved_classes_new_ids_renames_and_timings_are_no_mismatch(compare_with):
    tables = small_tables()
    for frame in tables.values():
        frame["cell_id"] = frame["cell_id"].str.replace("mlp-", "perceptron-")
    tables["cells"]["model._target_"] = "fanin.models.simple.Mlp"
    tables["cells"]["seconds"] = 9.0
    tables["predictions"] = tables["predictions"].rename(columns={"rung": "theory"})
    tables["predictions"]["theory"] = "finite_width"
    tables["cells"] = tables["cells"][::-1]
    assert mismatches(compare_with(tables)) == {}


@pytest.mark.parametrize("factor", [1 + 3 * TOLERANCE, 0.0, np.inf, np.nan])
def test_a_changed_value_is_a_mismatch(compare_with, factor):
    tables = small_tables()
    tables["layers"].loc[1, "value"] *= factor
    comparisons = compare_with(tables)
    assert mismatches(comparisons) == {"layers": 1}
    (line,) = comparisons["layers"].lines
    assert "value 4.0 -> " in line
    assert "cell=mlp-1 layer=2 quantity=preact_m2" in line


def test_a_difference_within_rounding_is_no_mismatch(compare_with):
    tables = small_tables()
    tables["layers"].loc[1, "value"] *= 1 + 0.5 * TOLERANCE
    comparisons = compare_with(tables)
    assert mismatches(comparisons) == {}
    assert comparisons["layers"].largest == pytest.approx(0.5 * TOLERANCE, rel=1e-6)


@pytest.mark.parametrize(("epsilons", "expected"), [(0.9, {}), (1.1, {"layers": 1})])
def test_a_mean_is_zero_up_to_rounding_of_its_terms(compare_with, epsilons, expected):
    tables = small_tables()
    # The layer's second moment is 4: terms of size 2 cancelled.
    tables["layers"].loc[2, "value"] += epsilons * 2 * MEASURED_EPSILON
    assert mismatches(compare_with(tables)) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [("outcome", "error"), ("outcome_reason", None), ("outcome_reason", "inf")],
)
def test_a_changed_outcome_is_a_mismatch(compare_with, column, value):
    tables = small_tables()
    tables["cells"].loc[1, column] = value
    assert mismatches(compare_with(tables)) == {"cells": 1}


def test_a_missing_row_is_a_mismatch(compare_with):
    tables = small_tables()
    tables["layers"] = tables["layers"].drop(index=4)
    comparisons = compare_with(tables)
    assert mismatches(comparisons) == {"layers": 1}
    assert "row only in OLD" in comparisons["layers"].lines[0]


def test_another_config_is_another_cell(compare_with):
    tables = small_tables()
    tables["cells"].loc[0, "init.bias"] = 0.2
    comparisons = compare_with(tables)  # its rows are missing in one recording and new in the other
    assert mismatches(comparisons) == {"cells": 2, "layers": 6, "predictions": 2, "histograms": 6}


def test_a_missing_column_or_table_is_a_mismatch(compare_with):
    tables = small_tables()
    tables["cells"] = tables["cells"].drop(columns="test_loss")
    del tables["predictions"]
    assert mismatches(compare_with(tables)) == {"cells": 1, "predictions": 1}


def test_a_changed_bin_is_a_mismatch(compare_with):
    tables = small_tables()
    tables["histograms"].loc[2, "count"] = 9
    assert mismatches(compare_with(tables)) == {"histograms": 1}


def test_the_command_prints_a_table_and_fails_if_something_differs(tmp_path, capsys):
    tables = small_tables()
    old, equal = (write_recording(tmp_path / name, tables) for name in ("old", "equal"))
    main(["compare", str(old), str(equal)])
    assert "cells" in capsys.readouterr().out
    tables["layers"]["value"] *= 2
    with pytest.raises(SystemExit, match="1"):
        main(["compare", str(old), str(write_recording(tmp_path / "new", tables))])
    assert "layers" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no cells"):
        main(["compare", str(old), str(tmp_path / "nowhere")])


def test_a_value_renamed_on_the_command_line_is_no_mismatch(tmp_path, capsys):
    tables = small_tables()
    old = write_recording(tmp_path / "old", tables)
    tables["cells"]["outcome_reason"] = [None, "NaN in the loss"]
    new = write_recording(tmp_path / "new", tables)
    with pytest.raises(SystemExit):
        main(["compare", str(old), str(new)])
    main(["compare", str(old), str(new), "--rename", "nan=NaN in the loss"])


def test_renamed_keys_and_messages_of_documents_are_no_mismatch(tmp_path):
    tables = small_tables()
    paths = ["0/left", "layers/0/rungs/0", "verdicts/0/message"]
    old_documents = pd.DataFrame({"document": "d", "path": paths, "value": ["1", "finite", "old"]})
    old = write_recording(tmp_path / "old", {**tables, "documents": old_documents})
    paths = ["0/residual", "layers/0/theories/0", "verdicts/0/message"]
    values = ["1", "finite_width", "new"]
    new_documents = pd.DataFrame({"document": "d", "path": paths, "value": values})
    new = write_recording(tmp_path / "new", {**tables, "documents": new_documents})
    comparisons = compare(old, new)
    assert mismatches(comparisons) == {}
    assert comparisons["documents"].rows == 2


def test_a_document_becomes_a_row_per_leaf():
    document = {"cell_id": "mlp-1", "layers": [{"q": 0.1, "basis": "theory"}], "none": None}
    expected = [("layers/0/q", "0.1"), ("layers/0/basis", "theory"), ("none", "null")]
    assert list(leaves(document)) == expected
