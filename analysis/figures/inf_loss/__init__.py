"""Study `inf_loss`: settings with an inf or NaN loss, and predictions of the first overflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.figures.inf_loss.cells import (
    CLIPPING,
    EQUAL_UNITS,
    FEATURES,
    INITS,
    LOSSES,
    MISSING,
    SETTINGS,
    ZERO_IMAGE,
    summarize,
)
from analysis.figures.inf_loss.figures import caption, figures
from analysis.scoring.effects import difference, least, per_seed, rows_where, tuned
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY"]
LARGE_INITS = ["N(0, 1)", "U(0, 1)"]
OTHER_INITS = ["He", "Xavier", "PyTorch default", "U(-0.01, 0.01)"]
MINMAX = {"inputs": ["0 to 1", "−1 to 1"], "depth": 48, "activation": "relu"}
DEEP = {"depth": 48, "activation": "relu", "dtype": "float32", "inputs": "standardized"}
CLIPPED = ["norm", "value"]
STABLE = 2.0  # gradient descent on a quadratic loss is stable below 2 / curvature


def _settings(outcome: str, of: Mapping[str, Any], minus: Mapping[str, Any]) -> Effect:
    """Compare networks of the first part."""
    return difference(outcome, {"part": SETTINGS, **of}, {"part": SETTINGS, **minus})


def _prediction(cells: pd.DataFrame) -> float:
    """Return the share of bad first losses where theory predicts one, minus the share elsewhere."""
    rows = rows_where(cells, {"part": SETTINGS})
    shares = [rows.loc[rows["bad_predicted"] == value, "bad_first"].mean() for value in (1, 0)]
    return float(shares[0] - shares[1])


def _above_stable_rate(cells: pd.DataFrame) -> float:
    rows = rows_where(cells, {"part": FEATURES})
    above = rows["lr_times_curvature"] > STABLE
    return float(rows.loc[above, "bad"].mean() - rows.loc[~above, "bad"].mean())


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
        "above_stable_rate": per_seed(_above_stable_rate),
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
)
