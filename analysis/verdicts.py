"""Verdicts on the layers that theory predicts, and coverage of the predicted intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from analysis.theory_comparison import TheoryComparison
from experiments.schema import build_cell
from fanin.inits import WeightShape, weight_layers
from fanin.statistics import agreement
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, ROUNDING, UNDECIDED
from fanin.statistics.coverage import coverage, inside
from fanin.statistics.draw_distribution import LEVELS, SHAPE, interval_probability, log_quantile
from fanin.statistics.draws import step_log_ratios, summarize_draws
from fanin.statistics.log_ratio import LogRatio
from fanin.statistics.pit import probability_transform, uniformity
from fanin.theory.prediction import METHODS

LAYER = ["setting", "quantity", "image", "layer"]
CHAIN = ["setting", "quantity", "image"]  # keys that the layers of one network share
EMPTY_COLUMNS = (  # columns of the frame without rows
    *("label", "layer_name", "theory", "method", "value"),
    *("log_sd", "zero_probability", "log_skew", "draws"),
    *("kind", "test", "verdict", "draws_needed", "p_holm"),
    *("step_p", "step_p_holm", "step_verdict", "sd_ratio", "spread_p_holm"),
)
BACKWARD = ("vjp_m2", "weight_vjp_m2", "grad_m2", "weight_grad_m2")
EXPLAINED, NOT_REJECTED = "explained", "not_rejected"  # outcomes of a setting, besides verdicts
SIMULATED = METHODS[-1]  # the prediction is a mean over networks drawn at random
UNKNOWN = "unknown"  # predictions without the column `method`
WIDE = 64  # channels or units; the first-order finite-width law should hold from here on


def compute_verdicts(
    comparisons: Sequence[TheoryComparison], *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Compare every measured layer with the highest theory that predicts it.

    Parameters
    ----------
    comparisons
        All settings of a sweep. The multiple-testing correction covers all of them together.
    margin, level
        See `fanin.statistics.agreement.verdicts`.

    Returns
    -------
    pandas.DataFrame
        A row per setting (its index in `comparisons`), quantity, image and layer: `label`,
        `layer_name`; the prediction (`theory`, `method`, which is `unknown` in predictions without
        that column, `value`, `log_sd`, `sampling_se`, `zero_probability`, `log_skew`); the draws
        (`draws`, `zeros`, `mean`, `sd` in units of `scale`, `mean_log`, `sd_log`); and the columns
        of `fanin.statistics.agreement.verdicts`. Quantities that no theory predicts have no rows.
    """
    return judge(summarize_layers(comparisons), margin=margin, level=level)


@dataclass(frozen=True)
class LayerSummaries:
    """Predictions and summaries of the draws of every layer of a sweep, before any verdict.

    Attributes
    ----------
    rows
        Rows of `compute_verdicts` without the columns of `fanin.statistics.agreement.verdicts`.
    steps
        Estimates of log(measured / predicted) for the ratio of a layer's moment to that of the
        layer before, one per row.
    """

    rows: pd.DataFrame
    steps: LogRatio


def summarize_layers(comparisons: Sequence[TheoryComparison]) -> LayerSummaries | None:
    """Summarize the draws of every predicted layer; None if no layer is predicted."""
    predictions = _highest_predictions(comparisons)
    if predictions.empty:
        return None
    draws = collect_draws(comparisons, predictions["quantity"].unique())
    rows = summarize_draws(draws, LAYER).merge(predictions, on=LAYER)
    rows["linear_unit"] = _linear_unit(rows)
    rows["value"] = rows["value"].where(rows["linear_unit"].notna() | ~_is_signed(rows))
    rows["layer_order"] = _signal_order(rows)
    draws["layer_order"] = _signal_order(draws)
    steps = step_log_ratios(draws, rows, CHAIN)
    labels = dict(enumerate(comparison.setting.label for comparison in comparisons))
    return LayerSummaries(rows.assign(label=rows["setting"].map(labels)), steps)


