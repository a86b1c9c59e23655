"""Verdicts on every layer that theory predicts, and the coverage of theory's intervals."""

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
from fanin.statistics.draws import steps, summarize_draws

LAYER = ["setting", "quantity", "image", "layer"]
CHAIN = ["setting", "quantity", "image"]  # what the layers of one walk share
TOLD = (  # even where there is nothing to tell
    *("label", "layer_name", "theory", "value", "log_sd", "kind", "test", "verdict", "needed"),
    *("p_holm", "step_p", "step_p_holm", "step_verdict", "sd_ratio", "spread_p_holm"),
)
BACKWARD = ("vjp_m2", "weight_vjp_m2", "grad_m2", "weight_grad_m2")
WIDE = 64  # channels or units from which on first-order laws of finite width should hold


def compute_verdicts(
    comparisons: Sequence[TheoryComparison], *, margin: float = 1.1, level: float = 0.05
) -> pd.DataFrame:
    """Hold every measured layer against the highest theory that predicts it.

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
        `layer_name`; the prediction (`theory`, `value`, `log_sd`, `sampling_se`); the draws
        (`draws`, `mean`, `sd` in units of `scale`, `mean_log`, `sd_log`); and the columns of
        `fanin.statistics.agreement.verdicts`. Quantities that no theory predicts are left out.
    """
    law = _highest(comparisons)
    if law.empty:
        return pd.DataFrame(columns=[*LAYER, *TOLD])
    draws = collect_draws(comparisons, law["quantity"].unique())
    rows = summarize_draws(draws, LAYER).merge(law, on=LAYER)
    rows["linear_unit"] = _unit(rows)
    rows["value"] = rows["value"].where(rows["linear_unit"].notna() | ~_signed(rows))
    rows["layer_order"] = _place(rows)
    draws["layer_order"] = _place(draws)
    found = agreement.verdicts(rows, steps(draws, rows, CHAIN), margin=margin, level=level)
    labels = dict(enumerate(comparison.setting.label for comparison in comparisons))
    return pd.concat([rows.assign(label=rows["setting"].map(labels)), found], axis=1)


def collect_draws(
    comparisons: Sequence[TheoryComparison], quantities: Sequence[str]
) -> pd.DataFrame:
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


def count_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarize the verdicts of each setting.

    Returns
    -------
    pandas.DataFrame
        Indexed by `setting`: how many layers got each verdict, and `outcome`: `disagrees` where
        some layer does, `not_tested` where nothing was tested, else `explained`.

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


def _highest(comparisons: Sequence[TheoryComparison]) -> pd.DataFrame:
    """Of each layer's predictions the last: theories stand in the order in which they rise."""
    frames = [
        comparison.predicted.assign(setting=n)
        for n, comparison in enumerate(comparisons)
        if not comparison.predicted.empty
    ]
    if not frames:
        return pd.DataFrame()
    law = pd.concat(frames, ignore_index=True)
    words = ["quantity", "layer_name", "theory"]
    law[words] = law[words].astype(object)
    law = law[law["value"].notna()].drop_duplicates(LAYER, keep="last")
    columns = [*LAYER, "layer_name", "theory", "value", "log_sd", "sampling_se"]
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


def interval_coverage(comparisons: Sequence[TheoryComparison], rows: pd.DataFrame) -> pd.DataFrame:
    """Count a sweep's draws inside the intervals of the theory that predicts their spread.

    Parameters
    ----------
    comparisons
        The sweep's.
    rows
        Their `analysis.verdicts.compute_verdicts`. Layers without scatter, overflowed and zero ones are not
        counted.

    Returns
    -------
    pandas.DataFrame
        A row for `forward` and `backward` (`direction`), over all networks and over those whose
        narrowest_width layer, logits aside, is `wide` (64 channels or units) or `narrow` (`width`):
        `coverage`, its 95 % interval `low`, `high` (`fanin.statistics.coverage`), how many
        `draws` and `settings`, and `factor`, the median over layers of exp(1.96 log_sd): half of
        an interval's width, so that wide intervals can't pass for good ones. Empty where no
        spread is predicted.
    """
    law = layers_with_spread(rows)
    if law.empty:
        return pd.DataFrame()
    draws = mark_interval_hits(comparisons, law)
    wide = {
        n: narrowest_width(comparisons[n].setting.config) >= WIDE for n in law["setting"].unique()
    }
    found = []
    for width, of_width in (("all", None), ("wide", True), ("narrow", False)):
        for direction, backward in (("forward", False), ("backward", True)):
            mine = _of(draws, wide, of_width, backward)
            layers = _of(law, wide, of_width, backward)
            share = coverage(*(mine[c].to_numpy() for c in ("hit", "setting", "stream")))
            found.append(
                {
                    "direction": direction,
                    "width": width,
                    "coverage": share.share,
                    "low": share.low,
                    "high": share.high,
                    "draws": share.draws,
                    "settings": share.cells,
                    "factor": np.exp(Z * layers["log_sd"].median()),
                    "misses": share.misses(),
                }
            )
    frame = pd.DataFrame(found)
    return frame[frame["draws"] > 0].reset_index(drop=True)


def layers_with_spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `LAYER`, `predicted` and `log_sd` of the tested layers whose spread is predicted."""
    tested = rows[(rows["kind"] == "tested") & (rows["test"] == "log")]
    tested = tested[tested["log_sd"] > ROUNDING]
    return tested[[*LAYER, "value", "log_sd"]].rename(columns={"value": "predicted"})


def mark_interval_hits(comparisons: Sequence[TheoryComparison], law: pd.DataFrame) -> pd.DataFrame:
    """Return every draw of the layers of `law` (`layers_with_spread`) with `hit`: in its interval."""
    draws = collect_draws(comparisons, law["quantity"].unique()).merge(law, on=LAYER)
    values, predicted = np.log(draws["value"].to_numpy()), np.log(draws["predicted"].to_numpy())
    return draws.assign(hit=inside(values, predicted, draws["log_sd"].to_numpy()))


def narrowest_width(config: Mapping[str, Any]) -> int:
    """Channels or units of a configured network's narrowest_width layer, its logits aside."""
    with torch.random.fork_rng(devices=[]):  # building a network draws from torch's own stream
        network = build_cell(config).network()
    layers = list(weight_layers(network).values())
    return min(WeightShape.of(layer).out_features for layer in layers[:-1] or layers)


def _of(
    rows: pd.DataFrame, wide: Mapping[int, bool], of_width: bool | None, backward: bool
) -> pd.DataFrame:
    mine = rows["quantity"].isin(BACKWARD) == backward
    if of_width is not None:
        mine &= rows["setting"].map(wide) == of_width
    return rows[mine]
