r"""Spread of one draw's log-moments, by differentiating the field's recursion.

At finite width a layer's second moments are averages over its C channels. One channel's influence
psi on a target log T (its samples' x x^T forward and d d^T backward, weighed by the derivatives of
log T) scatters, and the channels are independent given the layers before (THEORY.md, 5.3):

.. math:: Var[\log T] = \sum_j Var[\psi_j] / C_j + \text{own term}

First order in 1/C. One sweep up the network carries derivatives with respect to cotangents, one
down those with respect to covariances, all targets at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analysis.theory.field.state import Cotangent, FieldLayer
from analysis.theory.finite.channels import Channels, drawn_channels, whitened_channels
from analysis.theory.finite.closed import ClosedAdjoint, is_closed
from analysis.theory.finite.directions import directions, logit_cotangents
from analysis.theory.finite.forms import Forms, alone, diagonal, matrices, quadratic
from analysis.theory.finite.shifts import sum_covariances

FEWEST = 256  # samples of a channel; of a layer's share of the variance they know some 25 %
MOST = 16384  # some 4 %
AT_ONCE = 2**22  # numbers in the samples of all layers, between those bounds
ALL_FOLLOWED = 16  # conv layers up to which all weight gradients are followed through the network
FOLLOWED = (0.0, 0.15, 0.5, 1.0)  # places of those that are in deeper ones; the rest lie between


@dataclass(frozen=True)
class Freedom:
    """How much of a layer's second moments its weights leave free, given its inputs: (1, 1) for
    independent weights, less where orthogonal ones keep lengths, forward or backward."""

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
class _Station:
    """What the way up leaves for the way down.

    Attributes
    ----------
    x
        What the samples of a channel pass on.
    channels
        The samples themselves, where adjoints have no closed form or weights are orthogonal.
    closed
        Whether there is a closed form.
    influence
        Of samples on targets.
    kept
        The part of it that orthogonal weights keep fixed on the way back.
    into_field
        By the field's covariance; by the cotangent's moments where that has no closed form.
    """

    x: Float[Tensor, "sample out"]
    channels: Channels | None
    closed: bool
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
        self.weight_targets = _followed(layers)
        self.stations: list[_Station] = []

    def up(self) -> None:
        """From the first layer to the last but one: derivatives by cotangents' moments."""
        points, pairs = _Group(), _Group()
        for number, layer in enumerate(self.layers[:-1]):
            assert layer.between is not None
            assert layer.cotangent is not None
            closed = is_closed(layer.between, layer.made)
            held = self.n * layer.made.var.shape[-1]
            samples = max(FEWEST, min(MOST, AT_ONCE // held))
            channels = channels_of(layer, samples, not closed, self.seed, number)
            nothing = torch.zeros(len(channels.y), 3 * self.n, dtype=torch.float64)
            keep = not closed or self.freedoms[number].forward < 1
            x, kept = channels.x.detach(), channels if keep else None
            station = _Station(x, kept, closed, nothing, nothing)
            self.stations.append(station)
            m2 = alone(layer.cotangent.m2, 1)
            if m2.sum() > 0:
                form = torch.full_like(m2, 1 / float(m2.sum()))
                if layer.cotangent.products is None:
                    points.add(self.n + number, form)
                else:
                    pairs.add(self.n + number, torch.diag(form))
                if number in self.weight_targets:
                    pairs.add(2 * self.n + number, _by_cotangent(layer, self.images))
            adjoint = ClosedAdjoint(layer) if closed else None
            for group in (points, pairs):
                if group.forms is not None:
                    self._send_up(number, station, channels, adjoint, group)

    def _send_up(
        self,
        number: int,
        station: _Station,
        channels: Channels,
        adjoint: ClosedAdjoint | None,
        group: _Group,
    ) -> None:
        layer, above, forms = self.layers[number], self.layers[number + 1], group.forms
        assert forms is not None
        assert layer.received is not None
        targets = group.targets
        station.influence = station.influence.index_add(
            1, torch.tensor(targets), quadratic(channels.d.detach(), forms)
        )
        if adjoint is None:
            sent, into_field = channels.into_cotangent(forms, layer.received), forms
        else:
            sent, into_field = adjoint.into_cotangent(forms)
        station.into_field.append((list(targets), into_field))
        taps, weights = above.taps, above.weights
        if self.freedoms[number + 1].backward < 1:
            held = _lengths(sent, layer.received) if taps.whole else sent
            station.kept = station.kept.index_add(
                1, torch.tensor(targets), quadratic(channels.gamma.detach(), held)
            )
        if sent.ndim == 2:
            group.forms = weights.outputs * taps.sum_variances(sent, weights.var)
        else:
            group.forms = weights.outputs * sum_covariances(taps, sent, weights.var)

    def down(self) -> None:
        """From the last layer to the first: derivatives by covariances of the fields."""
        last = self.layers[-1]
        forms = torch.zeros(3 * self.n, last.made.var.shape[-1], dtype=torch.float64)
        forms = self._with_own(self.n - 1, forms)
        for number in range(self.n - 2, -1, -1):
            layer, above, station = (
                self.layers[number],
                self.layers[number + 1],
                self.stations[number],
            )
            taps, weights = above.taps, above.weights
            through = taps.send_variances if forms.ndim == 2 else taps.send_covariances
            forms = weights.inputs * through(forms, weights.var)
            weight_target = 2 * self.n + number + 1
            if number + 1 in self.weight_targets:
                direct = _by_fed(above, self.images)
                forms[weight_target] += direct if direct.ndim == forms.ndim - 1 else direct.diag()
            influence = station.influence + quadratic(station.x, forms)
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
        self, number: int, station: _Station, forms: Forms, freedom: float
    ) -> tuple[Forms, Tensor]:
        """Forms on the field, and the part of the influence that is a form of it."""
        layer, channels = self.layers[number], station.channels
        if not station.closed:
            assert channels is not None
            backward = list(torch.zeros(3 * self.n, channels.y.shape[-1]).to(forms))
            for targets, group in station.into_field:
                for target, form in zip(targets, group, strict=True):
                    backward[target] = form
            white = channels.into_whitened(forms, backward)
            found = channels.unwhitened(white) if number else white
        else:
            found = ClosedAdjoint(layer).into_field(forms)
            for targets, group in station.into_field:
                found[targets] += group if group.ndim == found.ndim else matrices(group)
        if freedom == 1:
            return found, torch.zeros(())
        assert channels is not None
        if not station.closed:
            return found, quadratic(channels.normals, white)
        return found, quadratic(channels.y.detach() - alone(layer.made.mean, 1), found)

    def _with_own(self, number: int, forms: Forms) -> Forms:
        """Add the layer's own target, and what its channels scatter at the layer itself."""
        made, weights = self.layers[number].made, self.layers[number].weights
        mean, var = alone(made.mean, 1).expand(made.var.shape[-1]), alone(made.var, 1)
        total = (mean.square() + var).sum()
        if not total > 0:
            return forms
        cov = torch.diag(var) if made.cov is None else alone(made.cov, 2)
        own = (2 * cov.square().sum() + 4 * mean @ cov @ mean) / total.square()
        freedom, channels = self.freedoms[number].forward, weights.channels
        scatter = _of_log(freedom * float(own) / channels)
        self.variance[number] += scatter
        around = _around_mean(cov, self.images, channels, freedom)
        self.centring[number] = _of_log(around) - scatter
        form = torch.full_like(var, 1 / float(total))
        if forms.shape[-1] == len(var):
            forms[number] += form if forms.ndim == 2 else torch.diag(form)
        return forms


def _of_log(variance: float) -> float:
    """Variance of the logarithm of a chi-square of that relative variance: it is a little more."""
    return float(torch.special.polygamma(1, torch.tensor(1 / variance))) if variance > 0 else 0.0


def _around_mean(cov: Tensor, images: int, channels: int, freedom: float) -> float:
    """Relative variance of a layer's mean square around the mean over an image's points and
    channels, given the covariance of its field."""
    points = len(cov) // images
    means = torch.eye(images, dtype=torch.float64).repeat_interleave(points, 0) / points
    against = cov @ means
    squares = means.mT @ against / channels
    value = cov.diagonal().mean() - squares.diagonal().mean()
    own = freedom * 2 * cov.square().mean() / channels
    both = freedom * 2 * against.square().sum() / (len(cov) * images * channels**2)
    variance = own + 2 * squares.square().mean() - 2 * both
    if not value > 1e-9 * cov.diagonal().mean():  # a single unit
        return 0.0
    return float(variance / value.square())


def _lengths(sent: Forms, received: Cotangent) -> Forms:
    """The part of forms that a vector's length decides, its entries being alike."""
    size = alone(received.m2, 1)
    own = sent if sent.ndim == 2 else diagonal(sent)
    share = (own @ size) / size.sum().clamp(min=1e-300)
    return share[:, None].expand(len(share), len(size))


def _followed(layers: Sequence[FieldLayer]) -> list[int]:
    maps = [number for number, layer in enumerate(layers) if layer.made.var.shape[-1] > 1]
    if len(maps) > ALL_FOLLOWED:
        maps = [maps[round(share * (len(maps) - 1))] for share in FOLLOWED]
    return [n for n, layer in enumerate(layers) if layer.made.var.shape[-1] == 1 or n in maps]


def _by_cotangent(layer: FieldLayer, images: int) -> Tensor:
    """Derivative of a layer's log weight gradient by its cotangent's moments."""
    taps, fed = layer.taps, layer.fed
    assert fed.products is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    form = sum_covariances(taps, alone(fed.products, 2)[None], ones)[0]
    # Each image has a gradient of its own.
    blocks = form.unflatten(1, (images, -1)).unflatten(0, (images, -1))
    own = torch.eye(images, dtype=torch.float64)[:, None, :, None]
    form = (blocks * own).flatten(2).flatten(0, 1)
    return form / _weight_gradient(layer, images)


def _by_fed(layer: FieldLayer, images: int) -> Forms:
    """The same by the moments of what the layer is fed; diagonal where that's all there is."""
    taps, cotangent = layer.taps, layer.cotangent
    assert cotangent is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    if cotangent.products is None:
        form = taps.send_variances(alone(cotangent.m2, 1), ones)
    else:
        form = taps.send_covariances(alone(cotangent.products, 2), ones)
    return form / _weight_gradient(layer, images)


def _weight_gradient(layer: FieldLayer, images: int) -> float:
    """The sum over taps of E[(dL/dw)^2]; inf where it vanishes."""
    taps, cotangent, fed = layer.taps, layer.cotangent, layer.fed
    assert cotangent is not None
    if cotangent.products is None:
        found = taps.gradient_of_variances(cotangent.m2, fed.m2, images)
    else:
        assert fed.products is not None
        found = taps.gradient_of_covariances(cotangent.products, fed.products, images)
    total = float(found.sum()) * taps.n_taps
    return total if total > 0 else float("inf")
