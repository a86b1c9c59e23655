r"""Spread of one draw's log-moments, by differentiating the field's recursion.

At finite width a layer's second moments are averages over its C channels. One channel's influence
psi on a target log T (its samples' x x^T forward and d d^T backward, weighed by the derivatives of
log T) scatters, and the channels are independent given the layers before (derivations.md, 5.3):

.. math:: Var[\log T] = \sum_j Var[\psi_j] / C_j + \text{own term}

First order in 1/C. One sweep up the network carries derivatives with respect to cotangents, one
down those with respect to covariances, all targets at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fanin.theory.field.state import Cotangent, FieldLayer
from fanin.theory.finite_width.adjoints import (
    ClosedAdjoint,
    Forms,
    alone,
    by_cotangent,
    by_fed,
    diagonal,
    followed,
    is_closed,
    matrices,
    quadratic,
)
from fanin.theory.finite_width.channels import (
    Channels,
    directions,
    drawn_channels,
    logit_cotangents,
    whitened_channels,
)

FEWEST = 256  # samples of a channel; of a layer's share of the variance they know some 25 %
MOST = 16384  # some 4 %
AT_ONCE = 2**22  # numbers in the samples of all layers, between those bounds
Matrix = Float[Tensor, "point point"]


@dataclass(frozen=True)
class Freedom:
    """Share of a layer's second moments that its weights leave free, given its inputs: (1, 1) for
    independent weights, less where orthogonal ones keep lengths, forward or backward.
    """

    forward: float = 1.0
    backward: float = 1.0


def log_variances(
    layers: Sequence[FieldLayer],
    freedoms: Sequence[Freedom],
    *,
    images: int = 1,
    seed: int = 0,
) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Variance of the logarithm of one draw's moments, on the image of a walk.

    Of several images taken jointly: of the mean over them.

    Parameters
    ----------
    layers
        One pass of `walk_field`, covariances everywhere, with weights of mean zero.
    freedoms
        Of each layer's weights.
    images
        Taken jointly in the walk.

    Returns
    -------
    dict
        preact_m2, preact_var, vjp_m2, weight_vjp_m2 to an array over layers.
    """
    sweeps = _Sweeps(tuple(layers), tuple(freedoms), images, seed)
    sweeps.up()
    sweeps.down()
    n = len(layers)
    found = sweeps.variance.clamp(min=0).numpy()
    weight, followed = found[2 * n :], sweeps.weight_targets
    return {
        "preact_m2": found[:n],
        "preact_var": (found[:n] + sweeps.centring.numpy()).clip(min=0),
        "vjp_m2": found[n : 2 * n],
        "weight_vjp_m2": np.interp(np.arange(n), followed, weight[followed]),
    }


@dataclass
class _Group:
    """Targets whose derivatives by cotangents are carried together."""

    targets: list[int] = field(default_factory=list)
    forms: Forms | None = None

    def add(self, target: int, form: Tensor) -> None:
        self.targets.append(target)
        self.forms = form[None] if self.forms is None else torch.cat([self.forms, form[None]])


@dataclass
class _LayerSamples:
    """State of a layer between the sweeps.

    Attributes
    ----------
    channels
        Samples of one of its channels.
    gamma, d
        Cotangents that these received from one draw of the channels above, in front and behind.
    whitened
        Samples for adjoints; None where those have closed forms.
    influence
        Of samples on targets.
    kept
        The part of it that orthogonal weights keep fixed on the way back.
    into_field
        By the field's covariance; by the cotangent's moments where that has no closed form.
    """

    channels: Channels
    gamma: Float[Tensor, "sample out"]
    d: Float[Tensor, "sample point"]
    whitened: Channels | None
    influence: Float[Tensor, "sample target"]
    kept: Float[Tensor, "sample target"]
    into_field: list[tuple[list[int], Forms]] = field(default_factory=list)


