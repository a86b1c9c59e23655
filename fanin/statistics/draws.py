"""Draws of one network: their mean and spread, and what each layer adds to the log-moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fanin.statistics.log_ratio import LogRatio


def summarize_draws(draws: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Summarize the draws of each group.

    Parameters
    ----------
    draws
        A row per draw: `keys` and `value`, a moment of one draw.
    keys
        What draws of one group share.

    Returns
    -------
    pandas.DataFrame
        `keys`; `draws`, how many; `zeros` and `overflowed`, how many of them are 0 or not finite;
        `scale`, the largest magnitude (1 where that is 0 or infinite), and `mean` and `sd` in units
        of it, so that the squares of moments near 1e200 don't overflow; `mean_log` and `sd_log`, of
        the logarithms, NaN where some draw has none.

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
    found = groups.size().rename("draws").reset_index()
    largest = _by_group(magnitude, number).max().to_numpy()
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(value)
        usable = np.isfinite(logarithm)
        scaled = _by_group(np.where(np.isfinite(value), value / scale[number], np.nan), number)
        logs = _by_group(np.where(usable, logarithm, np.nan), number)
    complete = _by_group(usable, number).all().to_numpy()
    return found.assign(
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


def steps(draws: pd.DataFrame, rows: pd.DataFrame, keys: Sequence[str]) -> LogRatio:
    """Compare log(m_l / m_k) with its prediction, k the layer before l.

    One early error shows in the moments of all later layers, and the spread of a late layer's
    moment is that of all layers before it together. The step from one layer to the next has the
    spread of one layer, and steps are independent of each other up to O(1/width) (derivations.md,
    section 5.4): so fewer draws find an error, and they find where it is.

    Going backward the layer before is the one above: `layer` counts downwards there, as the caller
    has it.

    Parameters
    ----------
    draws
        A row per draw: `keys`, `layer_order`, `draw` (what tells draws of one group apart) and `value`.
    rows
        A row per layer, sorted by nothing in particular: `keys`, `layer_order`, `value`, `log_sd`,
        `sampling_se`, as `fanin.statistics.agreement.verdicts` takes them.
    keys
        What the layers of one network, image and quantity share. `layer_order` is the layer's number in
        the order in which the signal passes.

    Returns
    -------
    LogRatio
        An entry for each of `rows`; NaN for the first layer, where the theory predicts no spread,
        and where some draw is zero or infinite. The spread of a step is the draws' own. Theory's
        errors at both ends are added as if they were independent, though an error is mostly carried
        along: the standard error is rather too large.
    """
    index = [*keys, "layer_order"]
    law = _predicted_steps(rows, keys)
    ordered = draws.sort_values([*keys, "draw", "layer_order"], kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        ordered = ordered.assign(value=np.log(ordered["value"].to_numpy(float)))
        adjacent = (
            ordered[[*keys, "draw"]].ne(ordered[[*keys, "draw"]].shift()).any(axis=1).to_numpy()
        )
        added = ordered["value"].diff().to_numpy()
    added = ordered[~adjacent].assign(value=added[~adjacent])
    found = summarize_draws(added, index).set_index(index)
    found = found.reindex(pd.MultiIndex.from_frame(law[index]))
    usable = (found["overflowed"] == 0).to_numpy() & law["expected"].notna().to_numpy()
    scale = np.where(usable, found["scale"], np.nan)
    return LogRatio(
        value=found["mean"].to_numpy() * scale - law["expected"].to_numpy(),
        draw_sd=found["sd"].to_numpy() * scale,
        draws=found["draws"].to_numpy(float),
        theory_se=law["expected_se"].to_numpy(),
    )


def _predicted_steps(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = rows["sampling_se"] / rows["value"]
        level = np.log(rows["value"].to_numpy(float)) - rows["log_sd"] ** 2 / 2
    law = rows[[*keys, "layer_order"]].assign(level=level, relative=relative)
    before = law.assign(layer_order=law["layer_order"] + 1)
    both = law.merge(before, on=[*keys, "layer_order"], how="left", suffixes=("", "_before"))
    return both.assign(
        expected=(both["level"] - both["level_before"]).to_numpy(),
        expected_se=np.hypot(both["relative"], both["relative_before"]).to_numpy(),
    )