def judge(
    summaries: LayerSummaries | None, *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Return the verdict on every layer, as `compute_verdicts` does."""
    if summaries is None:
        return pd.DataFrame(columns=[*LAYER, *EMPTY_COLUMNS])
    columns = agreement.verdicts(summaries.rows, summaries.steps, margin=margin, level=level)
    return pd.concat([summaries.rows, columns], axis=1)


def collect_draws(
    comparisons: Sequence[TheoryComparison], quantities: Sequence[str]
) -> pd.DataFrame:
    """Return all draws: columns `setting`, `quantity`, `image`, `layer`, `draw`, `value`, `stream`.

    `draw` identifies a draw within its setting. `stream` identifies its random numbers; settings
    with the same weight seed share streams.
    """
    frames = []
    for n, comparison in enumerate(comparisons):
        rows = comparison.draws
        rows = rows[(rows["layer"] > 0) & rows["quantity"].isin(quantities)]
        frames.append(
            pd.DataFrame(
                {
                    "setting": n,
                    "quantity": rows["quantity"].astype(object),
                    "image": rows["image"],
                    "layer": rows["layer"],
                    "value": rows["value"],
                    "seed": rows["seed_weights"],
                    "number": rows["draw"],
                }
            )
        )
    joined = pd.concat(frames, ignore_index=True)
    joined["stream"] = joined.groupby(["seed", "number"]).ngroup()
    return joined.assign(draw=joined["stream"]).drop(columns=["seed", "number"])


def count_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarize the verdicts of each setting.

    Parameters
    ----------
    rows
        Output of `compute_verdicts`; `setting`, `verdict` and `method` are used.

    Returns
    -------
    pandas.DataFrame
        Indexed by `setting`: the number of layers with each verdict; `simulated`, the number of
        layers that agree with a simulated prediction; and `outcome`:

        - `disagrees`: some layer disagrees;
        - `not_tested`: no layer was tested;
        - `explained`: every tested layer agrees, and none of their predictions is simulated (a
          network drawn by theory agrees with a drawn network by construction);
        - `not_rejected`: otherwise, so no layer disagrees, but some are undecided or simulated.

    Examples
    --------
    >>> rows = pd.DataFrame({"setting": [0, 1, 1, 2], "method": "exact"})
    >>> rows["verdict"] = ["agrees", "agrees", "undecided", "disagrees"]
    >>> count_verdicts(rows)["outcome"].tolist()
    ['explained', 'not_rejected', 'disagrees']
    """
    order = [AGREES, DISAGREES, UNDECIDED, NOT_TESTED]
    counts = pd.crosstab(rows["setting"], rows["verdict"]).reindex(columns=order, fill_value=0)
    simulated = rows.loc[(rows["verdict"] == AGREES) & ~is_confirmed(rows), "setting"]
    counts[SIMULATED] = simulated.value_counts().reindex(counts.index, fill_value=0)
    outcome = np.select(
        [
            counts[DISAGREES] > 0,
            counts[AGREES] + counts[UNDECIDED] == 0,
            counts[UNDECIDED] + counts[SIMULATED] == 0,
        ],
        [DISAGREES, NOT_TESTED, EXPLAINED],
        NOT_REJECTED,
    )
    return counts.assign(outcome=outcome)


def is_confirmed(rows: pd.DataFrame) -> pd.Series:
    """Return True where a layer agrees with a prediction that is not simulated."""
    return (rows["verdict"] == AGREES) & (rows["method"] != SIMULATED)


def _highest_predictions(comparisons: Sequence[TheoryComparison]) -> pd.DataFrame:
    """Return for each layer the prediction of the last theory in `THEORIES` that has one."""
    frames = [
        comparison.predicted.assign(setting=n)
        for n, comparison in enumerate(comparisons)
        if not comparison.predicted.empty
    ]
    if not frames:
        return pd.DataFrame()
    predictions = pd.concat(frames, ignore_index=True)
    categorical = ["quantity", "layer_name", "theory"]
    predictions[categorical] = predictions[categorical].astype(object)
    if "method" not in predictions:  # predictions of an older version
        predictions["method"] = UNKNOWN
    predictions["method"] = predictions["method"].astype(object).fillna(UNKNOWN)
    predictions = predictions.assign(
        **{name: np.nan for name in SHAPE if name not in predictions}  # of an older version
    )
    # Rows are in the order of the theories.
    predicted = predictions[predictions["value"].notna()]
    columns = ["layer_name", "theory", "method", "value", "sampling_se"]
    return predicted.drop_duplicates(LAYER, keep="last")[[*LAYER, *columns, *SHAPE]]


def _is_signed(rows: pd.DataFrame) -> pd.Series:
    return rows["quantity"].isin(["preact_mean", "input_correlation"])


def _linear_unit(rows: pd.DataFrame) -> np.ndarray:
    """Return the unit of differences of signed quantities; NaN for quantities tested by ratios.

    The unit of a mean is the predicted root mean square.
    """
    moments = rows[rows["quantity"] == "preact_m2"].set_index(["setting", "image", "layer"])
    index = pd.MultiIndex.from_frame(rows[["setting", "image", "layer"]])
    rms = np.sqrt(moments["value"].reindex(index).to_numpy())
    rms = np.where(rms == 0, 1.0, rms)  # a layer of zeros
    return np.select(
        [rows["quantity"] == "preact_mean", rows["quantity"] == "input_correlation"],
        [rms, 1.0],
        np.nan,
    )


def _signal_order(rows: pd.DataFrame) -> pd.Series:
    """Return numbers that sort layers as the signal passes them: backward, the last layer first."""
    return rows["layer"].where(~rows["quantity"].isin(BACKWARD), -rows["layer"])


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
