"""Prediction of the first layer that overflows, and of whether the first loss is finite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.query import select
from analysis.predictions import predict_cell
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.assemble import finest_predictions, variance_share
from fanin.theory.moments import declared_moments
from fanin.theory.network import parse_network
from fanin.theory.overflow import first_overflow, overflow_probabilities

INPUT = 0  # layer number of the input


@dataclass(frozen=True)
class OverflowPrediction:
    """Prediction for one network in one dtype.

    Attributes
    ----------
    layer
        First layer (counted from 1) that overflows with a probability above 1/2. 0: the input.
        None: no layer.
    is_finite
        True if the first loss is predicted to be finite.
    """

    layer: int | None
    is_finite: bool


@dataclass(frozen=True)
class _LayerMoments:
    largest_input: float
    log_m2: tuple[float, ...]
    variance_shares: tuple[float, ...]  # share of E[y^2] that varies between the units
    counts: tuple[int, ...]  # number of pre-activations by layer
    propagates_inf: bool  # True if the activation of inf or -inf is infinite


class OverflowPredictor:
    """Predictor of overflow; cells that differ only in training or dtype share one computation."""

    def __init__(self) -> None:
        self._moments: dict[str, _LayerMoments] = {}

    def predict(self, config: Mapping[str, Any]) -> OverflowPrediction:
        """Predict which layer of a cell overflows first.

        The spread of single draws is ignored; it shifts the layer by less than one.
        """
        moments = self._layer_moments(config)
        dtype = getattr(torch, config["train"]["dtype"])
        if moments.largest_input > torch.finfo(dtype).max:
            return OverflowPrediction(INPUT, False)
        probabilities = overflow_probabilities(
            moments.log_m2, moments.counts, dtype, variance_share=moments.variance_shares
        )
        layer = first_overflow(probabilities)
        # A saturating activation maps infinities of hidden layers to finite values.
        relevant = probabilities if moments.propagates_inf else probabilities[-1:]
        is_finite = first_overflow(relevant) is None
        return OverflowPrediction(layer, is_finite)

    def _layer_moments(self, config: Mapping[str, Any]) -> _LayerMoments:
        float32_config = {**config, "train": {**config["train"], "dtype": "float32"}}
        groups = ("data", "scaling", "model", "activation", "init", "probe")
        key = json.dumps({group: float32_config[group] for group in groups}, sort_keys=True)
        if key not in self._moments:
            self._moments[key] = _predict_layer_moments(float32_config)
        return self._moments[key]


def _predict_layer_moments(config: Mapping[str, Any]) -> _LayerMoments:
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    images = probe_images(cell, data, scaling)
    model = cell.network()
    has_zero_mean = not any(
        bool(torch.as_tensor(moments.weight.mean).any())
        for moments in declared_moments(model, cell.init).values()
    )
    stages = parse_network(model, tuple(images.shape[1:])).stages
    has_maps = any(stage.positions > 1 for stage in stages)
    # Only `field` handles padding. It is not used for weights of non-zero mean, because it then
    # takes minutes for a deep network.
    theories = ("he", "field") if has_maps and has_zero_mean else ("he", "mean_field")
    frame = predict_cell(config, theories, whole_set=True)
    modules = dict(model.named_modules())
    finest = finest_predictions(frame)
    infinities = cell.activation()(torch.tensor([-inf, inf]))
    return _LayerMoments(
        float(images.abs().max()),
        tuple(_log(finest[stage.name]["preact_m2"].value) for stage in stages),
        tuple(variance_share(finest[stage.name], stage.positions) for stage in stages),
        tuple(
            WeightShape.of(modules[stage.name]).out_features * stage.positions * len(images)
            for stage in stages
        ),
        not bool(infinities.isfinite().all()),
    )


def _log(value: float) -> float:
    return -inf if value == 0 else log(value) if isfinite(value) else value


def first_bad_layers(layers: pd.DataFrame) -> pd.Series:
    """Return the first layer with a non-finite second moment by cell and draw; NaN if none has.

    Parameters
    ----------
    layers
        The `layers` table.
    """
    rows = select(layers[layers["layer"] > 0], quantity="preact_m2", image=-1, step=0)
    bad = rows["layer"].where(~np.isfinite(rows["value"]))
    keys = [rows["cell_id"].astype(str), rows["draw"]]
    return bad.groupby(keys).min().rename("measured")
