"""Theory for a configured cell: its own network, init scheme and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.theory.layer_moments import LayerMoments
from analysis.theory.rungs import RUNGS, predict_rungs
from analysis.theory.walk import UnpredictableLayer
from experiments.cell import prepared, probe_images
from experiments.config.schema import Cell, build_cell
from experiments.inits import (
    DeltaOrthogonal,
    Init,
    Moments,
    Orthogonal,
    WeightShape,
    weight_layers,
)

ORTHOGONAL = (Orthogonal, DeltaOrthogonal)


def predict_cell(config: Mapping[str, Any], rungs: Sequence[str] = RUNGS) -> pd.DataFrame:
    """Predict a cell's probe measurements at initialization, by every rung that applies.

    Parameters
    ----------
    config
        A coerced cell config. Its data is loaded, for theory starts from real images.
    rungs
        From coarse to fine. What a finer one has no formula for (a norm over groups, a field too
        large) is left to the coarser ones.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without `cell_id`: the probe's single images, and -1 for
        the mean over its probe set.

    Raises
    ------
    UnpredictableLayer
        No rung applies, as where a layer's weights are described by no declaration (LSUV's depend
        on data).
    """
    cell = build_cell(config)
    images = _images(cell)
    model = cell.network().double().eval()
    moments = declared_moments(model, cell.init)
    frames: list[pd.DataFrame] = []
    for rung in rungs:
        try:
            frames.append(predict_rungs(model, moments, images, (rung,)))
        except UnpredictableLayer:
            if not frames:
                raise
    frame = pd.concat(frames, ignore_index=True)
    shown = frame.image.isin([-1, *cell.probe.images]) & frame.value.notna()
    return frame[shown].reset_index(drop=True)


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
        # A scheme declares biases for any layer; some layers have none.
        none = Moments(0.0, 0.0)
        moments[name] = LayerMoments(
            weight,
            none if modules[name].bias is None else bias,
            "orthogonal" if isinstance(layer.scheme, ORTHOGONAL) else "independent",
        )
    return moments


def _images(cell: Cell) -> Tensor:
    data, scaling = prepared(cell, torch.device("cpu"))
    # Rounded as the network sees them, then exact: theory itself is computed in float64.
    return probe_images(cell, data, scaling).double()
