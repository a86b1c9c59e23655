"""Measured draws beside predictions: one row per setting, layer and quantity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.conditions import Setting, measured_settings
from analysis.load import Results
from analysis.predictions import OnPredicted, predict_settings
from fanin.errors import FaninError
from fanin.theory.rungs import RUNGS


@dataclass(frozen=True)
class Comparison:
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
) -> list[Comparison]:
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
        Comparison(setting, draws, theory.frame, theory.reason)
        for (setting, draws), theory in zip(both, predicted, strict=True)
    ]


def table(comparison: Comparison, quantity: str = "preact_m2", image: int = -1) -> pd.DataFrame:
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
        error), and for each rung its prediction (under its name) and `measured/RUNG`. NaN where
        theory has none.
    """
    rows = comparison.draws
    rows = rows[(rows.quantity == quantity) & (rows.image == image)]
    rows = rows[rows.layer > 0]
    groups = rows.groupby(["layer", "layer_name"], observed=True, sort=True).value
    with np.errstate(over="ignore", invalid="ignore"):
        measured = groups.agg(draws="count", measured="mean", se=_standard_error).reset_index()
    for rung in RUNGS:
        theory = comparison.predicted
        if theory.empty:
            measured[rung] = np.nan
        else:
            mine = theory[
                (theory.rung == rung) & (theory.quantity == quantity) & (theory.image == image)
            ]
            measured[rung] = measured.layer.map(dict(zip(mine.layer, mine.value, strict=True)))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            measured[f"measured/{rung}"] = measured.measured / measured[rung]
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
