"""Study `de2020`: signals and training of deep residual networks, and their branches' scale."""

from __future__ import annotations

from math import log2, pi

import numpy as np
import pandas as pd

from analysis.figures.de2020.cells import (
    CONV,
    DENSE,
    FIXUP,
    GRADIENTS,
    NORMALIZED,
    SKIPINIT,
    STREAM,
    TRAINING,
    UNNORMALIZED,
    UNSCALED,
    summarize,
)
from analysis.figures.de2020.figures import caption, figures
from analysis.scoring.effects import explained_share, least, per_seed, rows_where, slope, tuned
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import SEED, Effect

__all__ = ["STUDY"]

SHALLOW, DEEP = 14, 98
SCALED = (SKIPINIT, FIXUP)
LIMIT_RATE = log2(pi / (pi - 1))
"""Growth of the log2 mean square gradient per layer, for large width and batch.

He's weights and ReLU conserve it, and batch normalization divides by the variance of a
pre-activation, 2 Var[relu(z)] = 1 - 1 / pi for a normalized z. The root mean square grows by the
square root of pi / (pi - 1), 1.21.
"""


def _rate(cells: pd.DataFrame, model: str, column: str) -> float:
    """Return the growth of the log gradient per layer backward: normalized minus unnormalized."""
    rates = []
    for norm in (NORMALIZED, UNNORMALIZED):
        rows = rows_where(cells, {"part": GRADIENTS, "model": model, "norm": norm})
        rates.append(-slope(rows["layer"], rows[column]))
    return rates[0] - rates[1]


def _rate_error(model: str) -> Effect:
    """Return the effect: relative deviation of the rate from theory's."""

    def error(cells: pd.DataFrame) -> float:
        predicted = _rate(cells, model, "log_gradient_predicted")
        return _rate(cells, model, "log_gradient") / predicted - 1

    return per_seed(error)


def _limit_error(cells: pd.DataFrame) -> float:
    return _rate(cells, DENSE, "log_gradient") / LIMIT_RATE - 1


def _stream(cells: pd.DataFrame, norm: str) -> pd.DataFrame:
    return rows_where(cells, {"part": STREAM, "norm": norm}).sort_values("layer")


def _stream_fit(cells: pd.DataFrame) -> float:
    rows = _stream(cells, NORMALIZED)
    return explained_share(rows["stream"], rows["stream_predicted"])


def _stream_line_fit(cells: pd.DataFrame) -> float:
    """Return the share of the variance within stages that lines of theory's slope explain."""
    lines, deviations = [], []
    for _, rows in _stream(cells, NORMALIZED).groupby("stage"):
        block = rows["layer"] - rows["layer"].mean()
        lines.append(slope(rows["layer"], rows["stream_predicted"]) * block)
        deviations.append(rows["stream"] - rows["stream"].mean())
    return explained_share(pd.concat(deviations), pd.concat(lines))


def _ends(cells: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Return log2 of the stream after the first and the last block of each stage."""
    return np.log2(_stream(cells, norm).groupby("stage")["stream"].agg(["first", "last"]))


def _drops(ends: pd.DataFrame) -> np.ndarray:
    """Return the decrease at each transition between stages."""
    return ends["last"].to_numpy()[:-1] - ends["first"].to_numpy()[1:]


def reset(cells: pd.DataFrame) -> float:
    """Return the smallest decrease of the normalized stream at a transition, in powers of 2."""
    return float(_drops(_ends(cells, NORMALIZED)).min())


def lost_growth(cells: pd.DataFrame) -> float:
    """Return the largest share of a stage's growth that is lost at the transition after it.

    It is that of the log of the stream without normalization: 1 if the stream returns to where
    the stage began, 0 if it does not drop. It is not defined if the stream does not grow.
    """
    ends = _ends(cells, UNNORMALIZED)
    grown = (ends["last"] - ends["first"]).to_numpy()[:-1]
    return float((_drops(ends) / grown).max()) if (grown > 0).all() else np.nan


def never_reset(cells: pd.DataFrame) -> pd.DataFrame:
    """Return streams that keep their largest value so far, with and without normalization."""
    streams = cells[cells["part"] == STREAM].sort_values("layer")
    kept = streams.groupby([SEED, "norm"])["stream"].cummax()
    return cells.assign(stream=cells["stream"].mask(cells["part"] == STREAM, kept))


def always_reset(cells: pd.DataFrame) -> pd.DataFrame:
    """Return streams that repeat the first stage in every stage, with and without normalization."""
    streams = cells[cells["part"] == STREAM].sort_values("layer")
    block = streams.groupby([SEED, "norm", "stage"]).cumcount()
    first = streams.groupby([SEED, "norm", block])["stream"].transform("first")
    return cells.assign(stream=cells["stream"].mask(cells["part"] == STREAM, first))


def _growth_difference(cells: pd.DataFrame) -> float:
    """Return the growth within the first stage: without normalization minus with."""
    growth = [
        float(ends["last"].iloc[0] - ends["first"].iloc[0])
        for ends in (_ends(cells, norm) for norm in (UNNORMALIZED, NORMALIZED))
    ]
    return growth[0] - growth[1]


def _advantage(cells: pd.DataFrame, depth: int, init: str) -> pd.Series:
    """Return the unscaled network's minus a scaled one's training loss, at their tuned rates."""
    by_init = tuned(rows_where(cells, {"part": TRAINING, "depth": depth}), ["init"], "lr", "loss")
    return by_init[UNSCALED] - by_init[init]


def _deep_advantage(init: str) -> Effect:
    return lambda cells: _advantage(cells, DEEP, init)


def _advantage_growth(init: str) -> Effect:
    return lambda cells: _advantage(cells, DEEP, init) - _advantage(cells, SHALLOW, init)


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("log_gradient", "stream", "loss"),
    effects={
        "scaling_advantage": least([_deep_advantage(init) for init in SCALED]),
        "scaling_advantage_growth": least([_advantage_growth(init) for init in SCALED]),
        "stream_fit": per_seed(_stream_fit),
        "stream_line_fit": per_seed(_stream_line_fit),
        "reset": per_seed(reset),
        "lost_growth": per_seed(lost_growth),
        "stream_growth_difference": per_seed(_growth_difference),
        "dense_rate_error": _rate_error(DENSE),
        "conv_rate_error": _rate_error(CONV),
        "dense_limit_error": per_seed(_limit_error),
    },
    figures=figures,
    caption=caption,
    null_models={"stream is never reset": never_reset, "stream is always reset": always_reset},
)
