"""How large the outputs are before training, measured and predicted, for each suspect alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.conditions import measured_settings
from analysis.figures.ablation import NOTHING, last
from analysis.load import Results
from analysis.predictions import Predicted, predict_settings
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

RUNG = "finite"
# The suspects that change what theory reads; others start as the first one does.
READ = ("data", "scaling", "model", "activation", "init")


def starts(results: Results, table: pd.DataFrame, criterion: Mapping[str, Any]) -> pd.DataFrame:
    """A row per suspect, alone.

    Theory says of log m, m the second moment of the logits over the probe set in one draw of the
    weights, its mean and standard deviation (rung `finite`).

    Returns
    -------
    pandas.DataFrame
        `suspect`; `like`, whose start theory says it has, or "" where it has its own; `values`
        of m, one a draw; `draws`, how many; `log_mean` of them; `log_predicted`, `log_sd` (of one
        draw) and `log_se` (of the mean over draws); `same`, whether the draws are the first
        suspect's but for what the coarser arithmetic rounds.

    Raises
    ------
    FaninError
        Nothing was measured at initialization.
    """
    found = {cell: pair for pair in measured_settings(results) for cell in pair[0].cell_ids}
    rows: list[dict[str, Any]] = []
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        if alone["cell_ids"][0] not in found:
            raise FaninError(f"{results.folder.root}: {suspect} was not measured before training")
        setting, draws = found[alone["cell_ids"][0]]
        made = {"setting": setting, "layers": last(draws)}
        rows.append({"suspect": suspect, "values": _logits(draws), **made})
    return _beside_theory(results.folder, rows)


def _logits(draws: pd.DataFrame) -> np.ndarray:
    mine = (draws["quantity"] == "preact_m2") & (draws["image"] == -1)
    rows = draws[mine & (draws["layer"] == last(draws))]
    return rows.sort_values(["seed_weights", "draw"])["value"].to_numpy(float)


def _beside_theory(folder: SweepFolder, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Predict each start that theory tells from those before it, once."""
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        read = str({group: row["setting"].config[group] for group in READ})
        row["like"] = distinct.setdefault(read, row)
    settings = [row["setting"] for row in distinct.values()]
    found = predict_settings(folder, settings, keep_others=True)
    theory = {
        row["suspect"]: _log_moments(folder, predicted)
        for row, predicted in zip(distinct.values(), found, strict=True)
    }
    return pd.DataFrame([_told(row, rows[0], *theory[row["like"]["suspect"]]) for row in rows])


def _log_moments(folder: SweepFolder, predicted: Predicted) -> tuple[float, float]:
    """Mean and standard deviation of log m over draws."""
    frame = predicted.frame
    if frame.empty or RUNG not in set(frame["rung"]):
        raise FaninError(f"{folder.root}: no prediction ({predicted.reason or RUNG})")
    mine = (frame["rung"] == RUNG) & (frame["quantity"] == "preact_m2") & (frame["image"] == -1)
    row = frame[mine & (frame["layer"] == last(frame))].iloc[0]
    return math.log(row["value"]) - row["log_sd"] ** 2 / 2, float(row["log_sd"])


def _told(
    row: Mapping[str, Any], first: Mapping[str, Any], log_predicted: float, log_sd: float
) -> dict[str, Any]:
    values, like = row["values"], row["like"]
    dtypes = [each["setting"].config["train"]["dtype"] for each in (row, first)]
    coarsest = max(torch.finfo(getattr(torch, dtype)).eps for dtype in dtypes)
    # Each layer rounds its weights, inputs and outputs, by half an epsilon; a square doubles that.
    rounding = 3 * row["layers"] * coarsest
    return {
        "suspect": row["suspect"],
        "like": "" if like is row else like["suspect"],
        "values": values,
        "draws": len(values),
        "log_mean": float(np.log(values).mean()),
        "log_predicted": log_predicted,
        "log_sd": log_sd,
        "log_se": log_sd / math.sqrt(len(values)),
        "same": row is not first
        and len(values) == len(first["values"])
        and bool(np.allclose(values, first["values"], rtol=rounding, atol=0)),
    }
