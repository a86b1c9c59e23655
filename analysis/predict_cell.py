"""Theory for a configured cell: its own network, init scheme and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.inputs import prepared, probe_images
from experiments.schema import Cell, build_cell
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments
from fanin.theory.rungs import RUNGS, predict_rungs


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


def _images(cell: Cell) -> Tensor:
    data, scaling = prepared(cell, torch.device("cpu"))
    # Rounded as the network sees them, then exact: theory itself is computed in float64.
    return probe_images(cell, data, scaling).double()
