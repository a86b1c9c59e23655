"""Study `inf_loss`: settings with an inf or NaN loss, and predictions of the first overflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.figures.inf_loss.claims import (
    bad_data_claims,
    bias_claims,
    init_claims,
    symmetry_claims,
    unit_spreads,
)
from analysis.figures.inf_loss.outcomes import (
    by_clip,
    clipping_claims,
    outcome_claims,
    outcome_figure,
    regression_claims,
    regression_figure,
)
from analysis.figures.inf_loss.overflow import (
    loss_claims,
    loss_failure_depths,
    overflow_by_draw,
    overflow_claims,
    overflow_figure,
    predict_overflow,
)
from analysis.figures.study import Study
from analysis.load import Results

__all__ = ["study"]
CLAIM = (
    "Init, input range, depth and dtype determine whether the first loss is inf or NaN: theory "
    "predicts which layer overflows first, before any weights are drawn."
)


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test each part of the sweep against theory or against a common claim.

    Parameters
    ----------
    results
        Results of the sweep `inf_loss`.
    criterion
        Bounds; the comments in conf/sweep/inf_loss.yaml define them.

    Raises
    ------
    FaninError
        A part of the sweep has not run yet.
    """
    cells = predict_overflow(results)
    networks = overflow_by_draw(results, cells)
    claim_results = (
        *overflow_claims(cells, networks, criterion),
        *loss_claims(loss_failure_depths(results), criterion),
        *outcome_claims(cells),
        *clipping_claims(by_clip(results)),
        *bad_data_claims(results),
        *regression_claims(results, criterion),
        *bias_claims(results, criterion),
        *symmetry_claims(unit_spreads(results), criterion),
        *init_claims(results, criterion),
    )
    figures = {
        "inf_loss": outcome_figure(cells),
        "inf_loss_first_layer": overflow_figure(networks),
        "inf_loss_regression": regression_figure(results),
    }
    return Study(CLAIM, figures, _caption(cells, networks), claim_results)


def _caption(cells: pd.DataFrame, networks: pd.DataFrame) -> str:
    steps, batch = int(cells["train.steps"].max()), int(cells["train.batch_size"].max())
    lr = float(cells["optim.lr"].iloc[0])
    draws = int(networks.groupby("cell_id").size().min())
    return (
        f"First figure: digits, cross entropy, SGD with a learning rate of {lr:g}, {steps} steps "
        f"of {batch} images. Number in a box: first step at which the loss is inf or NaN (dark: "
        "step 0); dot: the loss stays finite; !: the theory predicts wrongly whether the loss at "
        "step 0 is finite. Input: standardized (std), or in the given range. Second: first layer "
        f"with overflowing pre-activations, {draws} draws of each of these networks, except "
        "networks whose input overflows. Third: a 10-50-1 regression (10 inputs, 50 hidden "
        "units, 1 output) trained by full-batch gradient descent on the mean squared error."
    )
