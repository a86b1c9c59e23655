"""Rung 4: one draw's moments at finite width.

Nets of linear layers have an exact chain. Wide convolutional ones have the field's values, and a
spread found by differentiating the field's recursion. Where that is no good, networks are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite.dense import dense_chain, is_dense
from fanin.theory.finite.simulate import conv_chain
from fanin.theory.finite.spread import first_order_holds, spread_of_draws
from fanin.theory.finite.summary import SIGNED
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import DrawLaw, Prediction
from fanin.theory.walk import Walk, walk


def predict_finite(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    seed: int = 0,
) -> Prediction:
    """Predict one draw's moments, on each image and on the mean over them.

    Parameters
    ----------
    model
        A sequence of modules; its weights are not read.
    moments
        Of each weight layer, by module path.
    images
        As the network is fed them, scaled.
    seed
        Of what is sampled.

    Returns
    -------
    Prediction
        Rung `finite`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2, with the spread
        of one draw's log-moment (none of preact_mean, which has a sign).

    Raises
    ------
    UnpredictableLayer
        A module without a formula, a model that is no plain sequence, or a layer whose moments
        are unknown.

    Examples
    --------
    >>> import torch
    >>> from fanin.inits import Moments
    >>> he = {"1": LayerMoments(Moments(0.0, 2 / 64), Moments(0.0, 0.0))}
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50))
    >>> row = predict_finite(model, he, torch.ones(1, 1, 8, 8)).to_frame().iloc[0]
    >>> row.quantity, round(float(row.value), 1), round(float(row.log_sd), 1)
    ('preact_m2', 2.0, 0.2)
    """
    net = walk(model, images.shape[1:])
    names = tuple(stage.name for stage in net.stages)
    if is_dense(model, net):
        samples = dense_chain(model, net, moments, net.enter(images), seed=seed)
        return Prediction("finite", names, {}, samples.law())
    if first_order_holds(model, net, moments, images):
        field = predict_field(model, moments, images, sampling=Sampling(seed=seed)).to_frame()
        if np.isfinite(field[field.quantity != "act_zero_fraction"].value).all():
            laws = _around_field(field, model, net, moments, images, seed)
            return Prediction("finite", names, {}, laws)
    samples = conv_chain(model, net, moments, images, seed=seed)
    return Prediction("finite", names, {}, samples.law())


def _around_field(
    field: pd.DataFrame,
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
) -> dict[str, DrawLaw]:
    spread = spread_of_draws(model, net, moments, images, field, seed)
    laws: dict[str, DrawLaw] = {}
    for quantity in (*spread.log_sd, *SIGNED):
        rows = field[field.quantity == quantity]
        value, se = (
            rows[column].to_numpy().reshape(len(images) + 1, len(net.stages))
            for column in ("value", "sampling_se")
        )
        if quantity == "preact_var":
            value = (value - spread.grand_share * laws["preact_m2"].value).clip(min=0)
        log_sd = spread.log_sd.get(quantity, np.full_like(value, np.nan))
        laws[quantity] = DrawLaw(value, log_sd, se)
    return laws
