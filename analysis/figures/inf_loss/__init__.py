"""The settings that give an inf or NaN loss, failure_time, and what theory predicts of them."""

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
    loss_onsets,
    overflow_by_draw,
    overflow_claims,
    overflow_figure,
    predict_overflow,
)
from analysis.figures.study import Study
from analysis.load import Results

__all__ = ["study"]
CLAIM = (
    "Whether the first loss is inf or NaN follows from the init, the input's range, the depth and "
    "the dtype before anything is drawn: theory names the layer that overflows first."
)


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold each part of the sweep against theory, or against what is usually said.

    Parameters
    ----------
    results
        Of the sweep `inf_loss`.
    criterion
        As commented in conf/sweep/inf_loss.yaml.

    Raises
    ------
    FaninError
        Some part of the sweep has not run yet.
    """
    cells = predict_overflow(results)
    networks = overflow_by_draw(results, cells)
    lines = (
        *overflow_claims(cells, networks, criterion),
        *loss_claims(loss_onsets(results), criterion),
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
    return Study(CLAIM, figures, _caption(cells, networks), lines)


def _caption(cells: pd.DataFrame, networks: pd.DataFrame) -> str:
    steps, batch = int(cells["train.steps"].max()), int(cells["train.batch_size"].max())
    lr = float(cells["optim.lr"].iloc[0])
    draws = int(networks.groupby("cell_id").size().min())
    return (
        f"First figure: digits, cross entropy, plain SGD at a learning rate of {lr:g}, {steps} "
        f"steps of {batch} images; the number in a box is the first step at which the loss is inf "
        "or NaN (dark: step 0), a dot means that it stayed finite, ! that theory had step 0 wrong. "
        "Input: standardized, or from 0 to the number. "
        f"Second: the first layer whose pre-activations overflow, {draws} draws of each of these "
        "networks, but those whose input overflows. Third: the 10-50-1 regression "
        "under full-batch gradient descent with mean squared error."
    )
