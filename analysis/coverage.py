"""Coverage of the predicted intervals by direction, width and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from analysis.theory_comparison import TheoryComparison
from analysis.verdicts import BACKWARD, LAYER, collect_draws
from experiments.schema import build_cell
from fanin.inits import WeightShape, weight_layers
from fanin.statistics.agreement import ROUNDING
from fanin.statistics.coverage import coverage, inside
from fanin.statistics.draw_distribution import LEVELS, SHAPE, interval_probability, log_quantile
from fanin.statistics.pit import probability_transform, uniformity
from fanin.theory.prediction import METHODS

WIDE = 64  # channels or units; the first-order finite-width law should hold from here on


def interval_coverage(comparisons: Sequence[TheoryComparison], rows: pd.DataFrame) -> pd.DataFrame:
    """Compare the draws of each direction and width with their predicted distributions.

    Parameters
    ----------
    comparisons
        All settings of a sweep.
    rows
        Output of `compute_verdicts`. Constant, zero and overflowed layers are not counted.

    Returns
    -------
    pandas.DataFrame
        A row per `direction` (`forward`, `backward`) and `width` of the networks: `all`, `wide`
        (the narrowest layer before the logits has 64 or more channels or units) and `narrow`.
        Empty if no spread is predicted. Columns:

        - `coverage`, the share of draws inside the predicted 95 % intervals, its 95 % interval
          `low`, `high` (`fanin.statistics.coverage`), and the numbers of `draws` and `settings`;
        - `misses`, True if that interval excludes the probability of the predicted intervals
          (95 %, or more if moments can be 0) by more than 2 %;
        - `factor`, the median over layers of half the width of an interval as a factor, which is
          exp(1.96 log_sd) for a log-normal moment: good coverage by wide intervals means little;
        - `sd_ratio`, the median over layers of predicted / measured standard deviation of the
          log-moment, corrected for the number of draws (0.9 to 1.1 is expected);
        - `pit_distance`, `pit_p`: Kolmogorov-Smirnov distance of the draws' probability integral
          transform from the uniform distribution, and its p-value (`fanin.statistics.pit`).
    """
    layers = layers_with_spread(rows)
    if layers.empty:
        return pd.DataFrame()
    draws = mark_interval_hits(comparisons, layers)
    is_wide = {
        n: narrowest_width(comparisons[n].setting.config) >= WIDE
        for n in layers["setting"].unique()
    }
    summaries = []
    for width, wide in (("all", None), ("wide", True), ("narrow", False)):
        for direction, backward in (("forward", False), ("backward", True)):
            selected = _select(draws, is_wide, wide, backward)
            if len(selected):
                keys = {"direction": direction, "width": width}
                by_layer = _select(layers, is_wide, wide, backward)
                summaries.append(keys | _calibration(selected, by_layer))
    return pd.DataFrame(summaries)


def coverage_by(
    comparisons: Sequence[TheoryComparison], rows: pd.DataFrame, key: str = "method"
) -> pd.DataFrame:
    """Compare the draws with their predicted distributions, by direction and by a column of `rows`.

    Parameters
    ----------
    comparisons, rows
        As for `interval_coverage`.
    key
        Column of `rows` that defines the groups. Methods are in the order of `METHODS`, other
        values in the order of their first layer.

    Returns
    -------
    pandas.DataFrame
        A row per `direction` and value of `key`, with the columns of `interval_coverage` and
        `layers`, the number of tested layers. Empty if no spread is predicted.
    """
    layers = layers_with_spread(rows)
    if layers.empty:
        return pd.DataFrame()
    layers[key] = rows.loc[layers.index, key]
    draws = mark_interval_hits(comparisons, layers)
    # A stable sort: values that are no method keep their order.
    rank = {method: n for n, method in enumerate(METHODS)}
    values = sorted(layers[key].unique(), key=lambda value: rank.get(value, len(rank)))
    summaries = []
    for direction, backward in (("forward", False), ("backward", True)):
        for value in values:
            is_group = layers[key] == value
            by_layer = layers[is_group & (layers["quantity"].isin(BACKWARD) == backward)]
            selected = draws[draws[key] == value]
            selected = selected[selected["quantity"].isin(BACKWARD) == backward]
            if len(selected):
                keys = {"direction": direction, key: value, "layers": len(by_layer)}
                summaries.append(keys | _calibration(selected, by_layer))
    return pd.DataFrame(summaries)


def _calibration(draws: pd.DataFrame, layers: pd.DataFrame) -> dict[str, Any]:
    """Return the columns of `interval_coverage` for a group of draws and their layers."""
    clusters = draws["setting"].to_numpy(), draws["stream"].to_numpy()
    expected = interval_probability(draws["zero_probability"])
    share = coverage(draws["hit"].to_numpy(), *clusters, expected)
    pit = uniformity(draws["transformed"].to_numpy(), *clusters)
    return {
        "coverage": share.share,
        "low": share.low,
        "high": share.high,
        "draws": share.draws,
        "settings": share.cells,
        "factor": np.exp(_half_width(layers).median()),
        "sd_ratio": _predicted_to_measured(layers),
        "pit_distance": pit.distance,
        "pit_p": pit.p,
        "misses": share.is_outside(),
    }


def _half_width(layers: pd.DataFrame) -> pd.Series:
    """Return half the difference of the 97.5 % and 2.5 % log-quantiles of draws that are not 0."""
    low, high = (log_quantile(p, 0.0, layers["log_sd"], layers["log_skew"]) for p in LEVELS)
    return pd.Series((high - low) / 2)


def _predicted_to_measured(layers: pd.DataFrame) -> float:
    """Return the median ratio of standard deviations, unbiased for normal draws.

    A sample variance of n draws has the distribution of chi-squared/(n - 1), whose median is not 1.
    """
    dof = layers["n_draws"] - layers["zeros"] - 1
    median_variance = stats.chi2.median(dof) / dof
    return float((np.sqrt(median_variance) / layers["measured_sd_ratio"]).median())


def layers_with_spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the tested layers whose spread is predicted.

    Columns: `LAYER`, `predicted`, `log_sd`, `zero_probability`, `log_skew`, `measured_sd_ratio`
    (measured to predicted), `n_draws` and `zeros`, the number of draws that are 0.
    """
    tested = rows[(rows["kind"] == "tested") & (rows["test"] == "log")]
    tested = tested[tested["log_sd"] > ROUNDING]
    names = {"value": "predicted", "sd_ratio": "measured_sd_ratio", "draws": "n_draws"}
    columns = [*LAYER, *SHAPE, "zeros", *names]
    tested = tested.reindex(columns=columns).rename(columns=names)  # no column without predictions
    # Unknown in predictions of an older version.
    return tested.fillna({"zero_probability": 0.0, "log_skew": 0.0})


