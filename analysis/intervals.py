"""Do theory's 95 % intervals hold 95 % of a sweep's draws? Forward, backward, and by width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.comparison import Comparison
from analysis.verdicts import BACKWARD, LAYER, measured_draws
from experiments.schema import build_cell
from fanin.inits import WeightShape, weight_layers
from fanin.statistics.agreement import ROUNDING
from fanin.statistics.coverage import Z, coverage, inside

WIDE = 64  # channels or units from which on first-order laws of finite width should hold


def intervals(comparisons: Sequence[Comparison], rows: pd.DataFrame) -> pd.DataFrame:
    """Count a sweep's draws inside the intervals of the rung that predicts their spread.

    Parameters
    ----------
    comparisons
        The sweep's.
    rows
        Their `analysis.verdicts.verdicts`. Layers without scatter, overflowed and zero ones are not
        counted.

    Returns
    -------
    pandas.DataFrame
        A row for `forward` and `backward` (`direction`), over all networks and over those whose
        narrowest layer, logits aside, is `wide` (64 channels or units) or `narrow` (`width`):
        `coverage`, its 95 % interval `low`, `high` (`fanin.statistics.coverage`), how many
        `draws` and `settings`, and `factor`, the median over layers of exp(1.96 log_sd): half of
        an interval's width, so that wide intervals can't pass for good ones. Empty where no
        spread is predicted.
    """
    counted = rows[(rows["kind"] == "tested") & (rows["test"] == "log")]
    counted = counted[counted["log_sd"] > ROUNDING]
    if counted.empty:
        return pd.DataFrame()
    law = counted[[*LAYER, "value", "log_sd"]].rename(columns={"value": "predicted"})
    draws = measured_draws(comparisons, counted["quantity"].unique()).merge(law, on=LAYER)
    values, predicted = np.log(draws["value"].to_numpy()), np.log(draws["predicted"].to_numpy())
    draws["hit"] = inside(values, predicted, draws["log_sd"].to_numpy())
    wide = {n: narrowest(comparisons[n].setting.config) >= WIDE for n in law["setting"].unique()}
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


def narrowest(config: Mapping[str, Any]) -> int:
    """Channels or units of a configured network's narrowest layer, its logits aside."""
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
