"""Verdicts on the layers that theory predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.theory_comparison import TheoryComparison
from fanin.statistics import agreement
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED
from fanin.statistics.draw_distribution import SHAPE
from fanin.statistics.draws import step_log_ratios, summarize_draws
from fanin.statistics.log_ratio import LogRatio
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
