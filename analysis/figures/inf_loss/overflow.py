"""Which layer overflows first, and whether the loss does: by theory, before anything is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.predict_cell import predict_cell
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.assemble import finest, share_between
from fanin.theory.moments import declared_moments
from fanin.theory.overflow import first_overflow, overflow_chances
from fanin.theory.walk import walk

INPUT = 0  # where a layer's number would stand, the input itself


@dataclass(frozen=True)
class Foretold:
    """What theory says of one network in one dtype.

    Attributes
    ----------
    layer
        The first layer that overflows likelier than not, from 1; 0: the input; None: none does.
    by_he
        The same by He's product formula.
    is_finite
        Whether the first loss is a finite number.
    log_m2
        log E[y^2] of every layer.
    """

    layer: int | None
    by_he: int | None
    is_finite: bool
    log_m2: tuple[float, ...]


@dataclass(frozen=True)
class _Levels:
    largest_input: float
    log_m2: tuple[float, ...]
    log_m2_by_he: tuple[float, ...]
    between: tuple[float, ...]  # the share of that which is no mean common to the units
    counts: tuple[int, ...]
    passes_on: bool  # whether the activation of an infinity is one


class Oracle:
    """Foretells cells; what differs only in training or dtype is walked once."""

    def __init__(self) -> None:
        self._levels: dict[str, _Levels] = {}

    def foretell(self, config: Mapping[str, Any]) -> Foretold:
        """Say of a cell's config which layer overflows first.

        The spread of single draws is left out: it moves the layer by a fraction of one.
        """
        levels = self._of(config)
        dtype = getattr(torch, config["train"]["dtype"])
        if levels.largest_input > torch.finfo(dtype).max:
            return Foretold(INPUT, INPUT, False, levels.log_m2)
        chances = overflow_chances(levels.log_m2, levels.counts, dtype, between=levels.between)
        he = overflow_chances(levels.log_m2_by_he, levels.counts, dtype)
        layer = first_overflow(chances)
        # What saturates swallows a hidden layer's infinities.
        matters = chances if levels.passes_on else chances[-1:]
        is_finite = first_overflow(matters) is None
        return Foretold(layer, first_overflow(he), is_finite, levels.log_m2)

    def _of(self, config: Mapping[str, Any]) -> _Levels:
        wide = {**config, "train": {**config["train"], "dtype": "float32"}}
        decides = ("data", "scaling", "model", "activation", "init", "probe")
        key = json.dumps({group: wide[group] for group in decides}, sort_keys=True)
        if key not in self._levels:
            self._levels[key] = _levels(wide)
        return self._levels[key]


def _levels(config: Mapping[str, Any]) -> _Levels:
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    images = probe_images(cell, data, scaling)
    model = cell.network()
    centred = not any(
        bool(torch.as_tensor(known.weight.mean).any())
        for known in declared_moments(model, cell.init).values()
    )
    stages = walk(model, tuple(images.shape[1:])).stages
    maps = any(stage.positions > 1 for stage in stages)
    # Padding is the field's; with weights of non-zero mean the field of a deep net takes minutes.
    rungs = ("he", "field") if maps and centred else ("he", "mean_field")
    frame = predict_cell(config, rungs)
    modules = dict(model.named_modules())
    named = finest(frame)
    he = finest(frame[frame["rung"] == "he"])
    infinities = cell.activation()(torch.tensor([-inf, inf]))
    return _Levels(
        float(images.abs().max()),
        tuple(_log(named[stage.name]["preact_m2"].value) for stage in stages),
        tuple(_log(he[stage.name]["preact_m2"].value) for stage in stages),
        tuple(share_between(named[stage.name], stage.positions) for stage in stages),
        tuple(
            WeightShape.of(modules[stage.name]).out_features * stage.positions * len(images)
            for stage in stages
        ),
        not bool(infinities.isfinite().all()),
    )


def _log(value: float) -> float:
    return -inf if value == 0 else log(value) if isfinite(value) else value


def first_bad_layers(layers: pd.DataFrame) -> pd.Series:
    """By cell and draw, the first layer whose measured second moment overflowed; NaN: none did.

    Parameters
    ----------
    layers
        The `layers` table.
    """
    mine = layers[
        (layers["quantity"] == "preact_m2")
        & (layers["image"] == -1)
        & (layers["step"] == 0)
        & (layers["layer"] > 0)
    ]
    bad = mine["layer"].where(~np.isfinite(mine["value"]))
    keys = [mine["cell_id"].astype(str), mine["draw"]]
    return bad.groupby(keys).min().rename("measured")
