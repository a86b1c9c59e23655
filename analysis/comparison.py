"""Measured draws beside predictions: one row per condition, layer and quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.conditions import Setting, measured_settings
from analysis.load import Results
from analysis.predictions import OnPredicted, predict_settings
from fanin.errors import FaninError
from fanin.theory.theories import THEORIES


@dataclass(frozen=True)
class TheoryComparison:
    """One setting's measurement and prediction.

    Attributes
    ----------
    setting
        Which cells.
    draws
        Measured rows at initialization, each draw once (`analysis.conditions.draws_of`).
    predicted
        Rows of the `predictions` table without `cell_id`; empty where theory has none.
    unpredicted
        Why there is no prediction, or None.
    """

    setting: Setting
    draws: pd.DataFrame
    predicted: pd.DataFrame
    unpredicted: str | None


def compare(
    results: Results,
    *,
    again: bool = False,
    workers: int = 1,
    on_predicted: OnPredicted = lambda done, total: None,
) -> list[TheoryComparison]:
    """Predict every setting of a sweep and put its measured draws beside.

    What is predicted is kept in the sweep's folder, and taken from there while theory's code stays
    what it is (`analysis.predictions.predict_settings`, which says what the arguments are).

    Raises
    ------
    FaninError
        The sweep has no measurements at initialization yet.
    """
    if results.layers.empty or not (results.layers.step == 0).any():
        raise FaninError(
            f"{results.folder.root}: no layer was measured at initialization "
            "(run the sweep first, with probe.draws above 0)"
        )
    both = measured_settings(results)
    predicted = predict_settings(
        results.folder,
        [setting for setting, _ in both],
        again=again,
        workers=workers,
        on_predicted=on_predicted,
    )
    return [
        TheoryComparison(setting, draws, theory.frame, theory.reason)
        for (setting, draws), theory in zip(both, predicted, strict=True)
    ]


def table(
    comparison: TheoryComparison, quantity: str = "preact_m2", image: int = -1
) -> pd.DataFrame:
    """Measured against predicted, a row per weight layer.

    Parameters
    ----------
    comparison
        One setting.
    quantity, image
        Of the `layers` table.

    Returns
    -------
    pandas.DataFrame
        `layer`, `layer_name`, `draws` (how many), `measured` (mean over draws), `se` (its standard
        error), and for each theory its prediction (under its name) and `measured/THEORY`. NaN where
        theory has none.
    """
    rows = comparison.draws
    rows = rows[(rows.quantity == quantity) & (rows.image == image)]
    rows = rows[rows.layer > 0]
    groups = rows.groupby(["layer", "layer_name"], observed=True, sort=True).value
    with np.errstate(over="ignore", invalid="ignore"):
        measured = groups.agg(draws="count", measured="mean", se=_standard_error).reset_index()
    for theory in THEORIES:
        predicted = comparison.predicted
        if predicted.empty:
            measured[theory] = np.nan
        else:
            rows = predicted[
                (predicted.theory == theory)
                & (predicted.quantity == quantity)
                & (predicted.image == image)
            ]
            measured[theory] = measured.layer.map(dict(zip(rows.layer, rows.value, strict=True)))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            measured[f"measured/{theory}"] = measured.measured / measured[theory]
    return measured


def _standard_error(values: pd.Series) -> float:
    """Of the mean over draws. Scaled first: the square of a moment near 1e200 overflows."""
    array = values.to_numpy(float)
    scale = np.abs(array).max()
    if len(array) < 2 or not np.isfinite(scale):
        return float("nan")
    if scale == 0:
        return 0.0
    return float(scale * (array / scale).std(ddof=1) / len(array) ** 0.5)


def decompose_gap(table: pd.DataFrame, theories: Sequence[str]) -> pd.DataFrame:
    """Split log(measured / first theory) into the steps from theory to theory and what is left.

    Parameters
    ----------
    table
        A row per layer, with `measured` and a column for each theory, as
        `analysis.comparison.table`.
    theories
        From the lowest to the highest.

    Returns
    -------
    pandas.DataFrame
        With the table's index: `gap`, the whole; `closed/THEORY` for each theory but the first,
        log(THEORY / the theory below it that predicts this layer); `left`, log(measured / the
        highest theory that does). They add up to `gap`. NaN where a theory doesn't predict the
        layer.

    Examples
    --------
    >>> layers = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [4.0]})
    >>> decompose_gap(layers, ["he", "mean_field"]).div(np.log(2)).round(6).values.tolist()
    [[3.0, 2.0, 1.0]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # Means of signed quantities have no ratio.
        logs = np.log(table[["measured", *theories]].astype(float))
        below = logs[list(theories)].ffill(axis=1)
        found = {"gap": logs["measured"] - below[theories[0]]}
        for lower, theory in pairwise(theories):
            found[f"closed/{theory}"] = logs[theory] - below[lower]
        found["left"] = logs["measured"] - below[theories[-1]]
    return pd.DataFrame(found, index=table.index)