class _Sweeps:
    """Targets are counted: preact_m2 of all layers, then vjp_m2, then weight_vjp_m2."""

    def __init__(
        self,
        layers: tuple[FieldLayer, ...],
        freedoms: tuple[Freedom, ...],
        images: int,
        seed: int,
    ) -> None:
        self.layers, self.freedoms, self.images, self.seed = layers, freedoms, images, seed
        self.n = len(layers)
        self.variance = torch.zeros(3 * self.n, dtype=torch.float64)
        # What a layer's own scatter changes by when it is taken around the mean over all units.
        self.centring = torch.zeros(self.n, dtype=torch.float64)
        self.weight_targets = followed(layers)
        self.samples = self._sample_layers()

    def _sample_layers(self) -> list[_LayerSamples]:
        d = logit_cotangents(self.layers[-1], self.seed)
        samples_of_layers = []
        for number in range(self.n - 2, -1, -1):
            layer, above = self.layers[number], self.layers[number + 1]
            assert layer.between is not None
            assert layer.received is not None
            place = (self.seed, number)
            senders = 1 if above.taps.whole else min(len(d), above.weights.outputs)
            points = max(layer.made.var.shape[-1], above.taps.n_taps * senders // self.n)
            samples = max(FEWEST, min(MOST, AT_ONCE // (self.n * points)))
            gamma = directions(above, d, layer.received, samples, *place)
            channels, d = drawn_channels(layer, gamma, *place)
            closed = is_closed(layer.between, layer.made)
            whitened = None if closed else whitened_channels(layer, *place)
            if closed and self.freedoms[number].forward == 1:
                nobody = torch.empty(0, dtype=torch.float64)  # asks for these again
                channels = replace(channels, normals=nobody, root=nobody, y=nobody)
            nothing = torch.zeros(samples, 3 * self.n, dtype=torch.float64)
            samples_of_layers.append(_LayerSamples(channels, gamma, d, whitened, nothing, nothing))
        return samples_of_layers[::-1]

    def up(self) -> None:
        """From the first layer to the last but one: derivatives by cotangents' moments."""
        points, pairs = _Group(), _Group()
        for number, (layer, station) in enumerate(zip(self.layers, self.samples, strict=False)):
            assert layer.cotangent is not None
            m2 = alone(layer.cotangent.m2, 1)
            if m2.sum() > 0:
                form = torch.full_like(m2, 1 / float(m2.sum()))
                if layer.cotangent.products is None:
                    points.add(self.n + number, form)
                else:
                    pairs.add(self.n + number, torch.diag(form))
                if number in self.weight_targets:
                    pairs.add(2 * self.n + number, by_cotangent(layer, self.images))
            adjoint = ClosedAdjoint(layer) if station.whitened is None else None
            for group in (points, pairs):
                if group.forms is not None:
                    self._send_up(number, adjoint, group)
        if not self.layers[-1].taps.whole:
            self._scatter_of_cotangent(points, pairs)

    def _scatter_of_cotangent(self, points: _Group, pairs: _Group) -> None:
        """Of a random cotangent on maps, whose length alone is fixed."""
        last = self.layers[-1]
        if self.n - 1 in self.weight_targets:
            pairs.add(3 * self.n - 1, by_cotangent(last, self.images))
        for group in (points, pairs):
            if group.forms is not None:
                forms = matrices(group.forms)
                each = diagonal(forms).unflatten(1, (self.images, -1))
                length = each.mean(-1, keepdim=True).expand_as(each).flatten(1)
                free = (forms - torch.diag_embed(length)).square().sum((1, 2))
                self.variance[group.targets] += 2 * free / last.weights.channels

    def _send_up(self, number: int, adjoint: ClosedAdjoint | None, group: _Group) -> None:
        layer, above, station = self.layers[number], self.layers[number + 1], self.samples[number]
        forms, targets = group.forms, torch.tensor(group.targets)
        assert forms is not None
        assert layer.received is not None
        # Diagonal forms don't see what one draw correlates; matrices carry it to the layer above.
        channels, one_draw = station.channels, forms.ndim == 2
        influence = quadratic(station.d if one_draw else channels.d, forms)
        station.influence = station.influence.index_add(1, targets, influence)
        if adjoint is not None:
            sent, into_field = adjoint.into_cotangent(forms)
        else:
            assert station.whitened is not None
            sent, into_field = station.whitened.into_cotangent(forms, layer.received), forms
        station.into_field.append((list(group.targets), into_field))
        taps, weights = above.taps, above.weights
        if self.freedoms[number + 1].backward < 1:
            held = _lengths(sent, layer.received) if taps.whole else sent
            kept = quadratic(station.gamma if one_draw else channels.gamma, held)
            station.kept = station.kept.index_add(1, targets, kept)
        if sent.ndim == 2:
            group.forms = weights.outputs * taps.sum_variances(sent, weights.var)
        else:
            group.forms = weights.outputs * taps.sum_covariances(sent, weights.var)

    def down(self) -> None:
        """From the last layer to the first: derivatives by covariances of the fields."""
        last = self.layers[-1]
        forms = torch.zeros(3 * self.n, last.made.var.shape[-1], dtype=torch.float64)
        forms = self._with_own(self.n - 1, forms)
        for number in range(self.n - 2, -1, -1):
            layer, above, station = (
                self.layers[number],
                self.layers[number + 1],
                self.samples[number],
            )
            taps, weights = above.taps, above.weights
            through = taps.send_variances if forms.ndim == 2 else taps.send_covariances
            forms = weights.inputs * through(forms, weights.var)
            weight_target = 2 * self.n + number + 1
            if number + 1 in self.weight_targets:
                direct = by_fed(above, self.images)
                forms[weight_target] += direct if direct.ndim == forms.ndim - 1 else direct.diag()
            influence = station.influence + quadratic(station.channels.x, forms)
            freedom, back = self.freedoms[number].forward, self.freedoms[number + 1].backward
            if number == 0 and freedom == 1:
                kept = torch.zeros(())
            else:
                forms, kept = self._into_field(number, station, forms, freedom)
            spread = influence.var(0)
            if min(freedom, back) < 1:
                spread = (influence - station.kept - kept).var(0)
                spread = spread + back * station.kept.var(0) + freedom * kept.var(0)
            self.variance += spread / layer.weights.channels
            forms = self._with_own(number, forms)

    def _into_field(
        self, number: int, station: _LayerSamples, forms: Forms, freedom: float
    ) -> tuple[Forms, Tensor]:
        """Forms on the field, and the part of the influence that is a form of it."""
        layer, channels, whitened = self.layers[number], station.channels, station.whitened
        if whitened is None:
            found = ClosedAdjoint(layer).into_field(forms)
            for targets, group in station.into_field:
                found[targets] += group if group.ndim == found.ndim else matrices(group)
            if freedom == 1:
                return found, torch.zeros(())
            return found, quadratic(channels.y - alone(layer.made.mean, 1), found)
        backward = list(torch.zeros(3 * self.n, channels.y.shape[-1]).to(forms))
        for targets, group in station.into_field:
            for target, form in zip(targets, group, strict=True):
                backward[target] = form
        found = whitened.into_whitened(forms, backward)
        kept = quadratic(channels.normals, found) if freedom < 1 else torch.zeros(())
        # Below the first layer nothing is left to be differentiated.
        return whitened.unwhitened(found) if number else found, kept

    def _with_own(self, number: int, forms: Forms) -> Forms:
        """Add the layer's own target, and what its channels scatter at the layer itself."""
        made, weights = self.layers[number].made, self.layers[number].weights
        mean, var = alone(made.mean, 1).expand(made.var.shape[-1]), alone(made.var, 1)
        total = (mean.square() + var).sum()
        if not total > 0:
            return forms
        cov = torch.diag(var) if made.cov is None else alone(made.cov, 2)
        freedom, channels = self.freedoms[number].forward, weights.channels
        scatter = _around_zero(cov, mean, channels, freedom)
        self.variance[number] += scatter
        self.centring[number] = _around_mean(cov, self.images, channels, freedom) - scatter
        form = torch.full_like(var, 1 / float(total))
        if forms.shape[-1] == len(var):
            forms[number] += form if forms.ndim == 2 else torch.diag(form)
        return forms


def _lengths(sent: Forms, received: Cotangent) -> Forms:
    """The part of forms that a vector's length decides, its entries being alike."""
    size = alone(received.m2, 1)
    own = sent if sent.ndim == 2 else diagonal(sent)
    share = (own @ size) / size.sum().clamp(min=1e-300)
    return share[:, None].expand(len(share), len(size))


def _around_zero(
    cov: Matrix, mean: Float[Tensor, " point"], channels: int, freedom: float
) -> float:
    """Variance of the log of a layer's mean square, over C channels of a Gaussian field.

    2 tr(K^2) / (C tr(K)^2) for a centred one (derivations.md, 5.3): for a linear layer, 2 / C.
    """
    total = cov.trace() + mean.square().sum()
    if not total > 0:
        return 0.0
    own = (2 * cov.square().sum() + 4 * mean @ cov @ mean) / total.square()
    return _of_log(freedom * float(own) / channels)


def _around_mean(cov: Matrix, images: int, channels: int, freedom: float) -> float:
    """The same around the mean over an image's points and channels: of `preact_var`."""
    points = len(cov) // images
    means = torch.eye(images, dtype=torch.float64).repeat_interleave(points, 0) / points
    against = cov @ means
    squares = means.mT @ against / channels
    m2 = cov.diagonal().mean()
    value = m2 - squares.diagonal().mean()
    if not value > 1e-9 * m2:  # a single unit is its own mean
        return 0.0
    own = freedom * 2 * cov.square().mean() / channels
    both = freedom * 2 * against.square().sum() / (len(cov) * images * channels**2)
    variance = own + 2 * squares.square().mean() - 2 * both
    return _of_log(float(variance / value.square()))


def _of_log(variance: float) -> float:
    """Of the log of a chi-square that has this relative variance: a little more."""
    return float(torch.special.polygamma(1, torch.tensor(1 / variance))) if variance > 0 else 0.0
