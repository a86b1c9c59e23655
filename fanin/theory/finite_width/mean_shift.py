r"""Shift of the mean moments at finite width, to first order in 1 / C.

The second moments of a layer's input are averages over C channels, so they vary between draws.
Functions of them are curved, which shifts the means of later layers by an amount of order 1 / C
(docs/appendix/derivations.md, 5.5). With the local log-moment :math:`t_l(p) = \log K_l(p, p)` of
layer l at point p, its covariance over draws follows the recursion

.. math:: t_{l+1} = T (A t_l + \alpha_l), \quad U_{l+1} = T (A U_l A^T + O_l) T^T

T holds the shares of the inputs in each output point, A the derivatives of
:math:`\log E[x^2]`, and :math:`O_l` the covariance of the means of x^2 over C channels. Only the
diagonals of the field's covariance vary here; max-pools pass variation like averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fanin.theory.field.geometry import Taps
from fanin.theory.field.state import FieldLayer
from fanin.theory.finite_width.adjoints import squeeze_field
from fanin.theory.finite_width.channels import ChannelSamples
from fanin.theory.layer_kind import Mixing
from fanin.theory.mean_field import unit_moments

LOG_STEP = 0.02  # of differences in a log-variance: the second has an error below 1e-3
TINY = torch.finfo(torch.float64).tiny
Points = Float[Tensor, " point"]


def mean_shift(
    layers: Sequence[FieldLayer], channels: Sequence[ChannelSamples]
) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Compute log(E[moment] / infinite-width value) for independent weights of mean zero.

    Parameters
    ----------
    layers
        One pass of `propagate_field` on one image, with covariances.
    channels
        Samples of the channels of every layer but the last.

    Returns
    -------
    dict
        Arrays over layers for preact_m2, vjp_m2 and weight_vjp_m2.
    """
    steps = [
        _Step.of(layer, next_layer, samples)
        for layer, next_layer, samples in zip(layers, layers[1:], channels, strict=False)
    ]
    preact, inputs = [torch.zeros_like(_preact_m2(layers[0]))], []
    covariance = torch.zeros(len(preact[0]), len(preact[0]), dtype=torch.float64)
    covariances = [covariance]
    for step in steps:
        shift, covariance = step.forward(preact[-1], covariance)
        inputs.append((shift, covariance))
        preact.append(step.to_preact(shift))
        covariance = step.to_preact(step.to_preact(covariance).mT)
        covariances.append(covariance)
    last = len(_cotangent_m2(layers[-1]))
    response = torch.zeros(last, last, dtype=torch.float64)
    backward, responses = [torch.zeros(last, dtype=torch.float64)], [response]
    for step, shift, covariance in zip(
        steps[::-1], preact[-2::-1], covariances[-2::-1], strict=True
    ):
        value, response = step.backward(shift, covariance, backward[-1], response)
        backward.append(value)
        responses.append(response)
    backward, responses = backward[::-1], responses[::-1]
    weight = [_weighted(_cotangent_m2(layers[0]), backward[0])]
    for index, step in enumerate(steps):
        shift, covariance = inputs[index]
        joint = responses[index + 1] @ step.to_preact(covariance)
        weight.append(step.weight_gradient(shift, backward[index + 1], joint))
    forward = [_weighted(_preact_m2(layer), s) for layer, s in zip(layers, preact, strict=True)]
    down = [_weighted(_cotangent_m2(layer), s) for layer, s in zip(layers, backward, strict=True)]
    shifts = {"preact_m2": forward, "vjp_m2": down, "weight_vjp_m2": weight}
    return {quantity: torch.stack(values).numpy() for quantity, values in shifts.items()}


