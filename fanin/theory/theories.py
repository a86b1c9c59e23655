"""The theories of theory by name, as rows of one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError, nearest
from fanin.theory.cache import memoized
from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.he import predict_he
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.mean_field import predict_mean_field
from fanin.theory.moments import LayerMoments

THEORIES = ("he", "mean_field", "field", "finite_width")
"""From the coarsest to the one that leaves least out."""


def predict_theories(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    theories: Sequence[str] = THEORIES,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> pd.DataFrame:
    """Predict one network by several theories.

    Predictions are kept: a network of the same structure, moments and images is not walked again.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without `cell_id`, every image and the mean over them (-1).

    Raises
    ------
    ConfigError
        There is no such theory.
    UnpredictableLayer
        A layer that one of them has no formula for.
    """
    for theory in theories:
        if theory not in THEORIES:
            raise ConfigError(f"theories: no theory {theory}; {nearest(theory, THEORIES)}")
    frames = []
    known = (model, moments, images, seed, tuple(layer_kinds))
    for theory in theories:
        compute = partial(_predict, theory, model, moments, images, seed, layer_kinds)
        try:
            frames.append(memoized(f"theory {theory}", compute, *known))
        except UnpredictableLayer as error:
            error.theory = theory
            raise
    return pd.concat(frames, ignore_index=True)


def _predict(
    theory: str,
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> pd.DataFrame:
    match theory:
        case "he":
            found = predict_he(model, moments, images, layer_kinds=layer_kinds)
        case "mean_field":
            found = predict_mean_field(model, moments, images, seed=seed, layer_kinds=layer_kinds)
        case "field":
            sampling = Sampling(seed=seed)
            found = predict_field(
                model, moments, images, sampling=sampling, layer_kinds=layer_kinds
            )
        case _:
            found = predict_finite_width(model, moments, images, seed=seed, layer_kinds=layer_kinds)
    return found.to_frame()