def mark_interval_hits(
    comparisons: Sequence[TheoryComparison], layers: pd.DataFrame
) -> pd.DataFrame:
    """Return the draws of `layers` (`layers_with_spread`).

    `hit` is True inside the 95 % interval; `transformed` is the draw's quantile in its predicted
    distribution.
    """
    draws = collect_draws(comparisons, layers["quantity"].unique()).merge(layers, on=LAYER)
    with np.errstate(divide="ignore"):  # a draw of 0
        values = np.log(draws["value"].to_numpy())
    predicted = np.log(draws["predicted"].to_numpy())
    distribution = draws[[*SHAPE]].to_numpy(float).T
    return draws.assign(
        hit=inside(values, predicted, *distribution),
        transformed=probability_transform(values, predicted, *distribution),
    )


def narrowest_width(config: Mapping[str, Any]) -> int:
    """Return the width (channels or units) of the narrowest layer before the logits."""
    with torch.random.fork_rng(devices=[]):  # building a network uses torch's global generator
        network = build_cell(config).network()
    layers = list(weight_layers(network).values())
    return min(WeightShape.of(layer).out_features for layer in layers[:-1] or layers)


def _select(
    rows: pd.DataFrame, is_wide: Mapping[int, bool], wide: bool | None, backward: bool
) -> pd.DataFrame:
    """Select rows by direction and, unless `wide` is None, by the width of the network."""
    selected = rows["quantity"].isin(BACKWARD) == backward
    if wide is not None:
        selected &= rows["setting"].map(is_wide) == wide
    return rows[selected]
