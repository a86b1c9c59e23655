"""Theory for a configured cell: its own network, init scheme and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.theory.he import predict_he
from analysis.theory.layer_moments import LayerMoments
from analysis.theory.mean_field import predict_mean_field
from analysis.theory.walk import UnpredictableLayer
from experiments.cell import prepared, probe_images
from experiments.config.schema import Cell, build_cell
from experiments.inits import Init, WeightShape, weight_layers

RUNGS = {"he": predict_he, "mean_field": predict_mean_field}


def predict_cell(config: Mapping[str, Any]) -> pd.DataFrame:
    """Predict a cell's probe measurements at initialization, by every rung.

    Parameters
    ----------
    config
        A coerced cell config. Its data is loaded, for theory starts from real images.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without `cell_id`: the probe's single images, and -1 for
        the mean over its probe set.

    Raises
    ------
    UnpredictableLayer
        A layer whose weights no declaration describes (LSUV's depend on data).
    """
    cell = build_cell(config)
    images = _images(cell)
    model = cell.network().double().eval()
    moments = declared_moments(model, cell.init)
    frame = pd.concat(
        [predict(model, moments, images).to_frame() for predict in RUNGS.values()],
        ignore_index=True,
    )
    return frame[frame.image.isin([-1, *cell.probe.images])].reset_index(drop=True)


def declared_moments(model: nn.Module, init: Init) -> dict[str, LayerMoments]:
    """Each weight layer's moments, as its init scheme declares them.

    Raises
    ------
    UnpredictableLayer
        The scheme declares none.
    """
    modules = weight_layers(model)
    moments = {}
    for name, layer in init.for_model(model).items():
        shape = WeightShape.of(modules[name])
        weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
        if weight is None or bias is None:
            scheme = type(layer.scheme).__name__
            raise UnpredictableLayer(name, f"{scheme} declares no moments; only data tells them")
        moments[name] = LayerMoments(weight, bias)
    return moments


def _images(cell: Cell) -> Tensor:
    data, scaling = prepared(cell, torch.device("cpu"))
    # Rounded as the network sees them, then exact: theory itself is computed in float64.
    return probe_images(cell, data, scaling).double()
