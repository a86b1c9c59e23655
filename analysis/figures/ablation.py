"""Suspects and remedies: assign a sweep's cells to combinations of the two, and measure them.

A suspect is a config change that is suspected to cause large outputs; a remedy is a config change
that is suspected to cure them. The sweep's criterion lists both, by the config keys they set:

    healthy: {init: he_normal, optim.lr: 0.05}
    suspects: {large init: {init: normal, init.std: 1.0}}
    remedies: {nothing: {}, He init: {init: he_normal}}
    overrides: {large init: {}}     # remedies that set other keys for this suspect

The first suspect must be the healthy network, or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from analysis.figures.query import select
from analysis.load import Results
from analysis.predictions import SettingPrediction, predict_settings
from analysis.settings import measured_settings
from experiments.schema import shared_keys
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

Change = Mapping[str, Any]
Kind = Literal["distinct", "redundant", "reverted", "absent"]
# `sweep.size=paper` replaces these, so they do not distinguish suspects.
DATA_KEYS = ("data", "data.side")
NOTHING = "nothing"  # name of the remedy that changes nothing
THEORY = "finite_width"
# Config groups that a prediction depends on. Suspects with equal groups share a prediction.
PREDICTION_KEYS = ("data", "scaling", "model", "activation", "init")


@dataclass(frozen=True)
class Combination:
    """One suspect with one remedy.

    Attributes
    ----------
    suspect, remedy
        Names in the criterion.
    kind
        `distinct`: the combination has its own cells. `redundant`: the suspect already includes the
        remedy, so the cells are those of the suspect alone. `reverted`: the remedy undoes the
        suspect, so the cells are those of the first suspect. `absent`: the sweep has no such cells.
    cell_ids
        One cell per seed.
    """

    suspect: str
    remedy: str
    kind: Kind
    cell_ids: tuple[str, ...]


def apply_change(base: Change, change: Change) -> dict[str, Any]:
    """Return a network's config keys after a change.

    Selecting another option of a group removes the keys of the previous option, except the keys
    that all options of the group share.

    Examples
    --------
    >>> apply_change({"init": "normal", "init.std": 1.0, "init.gain": 2.0}, {"init": "he_normal"})
    {'init': 'he_normal', 'init.gain': 2.0}
    """
    return {key: value for key, value in base.items() if not _is_replaced(key, change)} | {**change}


def _is_replaced(key: str, change: Change) -> bool:
    group, _, rest = key.partition(".")
    return bool(rest) and group in change and rest.split(".")[0] not in shared_keys(group)


def combinations(results: Results, criterion: Mapping[str, Any]) -> list[Combination]:
    """Return every suspect with every remedy, in the criterion's order.

    Raises
    ------
    FaninError
        The sweep has a cell that matches no suspect and remedy.
    """
    overrides = {cell: record["assignment"] for cell, record in results.plan.items()}
    keys = _keys(criterion)
    cells_by_signature: dict[frozenset[tuple[str, Any]], list[str]] = {}
    for cell in results.cells["cell_id"]:
        change = {key: value for key, value in overrides[cell].items() if key in keys}
        signature = _signature(apply_change(criterion["healthy"], change))
        cells_by_signature.setdefault(signature, []).append(str(cell))
    result = list(_combinations(criterion, cells_by_signature))
    assigned = {cell for combination in result for cell in combination.cell_ids}
    for cell in results.cells["cell_id"]:
        if cell not in assigned:
            raise FaninError(
                f"{results.folder.root}: cell {cell} matches no suspect and remedy of the sweep's "
                "criterion; add its change under 'suspects' or 'remedies'"
            )
    return result


def _combinations(
    criterion: Mapping[str, Any],
    cells_by_signature: Mapping[frozenset[tuple[str, Any]], Sequence[str]],
) -> Iterator[Combination]:
    overrides = criterion.get("overrides", {})
    first_row: set[frozenset[tuple[str, Any]]] = set()
    for suspect, change in criterion["suspects"].items():
        network = apply_change(criterion["healthy"], change)
        row = {
            remedy: _signature(
                apply_change(network, overrides.get(suspect, {}).get(remedy, remedy_change))
            )
            for remedy, remedy_change in criterion["remedies"].items()
        }
        alone = row[NOTHING]
        first_row = first_row or set(row.values())
        for remedy, signature in row.items():
            cells = tuple(cells_by_signature.get(signature, ()))
            kind: Kind = "distinct"
            if not cells:
                kind = "absent"
            elif remedy != NOTHING and signature == alone:
                kind = "redundant"
            elif signature in first_row and alone not in first_row:
                kind = "reverted"
            yield Combination(suspect, remedy, kind, cells)


def _keys(criterion: Mapping[str, Any]) -> set[str]:
    changes = [criterion["healthy"], *criterion["suspects"].values()]
    changes += criterion["remedies"].values()
    for override in criterion.get("overrides", {}).values():
        changes += override.values()
    return {key for change in changes for key in change}


def _signature(network: Change) -> frozenset[tuple[str, Any]]:
    return frozenset((key, value) for key, value in network.items() if key not in DATA_KEYS)


def measure_outputs(results: Results) -> pd.DataFrame:
    """Collect the root mean square of each cell's logits, and its outcome.

    Returns
    -------
    pandas.DataFrame
        Indexed by `cell_id`. Root mean square of the trained network's logits over the probe set:
        `start` (before training), `largest` (over all probed steps), `end` (after the last step;
        NaN if the cell diverged). `output`: root mean square of the network's output, after its
        head, at the last probed step. `has_head`: True if the head is not `none`. `diverged`,
        `accuracy`. `explained`: share of the targets' variance that a regression explains (NaN for
        a classifier).
    """
    layers, cells = results.layers, results.cells.set_index("cell_id")
    trained = select(layers, draw=0, image=-1)
    logits = select(trained, quantity="preact_m2", layer=output_layer(layers))
    by_step = logits.sort_values("step").groupby("cell_id", observed=True)["value"]
    outputs = select(trained, quantity="output_m2").sort_values("step")
    output = outputs.groupby("cell_id", observed=True)["value"].last()
    diverged = cells["outcome"] == "diverged"
    target = 1 + cells["data.noise"].astype(float) ** 2 if "data.noise" in cells else 1.0
    regression = cells["test_accuracy"].isna() & ~diverged
    return pd.DataFrame(
        {
            "start": by_step.first() ** 0.5,
            "largest": by_step.max() ** 0.5,
            "end": (by_step.last() ** 0.5).reindex(cells.index).where(~diverged),
            "output": output**0.5,
            "has_head": cells["head"] != "none",
            "diverged": diverged,
            "accuracy": cells["test_accuracy"].astype(float),
            "explained": (1 - cells["test_loss"].astype(float) / target).where(regression),
        }
    ).reindex(cells.index)


def output_layer(layers: pd.DataFrame) -> int:
    """Return the number of the layer whose pre-activations are the logits."""
    return int(layers["layer"].max())


def initial_outputs(
    results: Results, table: pd.DataFrame, criterion: Mapping[str, Any]
) -> pd.DataFrame:
    """Compare measured and predicted logits before training, for each suspect without a remedy.

    m is the second moment of the logits over the probe set in one draw of the weights. Theory
    `finite_width` predicts the mean and the standard deviation of log m over draws.

    Returns
    -------
    pandas.DataFrame
        One row per suspect. `suspect`; `shares_prediction_of`: the earlier suspect with the same
        prediction, "" if there is none; `values`: m of each draw; `draws`: number of draws;
        `log_mean`: measured mean of log m; `log_predicted`: predicted mean; `log_sd`: predicted
        standard deviation of one draw; `log_se`: standard error of the mean over draws; `same`:
        True if the draws equal those of the first suspect up to rounding.

    Raises
    ------
    FaninError
        A suspect was not measured at initialization.
    """
    measured = {cell: pair for pair in measured_settings(results) for cell in pair[0].cell_ids}
    rows: list[dict[str, Any]] = []
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        if alone["cell_ids"][0] not in measured:
            raise FaninError(
                f"{results.folder.root}: '{suspect}' was not measured before training; run it with "
                "probe.draws of at least 1"
            )
        setting, draws = measured[alone["cell_ids"][0]]
        rows.append(
            {
                "suspect": suspect,
                "values": _logit_moments(draws),
                "setting": setting,
                "layers": output_layer(draws),
            }
        )
    return _add_predictions(results.folder, rows)


def _logit_moments(draws: pd.DataFrame) -> np.ndarray:
    rows = select(draws, quantity="preact_m2", image=-1, layer=output_layer(draws))
    return rows.sort_values(["seed_weights", "draw"])["value"].to_numpy(float)


def _add_predictions(folder: SweepFolder, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Predict each distinct initial network once and add the predictions to the rows."""
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = str({group: row["setting"].config[group] for group in PREDICTION_KEYS})
        row["predicted_row"] = distinct.setdefault(key, row)
    settings = [row["setting"] for row in distinct.values()]
    predictions = predict_settings(folder, settings, keep_others=True, whole_set=True)
    theory = {
        row["suspect"]: _log_moments(folder, predicted)
        for row, predicted in zip(distinct.values(), predictions, strict=True)
    }
    return pd.DataFrame(
        [_initial_row(row, rows[0], *theory[row["predicted_row"]["suspect"]]) for row in rows]
    )


