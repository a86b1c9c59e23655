"""Adjoints of the field's recursion: derivatives of some targets, carried from layer to layer.

Behind a layer's modules, F maps the covariance K of a field y to the second moments of x = f(y);
backward, H maps K and the cotangent's second moments at x to those at y. Their adjoints carry the
derivatives the other way. A derivative by a covariance is a form: a matrix over points, or its
diagonal where nothing else matters; its first axis counts targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.field.forward import before_and_after, closed_form_of
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.state import FieldLayer, Preactivation
from fanin.theory.gaussian_pairs import PairLaw, pair_law
from fanin.theory.layer_kind import DropoutStep
from fanin.theory.mean_field import UnitMoments, unit_moments

ALL_FOLLOWED = 16  # conv layers up to which all weight gradients are followed through the network
FOLLOWED = (0.0, 0.15, 0.5, 1.0)  # places of those that are in deeper ones; the rest lie between
STEP = 1e-3  # of a log-variance: the second difference is below 1e-6, quadrature's noise below 1e-7
# Of a correlation: at 1, the products of a kink's slopes have an infinite derivative.
BEND = 1e-2
Points = Float[Tensor, " point"]
Pairs = Float[Tensor, "point point"]
PairFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
Forms = Tensor
"""[target, point, point], or diagonals [target, point]."""


def is_closed(between: Interlayer, made: Preactivation) -> bool:
    """Return True if `ClosedAdjoint` covers the modules: one function between linear ones."""
    thinnings = [step for step in between.steps if isinstance(step, DropoutStep)]
    if any(step.whole_channel for step in thinnings) or (thinnings and between.mixes):
        return False
    return closed_form_of(between, made) is not None


@dataclass(frozen=True)
class ClosedAdjoint:
    """Adjoints through one elementwise function between linear modules.

    With G = E[phi(u) phi(v)] a function of the covariance k and the variances a and b of a pair,
    dG/dk = E[phi'(u) phi'(v)] (Price 1958). Other derivatives are symmetric differences.
    """

    layer: FieldLayer

    def into_cotangent(self, forms: Forms) -> tuple[Forms, Forms]:
        """H's adjoints: by the cotangent's moments at x, and by K."""
        if forms.ndim == 2:
            return forms * self._units.slope_m2, forms * self._into_points
        forms = congruent(forms, _transposed(self._before))
        sent = congruent(forms * self._slopes, _transposed(self._after))
        if self._received is None:
            return sent, diagonal(forms) * self._into_points
        weighted = forms * self._received
        by_pairs = _by_pairs(weighted, *self._slope_derivatives, self._slope_rate)
        return sent, congruent(by_pairs, self._before)

    def into_field(self, forms: Forms) -> Forms:
        """F's adjoint, by K."""
        if forms.ndim == 2 and not self._between.mixes:
            return forms * self._size_rate
        forms = congruent(torch.diag_embed(forms) if forms.ndim == 2 else forms, self._after)
        by_var = _by_row(self._law.covariance, self._cov, self._var, self._slopes)
        by_pairs = _by_pairs(forms, self._slopes, by_var, self._size_rate)
        return congruent(by_pairs, self._before)

    @cached_property
    def _between(self) -> Interlayer:
        assert self.layer.between is not None
        return self.layer.between

    @cached_property
    def _shift(self) -> float:
        shift = self.layer.made.shift
        assert shift is not None
        return shift

    @cached_property
    def _around(self) -> tuple[Tensor | None, Tensor | None]:
        """The linear modules on both sides of the function, [in point, out point]."""
        form = closed_form_of(self._between, self.layer.made)
        assert form is not None
        before, after = before_and_after(self._between, form)
        return _product(before), _product([step for step in after if isinstance(step, Tensor)])

    @property
    def _before(self) -> Tensor | None:
        return self._around[0]

    @property
    def _after(self) -> Tensor | None:
        return self._around[1]

    @cached_property
    def _law(self) -> PairLaw:
        form = closed_form_of(self._between, self.layer.made)
        assert form is not None
        return pair_law(form.function)

    @cached_property
    def _cov(self) -> Pairs:
        assert self.layer.made.cov is not None
        return congruent(alone(self.layer.made.cov, 2), _transposed(self._before))

    @cached_property
    def _var(self) -> Points:
        if self._before is None:
            return alone(self.layer.made.var, 1)
        return diagonal(self._cov).clamp(min=0)

    @cached_property
    def _received(self) -> Pairs | None:
        """The cotangent's moments behind the function; None where points are uncorrelated."""
        received = self.layer.received
        assert received is not None
        if received.products is None and not self._between.mixes:
            return None
        return congruent(alone(received.matrix, 2), self._after)

    @cached_property
    def _units(self) -> UnitMoments:
        return self._units_at(self._var)

    def _units_at(self, var: Points) -> UnitMoments:
        return unit_moments(self._between.pointwise_layers, torch.full_like(var, self._shift), var)

    @cached_property
    def _rates(self) -> tuple[Points, Points]:
        up, down = (self._units_at(self._var * exp(h)) for h in (STEP, -STEP))
        width = 2 * STEP * torch.where(self._var > 0, self._var, torch.inf)
        return (up.m2 - down.m2) / width, (up.slope_m2 - down.slope_m2) / width

    @property
    def _size_rate(self) -> Points:
        """dE[phi^2] / dq."""
        return self._rates[0]

    @property
    def _slope_rate(self) -> Points:
        """dE[phi'^2] / dq."""
        return self._rates[1]

    @cached_property
    def _into_points(self) -> Points:
        assert self.layer.received is not None
        return alone(self.layer.received.m2, 1) * self._slope_rate

    @cached_property
    def _slopes(self) -> Pairs:
        slopes = self._law.slope_covariance(self._cov, self._var, self._var)
        return slopes.diagonal_scatter(self._units.slope_m2, dim1=-2, dim2=-1)

    @cached_property
    def _slope_derivatives(self) -> tuple[Pairs, Pairs]:
        of, cov, var = self._law.slope_covariance, self._cov, self._var
        step = BEND * (var[:, None] * var).sqrt() * torch.where(cov > 0, 1.0, -1.0)
        change = of(cov, var, var) - of(cov - step, var, var)
        by_cov = change / torch.where(step != 0, step, torch.inf)
        return by_cov, _by_row(of, cov, var, by_cov)


