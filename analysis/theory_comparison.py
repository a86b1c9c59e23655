"""Comparison of measured draws with predictions, one object per setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.predictions import OnPredicted, predict_settings
from analysis.settings import Setting, measured_settings
from fanin.errors import FaninError
from fanin.theory.predict import THEORIES


@dataclass(frozen=True)
class TheoryComparison:
    """The measurements and the predictions of one setting.

    Attributes
    ----------
    setting
        The setting.
    draws
        Measured rows at initialization, each draw once (`analysis.settings.initial_draws`).
    predicted
        Rows of the `predictions` table without the column `cell_id`; empty if no theory applies.
    unpredicted
        Reason for a missing prediction, or None.
    """

    setting: Setting
    draws: pd.DataFrame
    predicted: pd.DataFrame
    unpredicted: str | None


def compare_to_theory(
    results: Results,
    *,
    recompute: bool = False,
    workers: int = 1,
    on_predicted: OnPredicted = lambda done, total: None,
) -> list[TheoryComparison]:
    """Predict every setting of a sweep and pair the predictions with the measured draws.

    Predictions are stored in the sweep's folder and reused until the code of the theory changes.
    The arguments are those of `analysis.predictions.predict_settings`.

    Raises
    ------
    FaninError
        The sweep has no measurements at initialization yet.
    """
    if results.layers.empty or not (results.layers.step == 0).any():
        raise FaninError(
            f"{results.folder.root}: no layer was measured at initialization; "
            "run the sweep with probe.draws above 0"
        )
    measured = measured_settings(results)
    predictions = predict_settings(
        results.folder,
        [setting for setting, _ in measured],
        recompute=recompute,
        workers=workers,
        on_predicted=on_predicted,
    )
    return [
        TheoryComparison(setting, draws, prediction.frame, prediction.reason)
        for (setting, draws), prediction in zip(measured, predictions, strict=True)
    ]


def layer_table(
    comparison: TheoryComparison, quantity: str = "preact_m2", image: int = -1
) -> pd.DataFrame:
    """Return measured and predicted values, one row per weight layer.

    Parameters
    ----------
    comparison
        One setting.
    quantity, image
        Values of these columns of the `layers` table; image -1 is the mean over the probe set.

    Returns
    -------
    pandas.DataFrame
        `layer`, `layer_name`, `draws` (number), `measured` (mean over draws), `se` (its standard
        error), and per theory its prediction (column THEORY) and `measured/THEORY`, NaN where the
        theory has no prediction.
    """
    rows = comparison.draws
    rows = rows[(rows.quantity == quantity) & (rows.image == image)]
    rows = rows[rows.layer > 0]
    groups = rows.groupby(["layer", "layer_name"], observed=True, sort=True).value
    with np.errstate(over="ignore", invalid="ignore"):
        layers = groups.agg(draws="count", measured="mean", se=_standard_error).reset_index()
    for theory in THEORIES:
        predicted = comparison.predicted
        if predicted.empty:
            layers[theory] = np.nan
        else:
            rows = predicted[
                (predicted.theory == theory)
                & (predicted.quantity == quantity)
                & (predicted.image == image)
            ]
            layers[theory] = layers.layer.map(dict(zip(rows.layer, rows.value, strict=True)))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            layers[f"measured/{theory}"] = layers.measured / layers[theory]
    return layers


def _standard_error(values: pd.Series) -> float:
    """Return the standard error of the mean.

    The values are scaled first, because the squares of values near 1e200 overflow.
    """
    array = values.to_numpy(float)
    scale = np.abs(array).max()
    if len(array) < 2 or not np.isfinite(scale):
        return float("nan")
    if scale == 0:
        return 0.0
    return float(scale * (array / scale).std(ddof=1) / len(array) ** 0.5)


def decompose_gap(layers: pd.DataFrame, theories: Sequence[str]) -> pd.DataFrame:
    """Split log(measured / first theory) into one part per further theory and a residual.

    Parameters
    ----------
    layers
        One row per layer, with `measured` and a column for each theory, as `layer_table` returns.
    theories
        Columns of theories, from the lowest to the highest.

    Returns
    -------
    pandas.DataFrame
        With the index of `layers`: `gap`, log(measured / first theory); `closed/THEORY` for each
        further theory, log(THEORY / the next lower theory that predicts this layer); `residual`,
        log(measured / the highest theory that predicts this layer). The parts add up to `gap`. NaN
        where a theory does not predict the layer.

    Examples
    --------
    >>> layers = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [4.0]})
    >>> decompose_gap(layers, ["he", "mean_field"]).div(np.log(2)).round(6).values.tolist()
    [[3.0, 2.0, 1.0]]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # Means of signed quantities may be negative: their logarithm is NaN.
        logs = np.log(layers[["measured", *theories]].astype(float))
        filled = logs[list(theories)].ffill(axis=1)
        parts = {"gap": logs["measured"] - filled[theories[0]]}
        for lower, theory in pairwise(theories):
            parts[f"closed/{theory}"] = logs[theory] - filled[lower]
        parts["residual"] = logs["measured"] - filled[theories[-1]]
    return pd.DataFrame(parts, index=layers.index)
