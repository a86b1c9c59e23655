"""Independent draws of a network's weights, measured on a few images."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits import Init, initialize
from fanin.probes.measure import measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import make_generator

COLUMNS = ("layer", "layer_name", "quantity", "value")


def measure_draws(
    network: nn.Sequential,
    init: Init,
    images: Float[Tensor, "image channel height width"],
    draws: int,
    *,
    seed: int = 0,
    calibration: Float[Tensor, "image channel height width"] | None = None,
) -> pd.DataFrame:
    """Measure every weight layer of independently drawn networks.

    Parameters
    ----------
    network
        Network in the dtype of the computation. Its weights are overwritten.
    init
        Init of the weights.
    images
        Input images; moments are means over them.
    draws
        Number of draws.
    seed
        Seed of weights and cotangents.
    calibration
        Calibration images of an init that uses data (LSUV).

    Returns
    -------
    pandas.DataFrame
        Columns `draw`, `layer` (from 1), `layer_name`, `quantity`, `value`.
    """
    network.eval()
    dtype = next(network.parameters()).dtype
    images = images.to(dtype)
    with torch.no_grad():
        logits = network(images).shape[1]
    fitted_on = None if calibration is None else calibration.to(dtype)
    frames = []
    for draw in range(draws):
        initialize(network, init, partial(make_generator, "weights", seed, draw), fitted_on)
        cotangent = random_cotangent(len(images), logits, make_generator("cotangent", seed, draw))
        layers = pd.DataFrame(measure(network, images, cotangent).layers)
        means = layers[(layers.image == -1) & (layers.layer > 0)]
        frames.append(means[list(COLUMNS)].assign(draw=draw))
    return pd.concat(frames, ignore_index=True)[["draw", *COLUMNS]]


def mean_and_error(draws: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the mean over draws and its standard error, one row per layer.

    Examples
    --------
    >>> draws = pd.DataFrame({"draw": [0, 1], "layer": 1, "layer_name": "fc1",
    ...                       "quantity": "preact_m2", "value": [1.0, 3.0]})
    >>> mean_and_error(draws, "preact_m2").values.tolist()
    [[1, 'fc1', 2.0, 1.0]]
    """
    rows = draws[draws.quantity == quantity]
    grouped = rows.groupby(["layer", "layer_name"], sort=True).value
    return grouped.agg(mean="mean", se="sem").reset_index()
