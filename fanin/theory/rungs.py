"""The rungs of theory by name, as rows of one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError, nearest
from fanin.theory.cache import memoized
from fanin.theory.he import predict_he
from fanin.theory.mean_field import predict_mean_field
from fanin.theory.moments import LayerMoments

RUNGS = ("he", "mean_field", "field", "finite")
"""From the coarsest to the one that leaves least out."""


def predict_rungs(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    rungs: Sequence[str] = RUNGS,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict one network by several rungs.

    Predictions are kept: a network of the same structure, moments and images is not walked again.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without `cell_id`, every image and the mean over them (-1).

    Raises
    ------
    ConfigError
        There is no such rung.
    UnpredictableLayer
        A layer that one of them has no formula for.
    """
    for rung in rungs:
        if rung not in RUNGS:
            raise ConfigError(f"rungs: no rung {rung}; {nearest(rung, RUNGS)}")
    frames = []
    for rung in rungs:
        compute = partial(_predict, rung, model, moments, images, seed)
        frames.append(memoized(f"rung {rung}", compute, model, moments, images, seed))
    return pd.concat(frames, ignore_index=True)


def _predict(
    rung: str,
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
) -> pd.DataFrame:
    match rung:
        case "he":
            return predict_he(model, moments, images).to_frame()
        case "mean_field":
            return predict_mean_field(model, moments, images, seed=seed).to_frame()
        case "field":
            from fanin.theory.field import Sampling, predict_field

            return predict_field(model, moments, images, sampling=Sampling(seed=seed)).to_frame()
    from fanin.theory.finite import predict_finite

    return predict_finite(model, moments, images, seed=seed).to_frame()
