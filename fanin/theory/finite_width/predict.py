"""Theory `finite_width`: the moments of one draw.

Networks of linear layers are sampled exactly without weight matrices (method `sampled`).
Convolutional networks get the values of theory `field`, and a spread from differentiating the
field's recursion (method `first_order`), if the estimated error of that spread is small. Otherwise,
as with weights of non-zero mean, their channels are sampled without weights (method `sampled`).
Networks for which this is not possible are drawn and measured (method `simulated`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width.channel_laws import laws_by_channels
from fanin.theory.finite_width.dense import is_dense, simulate_dense
from fanin.theory.finite_width.limits import estimate_spread_error, reason_against_first_order
from fanin.theory.finite_width.simulate import SIGNED_QUANTITIES, simulate_networks
from fanin.theory.finite_width.spread import spread_of_draws
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.network import ParsedNetwork, parse_network
from fanin.theory.prediction import DrawDistribution, Prediction

MAX_SPREAD_ERROR = 0.1  # largest estimated relative error of a first-order spread
MAX_DEAD = 0.01  # largest probability of a dead layer; first order predicts no moments of 0


def predict_finite_width(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    field: Callable[[], Prediction] | None = None,
    individual: Sequence[int] | None = None,
    mean: bool = True,
) -> Prediction:
    """Predict the moments of one draw, on each image and on the mean over images.

    Parameters
    ----------
    model
        A sequence of modules. Its weights are not read.
    moments
        Moments of each weight layer, by module path.
    images
        Network inputs, already scaled.
    seed
        Seed of all samples.
    layer_kinds
        Additional layer kinds.
    field
        Function that returns the prediction of theory `field`, called if it is needed. None
        computes it.
    individual
        Images that need a spread of their own, as in `predict_moments`.
    mean
        False: the mean over images needs no spread; a first-order law then has none.

    Returns
    -------
    Prediction
        Theory `finite_width`: preact_m2, preact_mean, preact_var, vjp_m2, weight_vjp_m2, with the
        spread of one draw's log-moment (NaN for preact_mean, which has a sign).

    Raises
    ------
    UnpredictableLayer
        A module without a formula, a model that is not a plain sequence, or a layer with unknown
        moments.

    Examples
    --------
    >>> import torch
    >>> from fanin.inits import Moments
    >>> he = {"1": LayerMoments(Moments(0.0, 2 / 64), Moments(0.0, 0.0))}
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50))
    >>> row = predict_finite_width(model, he, torch.ones(1, 1, 8, 8)).to_frame().iloc[0]
    >>> row.quantity, round(float(row.value), 1), round(float(row.log_sd), 1)
    ('preact_m2', 2.0, 0.2)
    """
    net = parse_network(model, images.shape[1:], layer_kinds)
    names = tuple(stage.name for stage in net.stages)
    if is_dense(model, net):
        samples = simulate_dense(model, net, moments, net.first_input(images), seed=seed)
        return Prediction("finite_width", "sampled", names, {}, samples.distributions())
    if reason_against_first_order(model, net, moments) is None:
        field = field or partial(
            predict_field,
            *(model, moments, images),
            sampling=Sampling(seed=seed),
            layer_kinds=layer_kinds,
        )
        laws = _predict_first_order(
            model, net, moments, images, field(), seed, layer_kinds, individual, mean
        )
        if laws is not None:
            return Prediction("finite_width", "first_order", names, {}, laws)
    laws = laws_by_channels(
        model, net, moments, images, seed=seed, layer_kinds=layer_kinds, mean=mean
    )
    if laws is not None:
        return Prediction("finite_width", "sampled", names, {}, laws)
    samples = simulate_networks(model, net, moments, images, seed=seed)
    return Prediction("finite_width", "simulated", names, {}, samples.distributions())


def _predict_first_order(
    model: nn.Module,
    net: ParsedNetwork,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    prediction: Prediction,
    seed: int,
    layer_kinds: Sequence[LayerKind],
    individual: Sequence[int] | None,
    mean: bool,
) -> dict[str, DrawDistribution] | None:
    """Predict with the first-order law; None if its estimated error is too large.

    Parameters
    ----------
    prediction
        Prediction of theory `field`.
    """
    field = prediction.to_frame()
    if not np.isfinite(field[field.quantity != "act_zero_fraction"].value).all():
        return None
    spread = spread_of_draws(
        model, net, moments, images, field, seed, layer_kinds, individual, mean
    )
    if spread.dead_probability > MAX_DEAD:
        return None
    m2, log_sd = prediction.value("preact_m2"), spread.log_sd["preact_m2"][:-1]
    known = np.isfinite(log_sd).all(1)
    try:
        error = estimate_spread_error(model, net, moments, m2[known], log_sd[known])
    except UnpredictableLayer:  # a layer kind of the user without a scalar rule
        return None
    if error > MAX_SPREAD_ERROR:
        return None
    laws: dict[str, DrawDistribution] = {}
    for quantity in (*spread.log_sd, *SIGNED_QUANTITIES):
        rows = field[field.quantity == quantity]
        value, se = (
            rows[column].to_numpy().reshape(len(images) + 1, len(net.stages))
            for column in ("value", "sampling_se")
        )
        if quantity in spread.shift:
            own = value[:-1] * np.exp(spread.shift[quantity])
            value = np.concatenate([own, own.mean(0, keepdims=True)])
        if quantity == "preact_var":
            value = (value - spread.grand_mean_share * laws["preact_m2"].value).clip(min=0)
        log_sd = spread.log_sd.get(quantity, np.full_like(value, np.nan))
        laws[quantity] = DrawDistribution(value, log_sd, se)
    return laws
