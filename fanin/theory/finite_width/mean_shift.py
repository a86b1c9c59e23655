r"""Shift of the mean moments at finite width, to first order in 1 / C.

The second moments of a layer's input are averages over C channels, so they vary between draws.
Later moments are nonlinear functions of them, which shifts their means by an amount of order 1 / C
(docs/appendix/derivations.md, 5.5). Let :math:`t_l(p)` be the deviation of
:math:`\log K_l(p, p)` from its mean, with K_l the covariance of the pre-activations of layer l and
p a point. It and its covariance U_l over draws follow the recursion

.. math:: t_{l+1} = T (A t_l + \alpha_l), \quad U_{l+1} = T (A U_l A^T + O_l) T^T

T holds the share of each input in each output point, A the derivatives of :math:`\log E[x^2]` with
respect to t, and :math:`\alpha_l` the relative deviation of the mean of x^2 over C channels, whose
covariance is :math:`O_l`. Only the diagonals of the field's covariance vary here, and max-pooling
passes deviations on like average pooling.
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
from fanin.theory.quadrature import COARSE

LOG_STEP = 0.02  # of differences in a log-variance: the second has an error below 1e-3
FLAT = 1e-2  # above the quadrature's error in a second difference, 1e-6 / LOG_STEP^2
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
        Samples of the channels of every layer; the last one's are not read.

    Returns
    -------
    dict
        Arrays over layers for preact_m2, vjp_m2 and weight_vjp_m2.
    """
    unit_rates = [_unit_rates(layer) for layer in layers if layer.interlayer is not None]
    if all(rates.are_homogeneous for rates in unit_rates):
        zeros = np.zeros(len(layers))
        return {"preact_m2": zeros, "vjp_m2": zeros, "weight_vjp_m2": zeros}
    steps = [
        _Step.of(layer, next_layer, rates, samples)
        for layer, next_layer, rates, samples in zip(
            layers[:-1], layers[1:], unit_rates, channels, strict=False
        )
    ]
    preact, inputs = [torch.zeros_like(_preact_m2(layers[0]))], []
    covariance = torch.zeros(len(preact[0]), len(preact[0]), dtype=torch.float64)
    covariances = [covariance]
    for step in steps:
        shift, covariance = step.forward(preact[-1], covariance)
        joint = step.to_preact(covariance)
        inputs.append((shift, joint))
        preact.append(step.to_preact(shift[:, None])[:, 0])
        covariance = step.to_preact(joint.mT)
        covariances.append(covariance)
    backward, response = [torch.zeros_like(preact[-1])], torch.zeros_like(covariance)
    if layers[-1].interlayer is not None:
        slope = unit_rates[-1].slope
        backward, response = [_curved(slope, preact[-1], covariance.diagonal())], slope[0].diag()
    responses = [response]
    for step, shift, covariance in zip(
        steps[::-1], preact[-2::-1], covariances[-2::-1], strict=True
    ):
        value, response = step.backward(shift, covariance, backward[-1], response)
        backward.append(value)
        responses.append(response)
    backward, responses = backward[::-1], responses[::-1]
    weight = [_weighted(_cotangent_m2(layers[0]), backward[0])]
    for index, step in enumerate(steps):
        shift, joint = inputs[index]
        weight.append(
            step.weight_gradient(shift, backward[index + 1], responses[index + 1] @ joint)
        )
    forward = [_weighted(_preact_m2(layer), s) for layer, s in zip(layers, preact, strict=True)]
    down = [_weighted(_cotangent_m2(layer), s) for layer, s in zip(layers, backward, strict=True)]
    shifts = {"preact_m2": forward, "vjp_m2": down, "weight_vjp_m2": weight}
    return {quantity: torch.stack(values).numpy() for quantity, values in shifts.items()}


@dataclass(frozen=True)
class _UnitRates:
    """Second moment of units, and derivatives of its logarithm with respect to log Var[y].

    Attributes
    ----------
    m2
        E[x^2], of single points before any pooling.
    value, slope
        First and second derivatives of log E[x^2] and log E[(dx/dy)^2].
    """

    m2: Points
    value: tuple[Points, Points]
    slope: tuple[Points, Points]

    @property
    def are_homogeneous(self) -> bool:
        """True if log E[x^2] is linear in log E[y^2], which shifts no mean."""
        first, *others = (*self.value, *self.slope)
        flat = [first - 1, *others]
        return all(bool(rate.abs().max() < FLAT) for rate in flat)


