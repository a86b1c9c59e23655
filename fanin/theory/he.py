"""Theory `he`: the textbook product formula.

Every weight layer multiplies the second moment by `gain * n * Var[w]`. The gain is 1/2 after a
ReLU (He et al. 2015) and 1 after any other module (linear regime, Glorot & Bengio 2010). This
theory ignores the weights' mean, biases, zero padding, stride, pooling, normalization and dropout;
the later theories account for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments, scalar_moments
from fanin.theory.network import parse_network
from fanin.theory.prediction import Prediction


def predict_he(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    *,
    layer_kinds: Sequence[LayerKind] = (),
) -> Prediction:
    r"""Predict with the product formulas of He and Glorot.

    Forward (He et al. 2015, eqs 7-10), starting from the image's mean square:

    .. math:: q_1 = n_1 \mathrm{Var}[w_1] \overline{x_0^2}, \quad
              q_l = g_{l-1} n_l \mathrm{Var}[w_l] q_{l-1}

    with gain g = 1/2 for ReLU, (1 + a^2) / 2 for a leaky ReLU of slope a (eq. 15) and 1 otherwise
    (Glorot & Bengio 2010, eq. 5). Backward (He et al. 2015, eqs 13-14; Glorot & Bengio eq. 6),
    starting from a random cotangent of mean square 1 at the logits:
    d_l = g_l \hat n_{l+1} Var[w_{l+1}] d_{l+1}. A weight's gradient sums cotangent times input
    over the layer's P output positions; with independent terms its mean square is
    P d_l E[x_{l-1}^2].

    Parameters
    ----------
    model
        A sequence of modules. Its weights are not read.
    moments
        Weight and bias moments of each weight layer, by module path.
    images
        Preprocessed inputs, as the network receives them.
    layer_kinds
        Additional layer kinds. They take precedence over the built-in ones.

    Returns
    -------
    Prediction
        Theory `he`: preact_m2, preact_mean (0), preact_var (equal to preact_m2), vjp_m2,
        weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        The model is not a plain sequence, or the moments of a layer are unknown.
    """
    net = parse_network(model, images.shape[1:], layer_kinds)
    weights = scalar_moments(moments, (stage.name for stage in net.stages))
    variances = np.array([weights[stage.name].weight_var for stage in net.stages])
    gains = np.array(
        [prod(layer.kind.gain(layer.module) for layer in stage.after) for stage in net.stages]
    )
    forward = np.array([stage.fan_in for stage in net.stages]) * variances
    backward = np.array([stage.outputs_per_input for stage in net.stages]) * variances
    positions = np.array([stage.positions for stage in net.stages])

    mean_square = net.first_input(images).flatten(1).square().mean(1).numpy()[:, None]
    # Logarithms, because intermediate products may exceed the range of float64.
    with np.errstate(divide="ignore", over="ignore"):
        growth = np.cumsum([0.0, *np.log(gains * forward)[:-1]])
        inputs = np.log(mean_square) + growth
        shrinkage = np.cumsum([0.0, *np.log(gains[:-1] * backward[1:])[::-1]])[::-1]
        cotangents = np.broadcast_to(shrinkage, inputs.shape)
        second_moment = np.exp(inputs + np.log(forward))
        values = {
            "preact_m2": second_moment,
            "preact_mean": np.zeros_like(second_moment),
            "preact_var": second_moment,
            "vjp_m2": np.exp(cotangents),
            "weight_vjp_m2": np.exp(np.log(positions) + cotangents + inputs),
        }
    names = tuple(stage.name for stage in net.stages)
    return Prediction("he", "exact", names, {name: value[None] for name, value in values.items()})
