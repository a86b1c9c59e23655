"""Study `inf_loss`: settings with an inf or NaN loss, and predictions of the first overflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.inf_loss.cells import (
    CLIPPING,
    EQUAL_UNITS,
    FEATURES,
    INITS,
    LOSSES,
    MISSING,
    ONSET,
    SETTINGS,
    ZERO_IMAGE,
    summarize,
)
from analysis.figures.inf_loss.figures import STABLE, caption, figures
from analysis.figures.query import bracket
from analysis.scoring.effects import difference, least, per_seed, rows_where, tuned
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY"]
LARGE_INITS = ["N(0, 1)", "U(0, 1)"]
OTHER_INITS = ["He", "Xavier", "PyTorch default", "U(-0.01, 0.01)"]
MINMAX = {"inputs": ["0 to 1", "−1 to 1"], "depth": 48, "activation": "relu"}
DEEP = {"depth": 48, "activation": "relu", "dtype": "float32", "inputs": "standardized"}
CLIPPED = ["norm", "value"]
WRONG_ONSETS = (1.0, 16.0)  # in units of 1 / lambda_0, of null models


def _settings(outcome: str, of: Mapping[str, Any], minus: Mapping[str, Any]) -> Effect:
    """Compare networks of the first part."""
    return difference(outcome, {"part": SETTINGS, **of}, {"part": SETTINGS, **minus})


def _prediction(cells: pd.DataFrame) -> float:
    """Return the share of bad first losses where theory predicts one, minus the share elsewhere."""
    rows = rows_where(cells, {"part": SETTINGS})
    shares = [rows.loc[rows["bad_predicted"] == value, "bad_first"].mean() for value in (1, 0)]
    return float(shares[0] - shares[1])


def _log_onsets(cells: pd.DataFrame) -> pd.Series:
    """Return by input and activation log2 of the rate from which a seed's regression diverges.

    The rate is in units of 2 / lambda_0: the geometric mean of the first rate that diverges and of
    the rate before. It is NaN if the smallest rate diverges or no rate does.
    """
    logs = {}
    for key, rows in rows_where(cells, {"part": ONSET}).groupby(["inputs", "activation"]):
        by_rate = rows.sort_values("lr_times_curvature")
        before, first = bracket(
            by_rate["lr_times_curvature"].to_numpy(float), by_rate["bad"].to_numpy(float) > 0
        )
        between = before > 0 and np.isfinite(first)
        logs[key] = np.log2(np.sqrt(before * first) / STABLE) if between else np.nan
    return pd.Series(logs, dtype=float)


def _least_onset(cells: pd.DataFrame) -> float:
    return float(_log_onsets(cells).min(skipna=False))


def _greatest_onset(cells: pd.DataFrame) -> float:
    """Return the largest onset with standardized features."""
    standardized = cells[cells["inputs"] == "standardized"]
    return float(_log_onsets(standardized).max(skipna=False))


def _with_onset(onset: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return the null model: the regression diverges from `onset` / lambda_0 on."""

    def wrong(cells: pd.DataFrame) -> pd.DataFrame:
        diverges = (cells["lr_times_curvature"] > onset).astype(float)
        return cells.assign(bad=cells["bad"].where(cells["part"] != ONSET, diverges))

    return wrong


def _error_difference(activation: str, of: str, minus: str) -> Effect:
    """Return the difference of two inits' test errors, each at its tuned learning rate."""

    def effect(cells: pd.DataFrame) -> pd.Series:
        rows = rows_where(cells, {"part": INITS, "activation": activation, "init": [of, minus]})
        if rows["init"].nunique() < 2:
            return pd.Series(float("nan"), index=cells["seed"].unique())
        by_init = tuned(rows, ["init"], "lr", "error")
        return by_init[of] - by_init[minus]

    return effect


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("bad_first", "bad", "is_nan", "error", "log_last", "spread", "first_rms"),
    effects={
        "prediction": per_seed(_prediction),
        "unscaled_input": _settings("bad", {"inputs": "0 to 1e6"}, {"inputs": "standardized"}),
        "large_init_with_minmax": _settings(
            "bad", {**MINMAX, "init": LARGE_INITS}, {**MINMAX, "init": OTHER_INITS}
        ),
        "default_init_unscaled": _settings(
            "bad",
            {"inputs": "0 to 1e6", "init": "PyTorch default"},
            {"inputs": "standardized", "init": "PyTorch default"},
        ),
        "float16": _settings("bad", {"dtype": "float16"}, {"dtype": "float32"}),
        "least_change_of_signal": least(
            [
                _settings("log_last", {**DEEP, "init": "He"}, {**DEEP, "init": "U(-0.01, 0.01)"}),
                _settings("log_last", {**DEEP, "init": "N(0, 1)"}, {**DEEP, "init": "He"}),
            ]
        ),
        "written_out_loss": difference(
            "bad_first",
            {"part": LOSSES, "form": "naive"},
            {"part": LOSSES, "form": "stable", "loss": ["cross_entropy", "bce"]},
        ),
        "prevented_by_clipping": difference(
            "bad",
            {"part": CLIPPING, "depth": 12, "clip": "none"},
            {"part": CLIPPING, "depth": 12, "clip": CLIPPED},
        ),
        "clipping_start_minus_later": difference(
            "bad",
            {"part": CLIPPING, "depth": 48, "clip": CLIPPED},
            {"part": CLIPPING, "depth": 12, "clip": CLIPPED},
        ),
        "nan_of_missing_values": difference(
            "is_nan", {"part": MISSING}, {"part": LOSSES, "loss": "mse"}
        ),
        "unequal_features": difference(
            "bad",
            {"part": FEATURES, "spread_of_features": 1000.0, "inputs": "raw"},
            {"part": FEATURES, "spread_of_features": 1000.0, "inputs": "standardized"},
        ),
        "least_onset": per_seed(_least_onset),
        "greatest_onset": per_seed(_greatest_onset),
        "he_with_relu": _error_difference("relu", "Xavier", "He"),
        "xavier_with_tanh": _error_difference("tanh", "He", "Xavier"),
        "xavier_with_sigmoid": _error_difference("sigmoid", "He", "Xavier"),
        "spread_of_units": difference(
            "spread",
            {"part": EQUAL_UNITS, "init": "He"},
            {"part": EQUAL_UNITS, "init": "constant"},
        ),
        "zero_image": difference(
            "first_rms",
            {"part": ZERO_IMAGE, "zero_biases": False},
            {"part": ZERO_IMAGE, "zero_biases": True},
        ),
    },
    figures=figures,
    caption=caption,
    null_models={f"onset at {onset:g} / lambda_0": _with_onset(onset) for onset in WRONG_ONSETS},
)