@dataclass(frozen=True)
class _Step:
    """Step of the recursion from the pre-activations of one layer to those of the next.

    Attributes
    ----------
    taps, var
        Geometry and variances of the next layer's weights.
    input_m2, preact_m2, cotangent_m2
        Second moments of the next layer's input, pre-activations and cotangent.
    output_cotangent_m2
        Second moment of the cotangent at that input.
    window
        Share of each pre-activation in each input of the next layer, [input, point]. None if points
        are not combined.
    spread
        Share of the cotangent at each input of the next layer in the cotangent at each
        pre-activation, [point, input]. None if points are not combined.
    rates
        Derivatives of the units' moments.
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
    window: Tensor | None
    spread: Tensor | None
    rates: _UnitRates
    own: Tensor
    own_slope: Tensor

    @classmethod
    def of(
        cls,
        layer: FieldLayer,
        next_layer: FieldLayer,
        rates: _UnitRates,
        samples: ChannelSamples,
    ) -> _Step:
        assert layer.interlayer is not None
        assert layer.outputs is not None
        assert layer.output_cotangent is not None
        weights = next_layer.weights
        output_m2 = squeeze_field(layer.output_cotangent.m2, 1)
        members = _members(layer) if layer.interlayer.mixes_points else None
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
            window=None if members is None else _rows(members * rates.m2),
            spread=None if members is None else _rows(members.mT * output_m2),
            rates=rates,
            own=squares.mT @ squares / (len(squares) * layer.weights.out_channels),
            own_slope=slopes.mT @ squares / (len(squares) * layer.weights.out_channels),
        )

    def forward(self, shift: Points, covariance: Tensor) -> tuple[Points, Tensor]:
        """Propagate the shift of E[x^2], and the covariance of its logarithm, to the next layer."""
        first, curved = self.rates.value[0], _curved(self.rates.value, shift, covariance.diagonal())
        passed = first[:, None] * covariance * first
        if self.window is None:
            return curved, passed + self.own
        return self.window @ curved, self.window @ passed @ self.window.mT + self.own

    def to_preact(self, x: Float[Tensor, "input column"]) -> Float[Tensor, "point column"]:
        """Average log-deviations of the input, weighted by their shares (the matrix T)."""
        return self._read(self.input_m2[:, None] * x) / self.preact_m2.clamp(min=TINY)[:, None]

    def _read(self, x: Float[Tensor, "input column"]) -> Float[Tensor, "point column"]:
        """Sum over the inputs of each output point, weighted by the variances of the weights."""
        index = self.taps.input_index
        if self.taps.is_linear:
            return (self.var[:, None] * x[index[0] - 1]).sum(0, keepdim=True)
        padded = torch.nn.functional.pad(x, (0, 0, 1, 0))
        total = x.new_zeros(len(index), x.shape[1])
        for tap, variance in zip(index.T, self.var.tolist(), strict=True):
            total.add_(padded.index_select(0, tap), alpha=variance)
        return total

    def _send(self, x: Float[Tensor, "point column"]) -> Float[Tensor, "input column"]:
        """Apply the transpose of `_read`."""
        index = self.taps.input_index
        received = x.new_zeros(self.taps.n_inputs + 1, x.shape[1])
        if self.taps.is_linear:
            received.index_add_(0, index[0], self.var[:, None] * x)
        else:
            for tap, variance in zip(index.T, self.var.tolist(), strict=True):
                received.index_add_(0, tap, x, alpha=variance)
        return received[1:]

    def backward(
        self, shift: Points, covariance: Tensor, next_shift: Points, next_response: Tensor
    ) -> tuple[Points, Tensor]:
        """Return the shift of E[d^2] of the cotangent, and the derivatives of its logarithm.

        The derivatives [point, t] are with respect to t, the logarithm of E[y^2] at each point.
        `next_shift` and `next_response` are the two results of the next layer.
        """
        first, curved = self.rates.slope[0], _curved(self.rates.slope, shift, covariance.diagonal())
        response = self._pull_back(next_response)
        passed = first[:, None] * covariance * self.rates.value[0]
        if self.window is not None:
            passed = passed @ self.window.mT
        joint = self.to_preact((passed + self.own_slope).mT).mT
        value = curved + self._pull_back(next_shift[:, None])[:, 0] + (joint * response).sum(-1)
        by_input = self._send((response / self.preact_m2.clamp(min=TINY)).mT).mT * self.input_m2
        by_unit = by_input if self.window is None else by_input @ self.window
        return value, torch.diag(first) + by_unit * self.rates.value[0]

    def _pull_back(self, x: Float[Tensor, "point column"]) -> Tensor:
        """Average over the next layer's points, weighted by their shares in the cotangent."""
        sent = self._send(x * self.cotangent_m2[:, None])
        average = sent / self.output_cotangent_m2.clamp(min=TINY)[:, None]
        return average if self.spread is None else self.spread @ average

    def weight_gradient(self, input_shift: Points, shift: Points, joint: Tensor) -> Tensor:
        """Average the shift of (cotangent times input)^2 over outputs and kernel positions."""
        shares = self.cotangent_m2[:, None] * self.taps.gather(self.input_m2)
        index = self.taps.input_index
        products = torch.nn.functional.pad(joint, (1, 0)).gather(1, index)
        total = shift[:, None] + self.taps.gather(input_shift) + products
        return _weighted(shares, total)


