"""A comparison of recordings finds what was planted in one of them, and nothing else."""

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
    """Two cells, one diverged, three measured layers each."""
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


def written(folder: Path, tables: Tables) -> Path:
    for name, frame in tables.items():
        (folder / "sweep" / name).mkdir(parents=True)
        frame.to_parquet(folder / "sweep" / name / "part.parquet")
    return folder


@pytest.fixture
def compared(tmp_path: Path) -> Callable[[Tables], dict[str, Comparison]]:
    """Compare the small tables with others."""

    def compared_with(tables: Tables) -> dict[str, Comparison]:
        old = written(tmp_path / "old", small_tables())
        return compare(old, written(tmp_path / "new", tables))

    return compared_with


def mismatches(comparisons: dict[str, Comparison]) -> dict[str, int]:
    return {name: each.mismatches for name, each in comparisons.items() if each.mismatches}


def test_equal_recordings_have_no_mismatch(compared):
    found = compared(small_tables())
    assert mismatches(found) == {}
    rows = {"cells": 2, "histograms": 3, "layers": 6, "predictions": 1}
    assert {name: each.rows for name, each in found.items()} == rows


def test_moved_classes_other_ids_renamed_words_and_timings_are_no_mismatch(compared):
    tables = small_tables()
    for frame in tables.values():
        frame["cell_id"] = frame["cell_id"].str.replace("mlp-", "perceptron-")
    tables["cells"]["model._target_"] = "fanin.models.simple.Mlp"
    tables["cells"]["seconds"] = 9.0
    tables["predictions"] = tables["predictions"].rename(columns={"rung": "theory"})
    tables["predictions"]["theory"] = "finite_width"
    tables["cells"] = tables["cells"][::-1]
    assert mismatches(compared(tables)) == {}


@pytest.mark.parametrize("factor", [1 + 3 * TOLERANCE, 0.0, np.inf, np.nan])
def test_a_changed_value_is_a_mismatch(compared, factor):
    tables = small_tables()
    tables["layers"].loc[1, "value"] *= factor
    found = compared(tables)
    assert mismatches(found) == {"layers": 1}
    (line,) = found["layers"].lines
    assert "value 4.0 -> " in line
    assert "cell=mlp-1 layer=2 quantity=preact_m2" in line


def test_a_difference_within_rounding_is_no_mismatch(compared):
    tables = small_tables()
    tables["layers"].loc[1, "value"] *= 1 + 0.5 * TOLERANCE
    found = compared(tables)
    assert mismatches(found) == {}
    assert found["layers"].largest == pytest.approx(0.5 * TOLERANCE, rel=1e-6)


@pytest.mark.parametrize(("epsilons", "expected"), [(0.9, {}), (1.1, {"layers": 1})])
def test_a_mean_is_zero_up_to_rounding_of_its_terms(compared, epsilons, expected):
    tables = small_tables()
    # The layer's second moment is 4: terms of size 2 cancelled.
    tables["layers"].loc[2, "value"] += epsilons * 2 * MEASURED_EPSILON
    assert mismatches(compared(tables)) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [("outcome", "error"), ("outcome_reason", None), ("outcome_reason", "inf")],
)
def test_a_changed_outcome_is_a_mismatch(compared, column, value):
    tables = small_tables()
    tables["cells"].loc[1, column] = value
    assert mismatches(compared(tables)) == {"cells": 1}


def test_a_missing_row_is_a_mismatch(compared):
    tables = small_tables()
    tables["layers"] = tables["layers"].drop(index=4)
    found = compared(tables)
    assert mismatches(found) == {"layers": 1}
    assert "row only in OLD" in found["layers"].lines[0]


def test_another_config_is_another_cell(compared):
    tables = small_tables()
    tables["cells"].loc[0, "init.bias"] = 0.2
    found = compared(tables)  # its rows are missing on one side and new on the other
    assert mismatches(found) == {"cells": 2, "layers": 6, "predictions": 2, "histograms": 6}


def test_a_missing_column_or_table_is_a_mismatch(compared):
    tables = small_tables()
    tables["cells"] = tables["cells"].drop(columns="test_loss")
    del tables["predictions"]
    assert mismatches(compared(tables)) == {"cells": 1, "predictions": 1}


def test_a_changed_bin_is_a_mismatch(compared):
    tables = small_tables()
    tables["histograms"].loc[2, "count"] = 9
    assert mismatches(compared(tables)) == {"histograms": 1}


def test_the_command_prints_a_table_and_fails_where_something_differs(tmp_path, capsys):
    tables = small_tables()
    old, same = (written(tmp_path / name, tables) for name in ("old", "same"))
    main(["compare", str(old), str(same)])
    assert "cells" in capsys.readouterr().out
    tables["layers"]["value"] *= 2
    with pytest.raises(SystemExit, match="1"):
        main(["compare", str(old), str(written(tmp_path / "new", tables))])
    assert "layers" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no cells"):
        main(["compare", str(old), str(tmp_path / "nowhere")])


def test_a_renamed_value_is_no_mismatch_where_it_is_named(tmp_path, capsys):
    tables = small_tables()
    old = written(tmp_path / "old", tables)
    tables["cells"]["outcome_reason"] = [None, "NaN in the loss"]
    new = written(tmp_path / "new", tables)
    with pytest.raises(SystemExit):
        main(["compare", str(old), str(new)])
    main(["compare", str(old), str(new), "--rename", "nan=NaN in the loss"])


def test_a_document_becomes_a_row_per_leaf():
    document = {"cell_id": "mlp-1", "layers": [{"q": 0.1, "basis": "theory"}], "none": None}
    expected = [("layers/0/q", "0.1"), ("layers/0/basis", "theory"), ("none", "null")]
    assert list(leaves(document)) == expected
