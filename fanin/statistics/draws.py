"""Summaries of the draws of a network: mean, spread, and ratios of successive layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fanin.statistics.draw_distribution import SHAPE, predicted_mean_log
from fanin.statistics.log_ratio import LogRatio


def summarize_draws(draws: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Summarize the draws of each group.

    Parameters
    ----------
    draws
        One row per draw, with the columns `keys` and `value`, a moment of one draw.
    keys
        Columns that define the groups.

    Returns
    -------
    pandas.DataFrame
        One row per group: `keys`; the numbers of `draws`, of `zeros` and of non-finite values
        (`overflowed`); `scale`, the largest magnitude (1 if that is 0 or infinite); `mean` and `sd`
        in units of `scale`, because squares of moments near 1e200 would overflow; `mean_log` and
        `sd_log` of the logarithms of the draws that are not 0, NaN if a draw is negative or not
        finite, or if all are 0.

    Examples
    --------
    >>> frame = pd.DataFrame({"layer": [1, 1], "value": [1.0, np.e**2]})
    >>> summarize_draws(frame, ["layer"])[["draws", "mean_log", "sd_log"]].round(3).values.tolist()
    [[2.0, 1.0, 1.414]]
    """
    value = draws["value"].to_numpy(float)
    magnitude = np.abs(value)
    groups = draws.groupby(list(keys), observed=True, sort=True)
    number = groups.ngroup().to_numpy()
    summary = groups.size().rename("draws").reset_index()
    largest = _by_group(magnitude, number).max().to_numpy()
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(value)
        usable = np.isfinite(logarithm)
        scaled = _by_group(np.where(np.isfinite(value), value / scale[number], np.nan), number)
        logs = _by_group(np.where(usable, logarithm, np.nan), number)
    complete = _by_group(usable | (value == 0), number).all().to_numpy()
    return summary.assign(
        zeros=_by_group(value == 0, number).sum().to_numpy(),
        overflowed=_by_group(~np.isfinite(value), number).sum().to_numpy(),
        scale=scale,
        mean=scaled.mean().to_numpy(),
        sd=scaled.std(ddof=1).to_numpy(),
        mean_log=np.where(complete, logs.mean().to_numpy(), np.nan),
        sd_log=np.where(complete, logs.std(ddof=1).to_numpy(), np.nan),
    )


def _by_group(values: np.ndarray, number: np.ndarray) -> pd.api.typing.SeriesGroupBy:
    return pd.Series(values).groupby(number)


def step_log_ratios(draws: pd.DataFrame, rows: pd.DataFrame, keys: Sequence[str]) -> LogRatio:
    """Compare log(m_l / m_k) with its prediction, where layer k is the one before layer l.

    An error in an early layer changes the moments of all later layers, and the spread of a late
    layer's moment accumulates the spread of all layers before it. The step from one layer to the
    next has only the spread of one layer, and steps are independent up to O(1/width)
    (derivations.md, section 5.4). So steps detect an error with fewer draws, and locate it.

    Parameters
    ----------
    draws
        One row per draw: `keys`, `layer_order`, `draw` (its index within the group) and `value`.
    rows
        One row per layer, in any order: `keys`, `layer_order`, `value`, `log_sd`, `log_skew`,
        `sampling_se` and `zero_probability`, as for `fanin.statistics.agreement.verdicts`.
    keys
        Columns that define one network, image and quantity. `layer_order` numbers its layers in
        the direction of propagation: the last layer comes first in the backward pass.

    Returns
    -------
    LogRatio
        One entry per row; NaN for the first layer, if the theory predicts no spread, and if a draw
        is zero or infinite. `draw_sd` is the standard deviation over the measured draws.
        `theory_se` adds the errors of both layers as if they were independent. In fact these errors
        mostly cancel, so `theory_se` is too large.
    """
    index = [*keys, "layer_order"]
    predicted = _predicted_steps(rows, keys)
    ordered = draws.sort_values([*keys, "draw", "layer_order"], kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        ordered = ordered.assign(value=np.log(ordered["value"].to_numpy(float)))
        is_first = (
            ordered[[*keys, "draw"]].ne(ordered[[*keys, "draw"]].shift()).any(axis=1).to_numpy()
        )
        differences = ordered["value"].diff().to_numpy()
    steps = ordered[~is_first].assign(value=differences[~is_first])
    summary = summarize_draws(steps, index).set_index(index)
    summary = summary.reindex(pd.MultiIndex.from_frame(predicted[index]))
    usable = (summary["overflowed"] == 0).to_numpy() & predicted["step"].notna().to_numpy()
    scale = np.where(usable, summary["scale"], np.nan)
    return LogRatio(
        value=summary["mean"].to_numpy() * scale - predicted["step"].to_numpy(),
        draw_sd=summary["sd"].to_numpy() * scale,
        draws=summary["draws"].to_numpy(float),
        theory_se=predicted["step_se"].to_numpy(),
    )


def _predicted_steps(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative_se = rows["sampling_se"] / rows["value"]
        shape = rows[[*SHAPE]].fillna({"zero_probability": 0.0, "log_skew": 0.0})
        mean_log = predicted_mean_log(np.log(rows["value"].to_numpy()), *shape.to_numpy(float).T)
    layers = rows[[*keys, "layer_order"]].assign(mean_log=mean_log, relative_se=relative_se)
    previous = layers.assign(layer_order=layers["layer_order"] + 1)
    pairs = layers.merge(
        previous, on=[*keys, "layer_order"], how="left", suffixes=("", "_previous")
    )
    return pairs.assign(
        step=(pairs["mean_log"] - pairs["mean_log_previous"]).to_numpy(),
        step_se=np.hypot(pairs["relative_se"], pairs["relative_se_previous"]).to_numpy(),
    )