def _members(layer: FieldLayer) -> Tensor:
    """Return a matrix [input of the next layer, point], 1 where the input depends on the point."""
    interlayer = layer.interlayer
    assert interlayer is not None
    x = torch.eye(layer.preact.var.shape[-1], dtype=torch.float64)
    x = x.unflatten(-1, (interlayer.images_per_field, *interlayer.positions)).transpose(0, 1)
    for step in interlayer.steps:
        if isinstance(step, Mixing):
            x = step(x, 1)
    return (x.transpose(0, 1).flatten(1) != 0).double().mT


def _unit_rates(layer: FieldLayer) -> _UnitRates:
    assert layer.interlayer is not None
    mean = squeeze_field(layer.preact.mean, 1).expand_as(_preact_m2(layer))
    low, middle, high = (
        unit_moments(layer.interlayer.pointwise_layers, mean, _preact_m2(layer) * exp(h), COARSE)
        for h in (-LOG_STEP, 0.0, LOG_STEP)
    )

    def differences(values: Sequence[Tensor]) -> tuple[Points, Points]:
        a, b, c = (x.clamp(min=TINY).log() for x in values)
        return (c - a) / (2 * LOG_STEP), (c - 2 * b + a) / LOG_STEP**2

    parts = (low, middle, high)
    return _UnitRates(
        middle.m2,
        differences([units.m2 for units in parts]),
        differences([units.slope_m2 for units in parts]),
    )


def _curved(rates: tuple[Points, Points], shift: Points, variance: Points) -> Points:
    """Return the shift of a moment with these derivatives by an argument of this variance."""
    first, second = rates
    return first * (shift - variance / 2) + (second + first.square()) * variance / 2


def _relative_squares(x: Float[Tensor, "sample point"]) -> Tensor:
    """Return deviations of x^2 from its mean, relative to the mean."""
    squares = x.square()
    mean = squares.mean(0)
    return torch.where(mean > 0, squares / mean.clamp(min=TINY) - 1, 0.0)


def _rows(x: Tensor) -> Tensor:
    """Scale each row to the sum 1; rows of zeros stay."""
    return x / x.sum(1, keepdim=True).clamp(min=TINY)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum().clamp(min=TINY)


def _preact_m2(layer: FieldLayer) -> Points:
    return squeeze_field(layer.preact.m2, 1)


def _cotangent_m2(layer: FieldLayer) -> Points:
    assert layer.cotangent is not None
    return squeeze_field(layer.cotangent.m2, 1)
