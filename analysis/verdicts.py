"""A verdict for every layer that a sweep measured and theory predicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.comparison import Comparison
from fanin.statistics import agreement
from fanin.statistics.agreement import AGREES, APART, DISAGREES, UNDECIDED
from fanin.statistics.draws import summarized
from fanin.statistics.steps import steps

LAYER = ["setting", "quantity", "image", "layer"]
CHAIN = ["setting", "quantity", "image"]  # what the layers of one walk share
TOLD = (  # even where there is nothing to tell
    *("label", "layer_name", "rung", "value", "log_sd", "kind", "test", "verdict", "needed"),
    *("p_holm", "step_p", "step_p_holm", "step_verdict", "sd_ratio", "spread_p_holm"),
)
BACKWARD = ("vjp_m2", "weight_vjp_m2", "grad_m2", "weight_grad_m2")


def verdicts(
    comparisons: Sequence[Comparison], *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Hold every measured layer against the highest rung that predicts it.

    Parameters
    ----------
    comparisons
        A sweep's; false alarms are corrected for over all of them together.
    margin, level
        As in `fanin.statistics.agreement.verdicts`.

    Returns
    -------
    pandas.DataFrame
        A row per setting (its place in `comparisons`), quantity, image and layer: `label`,
        `layer_name`; the prediction (`rung`, `value`, `log_sd`, `sampling_se`); the draws
        (`draws`, `mean`, `sd` in units of `scale`, `mean_log`, `sd_log`); and the columns of
        `fanin.statistics.agreement.verdicts`. Quantities that no rung predicts are left out.
    """
    law = _highest(comparisons)
    if law.empty:
        return pd.DataFrame(columns=[*LAYER, *TOLD])
    draws = measured_draws(comparisons, law["quantity"].unique())
    rows = summarized(draws, LAYER).merge(law, on=LAYER)
    rows["unit"] = _unit(rows)
    rows["value"] = rows["value"].where(rows["unit"].notna() | ~_signed(rows))
    rows["place"] = _place(rows)
    draws["place"] = _place(draws)
    found = agreement.verdicts(rows, steps(draws, rows, CHAIN), margin=margin, level=level)
    labels = dict(enumerate(comparison.setting.label for comparison in comparisons))
    return pd.concat([rows.assign(label=rows["setting"].map(labels)), found], axis=1)


def measured_draws(comparisons: Sequence[Comparison], quantities: Sequence[str]) -> pd.DataFrame:
    """All draws of all settings: `setting`, `quantity`, `image`, `layer`, `draw`, `value`.

    `draw` tells draws of one setting apart, `stream` names the random numbers that made one, which
    settings of one weight seed share.
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


def by_setting(rows: pd.DataFrame) -> pd.DataFrame:
    """What becomes of each setting as a whole.

    Returns
    -------
    pandas.DataFrame
        Indexed by `setting`: how many layers got each verdict, and `outcome`: `disagrees` where
        some layer does, `apart` where nothing was tested, else `explained`.

    Examples
    --------
    >>> rows = pd.DataFrame({"setting": [0, 0, 1], "verdict": ["agrees", "undecided", "disagrees"]})
    >>> by_setting(rows)["outcome"].tolist()
    ['explained', 'disagrees']
    """
    order = [AGREES, DISAGREES, UNDECIDED, APART]
    counts = pd.crosstab(rows["setting"], rows["verdict"]).reindex(columns=order, fill_value=0)
    tested = counts[AGREES] + counts[UNDECIDED] > 0
    outcome = np.select([counts[DISAGREES] > 0, tested], [DISAGREES, "explained"], APART)
    return counts.assign(outcome=outcome)


def _highest(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Of each layer's predictions the last: rungs stand in the order in which they rise."""
    frames = [
        comparison.predicted.assign(setting=n)
        for n, comparison in enumerate(comparisons)
        if not comparison.predicted.empty
    ]
    if not frames:
        return pd.DataFrame()
    law = pd.concat(frames, ignore_index=True)
    words = ["quantity", "layer_name", "rung"]
    law[words] = law[words].astype(object)
    law = law[law["value"].notna()].drop_duplicates(LAYER, keep="last")
    columns = [*LAYER, "layer_name", "rung", "value", "log_sd", "sampling_se"]
    return law[columns]


def _signed(rows: pd.DataFrame) -> pd.Series:
    return rows["quantity"].isin(["preact_mean", "input_correlation"])


def _unit(rows: pd.DataFrame) -> np.ndarray:
    """A mean is told in units of the root of its second moment; NaN where ratios serve."""
    moments = rows[rows["quantity"] == "preact_m2"].set_index(["setting", "image", "layer"])
    where = pd.MultiIndex.from_frame(rows[["setting", "image", "layer"]])
    rms = np.sqrt(moments["value"].reindex(where).to_numpy())
    rms = np.where(rms == 0, 1.0, rms)  # of a layer that is zero altogether
    return np.select(
        [rows["quantity"] == "preact_mean", rows["quantity"] == "input_correlation"],
        [rms, 1.0],
        np.nan,
    )


def _place(rows: pd.DataFrame) -> pd.Series:
    """The layer's number in the order in which the signal passes."""
    return rows["layer"].where(~rows["quantity"].isin(BACKWARD), -rows["layer"])