def _by_row(of: PairFunction, cov: Pairs, var: Points, by_cov: Pairs) -> Pairs:
    """Derivative by the row's variance; first at fixed correlation, which can't leave [-1, 1]."""
    up, down = (of(cov * exp(h / 2), var * exp(h), var) for h in (STEP, -STEP))
    log_rate = (up - down) / (2 * STEP) - cov * by_cov / 2
    return log_rate / torch.where(var > 0, var, torch.inf)[:, None]


def _by_pairs(forms: Tensor, by_cov: Pairs, by_var: Pairs, by_own: Points) -> Tensor:
    """Chain rule for moments that are functions of a pair's covariance and variances."""
    own = diagonal(forms)
    apart = forms - torch.diag_embed(own)
    return apart * by_cov + torch.diag_embed(2 * (apart * by_var).sum(-1) + own * by_own)


def _product(steps: Sequence[Tensor]) -> Tensor | None:
    product = None
    for step in steps:
        product = step if product is None else product @ step
    return product


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.mT


def followed(layers: Sequence[FieldLayer]) -> list[int]:
    """The layers whose weight gradients are followed; all of them, but for very deep networks."""
    maps = [number for number, layer in enumerate(layers) if not layer.taps.whole]
    if len(maps) > ALL_FOLLOWED:
        maps = [maps[round(share * (len(maps) - 1))] for share in FOLLOWED]
    return [number for number, layer in enumerate(layers) if layer.taps.whole or number in maps]


def by_cotangent(layer: FieldLayer, images: int) -> Tensor:
    """Derivative of a layer's log weight gradient by its cotangent's moments."""
    taps, fed = layer.taps, layer.fed
    assert fed.products is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    form = taps.sum_covariances(alone(fed.products, 2)[None], ones)[0]
    # Each image has a gradient of its own.
    blocks = form.unflatten(1, (images, -1)).unflatten(0, (images, -1))
    own = torch.eye(images, dtype=torch.float64)[:, None, :, None]
    form = (blocks * own).flatten(2).flatten(0, 1)
    return form / _weight_gradient(layer, images)


def by_fed(layer: FieldLayer, images: int) -> Forms:
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


def matrices(forms: Forms) -> Tensor:
    """Forms written out."""
    return torch.diag_embed(forms) if forms.ndim == 2 else forms


def symmetric(forms: Tensor) -> Tensor:
    """The symmetric part of matrices."""
    return (forms + forms.mT) / 2


def quadratic(x: Float[Tensor, "sample point"], forms: Forms) -> Float[Tensor, "sample target"]:
    """The forms' values at each sample.

    Examples
    --------
    >>> quadratic(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    tensor([[5., 4.]])
    """
    if forms.ndim == 2:
        return x.square() @ forms.mT
    values = [((x @ form) * x).sum(-1) for form in forms]
    return torch.stack(values, -1) if values else x.new_zeros(len(x), 0)


def congruent(forms: Tensor, by: Tensor | None) -> Tensor:
    """A form of B^T x as a form of x: B form B^T."""
    return forms if by is None else by @ forms @ by.mT


def diagonal(forms: Tensor) -> Tensor:
    """The diagonals of matrices."""
    return forms.diagonal(dim1=-2, dim2=-1)


def alone(x: Tensor, axes: int) -> Tensor:
    """A field's tensor without its axes of images, particles and groups, one of each."""
    return x.reshape(x.shape[-axes:])
