"""Tests of the study `large_outputs`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from grids import design

from analysis.figures.large_outputs import STUDY
from analysis.figures.large_outputs.cells import (
    CAUSES,
    HEALTHY,
    LARGE_STEPS,
    LARGEST,
    LOWER_RATE,
    NORM_CLIP,
    NOTHING,
    OTHER_SUSPECTS,
    REGRESSION,
    REMEDIES,
    SAME_CLASSES,
    XAVIER,
    cause,
    remedy,
)
from analysis.figures.large_outputs.figures import is_healthy, size_text
from fanin.errors import FaninError


def names() -> pd.DataFrame:
    rows = [
        {str(k): v for k, v in row.items()} for row in design("large_outputs").to_dict("records")
    ]
    rows = [{"cell_id": "c", **row} for row in rows]
    return pd.DataFrame({"cause": [cause(r) for r in rows], "remedy": [remedy(r) for r in rows]})


def test_every_cause_runs_alone_in_every_seed() -> None:
    alone = names().query("remedy == @NOTHING")["cause"].value_counts()
    assert set(alone.index) == {HEALTHY, SAME_CLASSES, *CAUSES, *OTHER_SUSPECTS}
    assert set(alone) == {7}


def test_every_cause_runs_with_each_remedy_that_can_change_it() -> None:
    pairs = names().value_counts()
    assert set(pairs) == {7}
    by_cause = names().groupby("cause")["remedy"].agg(set)
    for name in CAUSES:
        # For large weights, Xavier's init would undo the cause.
        undone = {"Xavier init"} if "weights" in name else set()
        assert by_cause[name] == set(REMEDIES) - undone
    assert all(by_cause[name] == {NOTHING} for name in OTHER_SUSPECTS)


def test_a_cell_with_two_causes_is_an_error() -> None:
    row = {str(k): v for k, v in design("large_outputs").iloc[0].items()}
    with pytest.raises(FaninError, match="c: more than one of: pixels 0 to 255, float16"):
        cause({"cell_id": "c", **row, "scaling": "raw", "train.dtype": "float16"})


@pytest.mark.parametrize(
    ("alone", "clipped", "bounded"),
    [
        ([10.5, 10.5], [0.9, 0.5], 1.0),
        ([10.5, 10.5], [0.9, 1.0], 0.0),  # 1.0 is more than 3 times 0.5, in powers of 10
        ([10.5, 0.6], [0.9, 0.6], 0.0),  # small without the remedy, too
        ([10.5, 0.6], [0.9, 5.0], -1.0),
    ],
)
def test_a_remedy_bounds_outputs_if_it_does_for_each_large_step(
    alone: list[float], clipped: list[float], bounded: float
) -> None:
    rows = [(HEALTHY, NOTHING, 0.5), (HEALTHY, NORM_CLIP, 0.1)]
    for name, size, size_clipped in zip(LARGE_STEPS, alone, clipped, strict=True):
        rows += [(name, NOTHING, size), (name, NORM_CLIP, size_clipped)]
    cells = pd.DataFrame(rows, columns=["cause", "remedy", "log_size"]).assign(seed=0)
    assert STUDY.effects["bounded_by_norm_clipping"](cells).tolist() == [bounded]


def test_a_regression_is_compared_with_a_classification_of_the_same_images() -> None:
    rows = [(HEALTHY, NOTHING, 9.0), (SAME_CLASSES, NOTHING, 0.5), (REGRESSION, NOTHING, 5.0)]
    rows += [(REGRESSION, by, 0.9) for by in (XAVIER, NORM_CLIP, LOWER_RATE)]
    cells = pd.DataFrame(rows, columns=["cause", "remedy", "log_size"]).assign(seed=0)
    assert STUDY.effects["bounded_regression"](cells).tolist() == [1.0]
    cells.loc[3, "log_size"] = 1.1
    assert STUDY.effects["bounded_regression"](cells).tolist() == [0.0]


def test_a_network_is_healthy_if_both_size_and_accuracy_are() -> None:
    healthy = pd.DataFrame({"log_size": [0.5, 0.6], "accuracy": [0.9, 0.9]})
    assert is_healthy(pd.DataFrame({"log_size": [1.0], "accuracy": [0.85]}), healthy)
    assert not is_healthy(pd.DataFrame({"log_size": [1.2], "accuracy": [0.85]}), healthy)
    assert not is_healthy(pd.DataFrame({"log_size": [1.0], "accuracy": [0.7]}), healthy)


def test_sizes_name_divergence() -> None:
    assert size_text(pd.Series([LARGEST, LARGEST])) == "inf"
    assert size_text(pd.Series([np.log10(4.7)])) == "4.7"
    assert size_text(pd.Series([8.0])) == "$10^{8}$"