def _log_moments(folder: SweepFolder, predicted: SettingPrediction) -> tuple[float, float]:
    """Return the predicted mean and standard deviation of log m over draws."""
    frame = predicted.frame
    if frame.empty or THEORY not in set(frame["theory"]):
        reason = predicted.reason or f"theory '{THEORY}' has no formula for this network"
        raise FaninError(f"{folder.root}: no prediction: {reason}")
    layer = output_layer(frame)
    row = select(frame, theory=THEORY, quantity="preact_m2", image=-1, layer=layer).iloc[0]
    return math.log(row["value"]) - row["log_sd"] ** 2 / 2, float(row["log_sd"])


def _initial_row(
    row: Mapping[str, Any], first: Mapping[str, Any], log_predicted: float, log_sd: float
) -> dict[str, Any]:
    values, predicted_row = row["values"], row["predicted_row"]
    dtypes = [item["setting"].config["train"]["dtype"] for item in (row, first)]
    eps = max(torch.finfo(getattr(torch, dtype)).eps for dtype in dtypes)
    # Each layer rounds its weights, inputs and outputs, with relative errors of eps / 2 each. The
    # relative error of a square is twice as large.
    rounding = 3 * row["layers"] * eps
    return {
        "suspect": row["suspect"],
        "shares_prediction_of": "" if predicted_row is row else predicted_row["suspect"],
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
