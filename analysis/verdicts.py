"""Verdicts on the layers that theory predicts, and coverage of the predicted intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.theory_comparison import TheoryComparison
from experiments.schema import build_cell
from fanin.inits import WeightShape, weight_layers
from fanin.statistics import agreement
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, ROUNDING, UNDECIDED
from fanin.statistics.coverage import Z, coverage, inside
from fanin.statistics.draws import step_log_ratios, summarize_draws

LAYER = ["setting", "quantity", "image", "layer"]
CHAIN = ["setting", "quantity", "image"]  # keys that the layers of one network share
EMPTY_COLUMNS = (  # columns of the frame without rows
    *("label", "layer_name", "theory", "value", "log_sd", "kind", "test", "verdict"),
    *(
        "draws_needed",
        "p_holm",
        "step_p",
        "step_p_holm",
        "step_verdict",
        "sd_ratio",
        "spread_p_holm",
    ),
)
BACKWARD = ("vjp_m2", "weight_vjp_m2", "grad_m2", "weight_grad_m2")
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
        One row for each combination of `setting` (an index in `comparisons`), `quantity`, `image`
        and `layer`. Further columns: `label`, `layer_name`; the prediction (`theory`, `value`,
        `log_sd`, `sampling_se`); the draws
        (`draws`, `mean`, `sd` in units of `scale`, `mean_log`, `sd_log`); and the columns of
        `fanin.statistics.agreement.verdicts`. Quantities that no theory predicts have no rows.
    """
    predictions = _highest_predictions(comparisons)
    if predictions.empty:
        return pd.DataFrame(columns=[*LAYER, *EMPTY_COLUMNS])
    draws = collect_draws(comparisons, predictions["quantity"].unique())
    rows = summarize_draws(draws, LAYER).merge(predictions, on=LAYER)
    rows["linear_unit"] = _linear_unit(rows)
    rows["value"] = rows["value"].where(rows["linear_unit"].notna() | ~_is_signed(rows))
    rows["layer_order"] = _signal_order(rows)
    draws["layer_order"] = _signal_order(draws)
    verdict_columns = agreement.verdicts(
        rows, step_log_ratios(draws, rows, CHAIN), margin=margin, level=level
    )
    labels = dict(enumerate(comparison.setting.label for comparison in comparisons))
    return pd.concat([rows.assign(label=rows["setting"].map(labels)), verdict_columns], axis=1)


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

    Returns
    -------
    pandas.DataFrame
        Indexed by `setting`: the number of layers with each verdict, and `outcome`: `disagrees` if
        some layer disagrees, `not_tested` if no layer was tested, else `explained`.

    Examples
    --------
    >>> rows = pd.DataFrame({"setting": [0, 0, 1], "verdict": ["agrees", "undecided", "disagrees"]})
    >>> count_verdicts(rows)["outcome"].tolist()
    ['explained', 'disagrees']
    """
    order = [AGREES, DISAGREES, UNDECIDED, NOT_TESTED]
    counts = pd.crosstab(rows["setting"], rows["verdict"]).reindex(columns=order, fill_value=0)
    tested = counts[AGREES] + counts[UNDECIDED] > 0
    outcome = np.select([counts[DISAGREES] > 0, tested], [DISAGREES, "explained"], NOT_TESTED)
    return counts.assign(outcome=outcome)


def _highest_predictions(comparisons: Sequence[TheoryComparison]) -> pd.DataFrame:
    """Return the prediction of the highest theory for each layer (rows are in theory order)."""
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
    predicted = predictions[predictions["value"].notna()]
    columns = [*LAYER, "layer_name", "theory", "value", "log_sd", "sampling_se"]
    return predicted.drop_duplicates(LAYER, keep="last")[columns]


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
    """Compute the share of draws that lie inside the predicted 95 % intervals.

    Parameters
    ----------
    comparisons
        All settings of a sweep.
    rows
        Output of `compute_verdicts`. Constant, zero and overflowed layers are not counted.

    Returns
    -------
    pandas.DataFrame
        One row for each combination of `direction` (`forward`, `backward`) and `width` of the
        networks: `all`, `wide` (the narrowest layer before the logits has 64 or more channels or
        units) and `narrow`. Columns: `coverage`, its 95 % interval `low`, `high`
        (`fanin.statistics.coverage`), the numbers of `draws` and `settings`, and `factor`. An
        interval extends from its center by this factor, exp(1.96 log_sd), in both directions
        (median over layers); if it is large, good coverage means little. Empty if no spread is
        predicted.
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
            log_sd = _select(layers, is_wide, wide, backward)["log_sd"]
            share = coverage(*(selected[c].to_numpy() for c in ("hit", "setting", "stream")))
            summaries.append(
                {
                    "direction": direction,
                    "width": width,
                    "coverage": share.share,
                    "low": share.low,
                    "high": share.high,
                    "draws": share.draws,
                    "settings": share.cells,
                    "factor": np.exp(Z * log_sd.median()),
                    "misses": share.is_outside(),
                }
            )
    frame = pd.DataFrame(summaries)
    return frame[frame["draws"] > 0].reset_index(drop=True)


def layers_with_spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `LAYER`, `predicted` and `log_sd` of the tested layers whose spread is predicted."""
    tested = rows[(rows["kind"] == "tested") & (rows["test"] == "log")]
    tested = tested[tested["log_sd"] > ROUNDING]
    return tested[[*LAYER, "value", "log_sd"]].rename(columns={"value": "predicted"})


def mark_interval_hits(
    comparisons: Sequence[TheoryComparison], layers: pd.DataFrame
) -> pd.DataFrame:
    """Return the draws of `layers` (`layers_with_spread`); `hit` is True inside the interval."""
    draws = collect_draws(comparisons, layers["quantity"].unique()).merge(layers, on=LAYER)
    values, predicted = np.log(draws["value"].to_numpy()), np.log(draws["predicted"].to_numpy())
    return draws.assign(hit=inside(values, predicted, draws["log_sd"].to_numpy()))


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