@dataclass(frozen=True)
class _Step:
    """From the pre-activations of one layer to those of the next.

    Attributes
    ----------
    taps, var
        Geometry and variances of the next layer's weights.
    input_m2, preact_m2, cotangent_m2
        Second moments of the next layer's input, pre-activations and cotangent.
    output_cotangent_m2
        Second moment of the cotangent at that input.
    window
        Share of each pre-activation in each input of the next layer, [input, point].
    spread
        Share of each input's cotangent in each pre-activation's, [point, input].
    rates, slope_rates
        First and second derivatives of log E[x^2] and log E[x'^2] by the log-variance of y.
    own
        Covariance of mean squares of the input, over draws of the channels, [input, input].
    own_slope
        Covariance of mean squares of slopes with those of the input, [point, input].
    """

    taps: Taps
    var: Float[Tensor, " tap"]
    input_m2: Points
    preact_m2: Points
    cotangent_m2: Points
    output_cotangent_m2: Points
    window: Tensor
    spread: Tensor
    rates: tuple[Points, Points]
    slope_rates: tuple[Points, Points]
    own: Tensor
    own_slope: Tensor

    @classmethod
    def of(cls, layer: FieldLayer, next_layer: FieldLayer, samples: ChannelSamples) -> _Step:
        assert layer.interlayer is not None
        assert layer.outputs is not None
        assert layer.output_cotangent is not None
        weights = next_layer.weights
        output_m2 = squeeze_field(layer.output_cotangent.m2, 1)
        members = _members(layer)
        unit_m2, rates, slope_rates = _rates(layer)
        squares = _relative_squares(samples.x)
        slopes = _relative_squares(samples.cotangent)
        return cls(
            taps=next_layer.taps,
            var=weights.group_in_channels * weights.var,
            input_m2=squeeze_field(layer.outputs.m2, 1),
            preact_m2=_preact_m2(next_layer),
            cotangent_m2=_cotangent_m2(next_layer)
            * weights.group_out_channels
            / weights.group_in_channels,
            output_cotangent_m2=output_m2,
            window=_rows(members * unit_m2),
            spread=_rows(members.mT * output_m2),
            rates=rates,
            slope_rates=slope_rates,
            own=squares.mT @ squares / (len(squares) * layer.weights.out_channels),
            own_slope=slopes.mT @ squares / (len(squares) * layer.weights.out_channels),
        )

    def forward(self, shift: Points, covariance: Tensor) -> tuple[Points, Tensor]:
        """Return the shift of E[x^2] and the covariance of its logarithm at the next layer."""
        first, second = self.rates
        variance = covariance.diagonal()
        curved = first * (shift - variance / 2) + (second + first.square()) * variance / 2
        passed = self.window @ (first[:, None] * covariance * first) @ self.window.mT
        return self.window @ curved, passed + self.own

    def to_preact(self, x: Float[Tensor, "*row input"]) -> Float[Tensor, "*row point"]:
        """Average log-deviations of the input, weighted by their shares (the matrix T)."""
        shares = 1 / self.preact_m2.clamp(min=TINY)
        if x.ndim == 1:
            return self._convolve(x * self.input_m2) * shares
        return (self._convolve(x.mT * self.input_m2) * shares).mT

    def _convolve(self, x: Float[Tensor, "*row input"]) -> Float[Tensor, "*row point"]:
        padded = torch.nn.functional.pad(x, (1, 0))
        if self.taps.is_linear:
            return padded[..., self.taps.input_index] @ self.var
        columns = zip(self.taps.input_index.T, self.var.tolist(), strict=True)
        return sum((v * padded.index_select(-1, index) for index, v in columns), torch.zeros(()))

    def backward(
        self, shift: Points, covariance: Tensor, next_shift: Points, next_response: Tensor
    ) -> tuple[Points, Tensor]:
        """Return the shift of the cotangent, and the derivatives of its logarithm by t [point, t].

        `next_shift` and `next_response` are those of the next layer.
        """
        first, second = self.slope_rates
        variance = covariance.diagonal()
        curved = first * (shift - variance / 2) + (second + first.square()) * variance / 2
        response = self._pull_back(next_response)
        passed = first[:, None] * covariance * self.rates[0] @ self.window.mT + self.own_slope
        joint = self.to_preact(passed.mT).mT
        value = curved + self._pull_back(next_shift[:, None])[:, 0] + (joint * response).sum(-1)
        by_input = self.taps.backward_m2(response / self.preact_m2.clamp(min=TINY), self.var)
        own = (by_input * self.input_m2) @ self.window * self.rates[0]
        return value, torch.diag(first) + own

    def _pull_back(self, x: Float[Tensor, "point column"]) -> Tensor:
        """Average over the points that send the cotangent, weighted by their shares."""
        sent = self.taps.backward_m2((x * self.cotangent_m2[:, None]).mT, self.var).mT
        return self.spread @ (sent / self.output_cotangent_m2.clamp(min=TINY)[:, None])

    def weight_gradient(self, input_shift: Points, shift: Points, joint: Tensor) -> Tensor:
        """Average the shift of squared products of the cotangent and the input that a tap reads."""
        shares = self.cotangent_m2[:, None] * self.taps.gather(self.input_m2)
        index = self.taps.input_index
        products = torch.nn.functional.pad(joint, (1, 0)).gather(1, index)
        total = shift[:, None] + self.taps.gather(input_shift) + products
        return _weighted(shares, total)


def _members(layer: FieldLayer) -> Tensor:
    """Return 1 where a pre-activation is one of those that an input of the next layer reads."""
    interlayer = layer.interlayer
    assert interlayer is not None
    x = torch.eye(layer.preact.var.shape[-1], dtype=torch.float64)
    x = x.unflatten(-1, (interlayer.images_per_field, *interlayer.positions)).transpose(0, 1)
    for step in interlayer.steps:
        if isinstance(step, Mixing):
            x = step(x, 1)
    return (x.transpose(0, 1).flatten(1) != 0).double().mT


def _rates(layer: FieldLayer) -> tuple[Points, tuple[Points, Points], tuple[Points, Points]]:
    assert layer.interlayer is not None
    mean = squeeze_field(layer.preact.mean, 1).expand_as(_preact_m2(layer))
    low, middle, high = (
        unit_moments(layer.interlayer.pointwise_layers, mean, _preact_m2(layer) * exp(h))
        for h in (-LOG_STEP, 0.0, LOG_STEP)
    )

    def differences(values: Sequence[Tensor]) -> tuple[Points, Points]:
        a, b, c = (x.clamp(min=TINY).log() for x in values)
        return (c - a) / (2 * LOG_STEP), (c - 2 * b + a) / LOG_STEP**2

    parts = (low, middle, high)
    return (
        middle.m2,
        differences([units.m2 for units in parts]),
        differences([units.slope_m2 for units in parts]),
    )


def _relative_squares(x: Float[Tensor, "sample point"]) -> Tensor:
    """Return deviations of x^2 from its mean, relative to the mean."""
    squares = x.square()
    mean = squares.mean(0)
    return torch.where(mean > 0, squares / mean.clamp(min=TINY) - 1, 0.0)


def _rows(x: Tensor) -> Tensor:
    """Return the matrix with rows that sum to 1; rows of zeros stay."""
    return x / x.sum(1, keepdim=True).clamp(min=TINY)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum().clamp(min=TINY)


def _preact_m2(layer: FieldLayer) -> Points:
    return squeeze_field(layer.preact.m2, 1)


def _cotangent_m2(layer: FieldLayer) -> Points:
    assert layer.cotangent is not None
    return squeeze_field(layer.cotangent.m2, 1)
