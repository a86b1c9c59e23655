"""Adjoints of the field's recursion: derivatives of target quantities, from layer to layer.

The modules f between two weight layers map pre-activations y to x = f(y), and a cotangent g at x to
J^T g at y, with J the Jacobian of f. Let F map the covariance K of y to the second moments of x.
Let H map K and the second moments of g to those of J^T g. The adjoints of F and H convert
derivatives with respect to their results to derivatives with respect to their arguments.

Targets are log-moments of layers. The derivative of a target with respect to second moments is
called a form. It is a matrix over points (positions of an image), or only its diagonal where the
other entries do not matter. The first axis of a tensor of forms counts the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.field.forward import closed_form_for, linear_matrices, step_matrices
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.state import FieldLayer, Preactivation
from fanin.theory.gaussian_pairs import PairExpectations, pair_expectations
from fanin.theory.layer_kind import DropoutStep, Mixing
from fanin.theory.mean_field import UnitMoments, unit_moments

# Up to this many conv layers, every weight gradient is tracked through the network.
MAX_ALL_TRACKED = 16
# Relative depths of the tracked conv layers in deeper networks; the others are interpolated.
TRACKED_POSITIONS = (0.0, 0.15, 0.5, 1.0)
# Step of differences in a log-variance: the second difference is below 1e-6, the quadrature noise
# below 1e-7.
LOG_STEP = 1e-3
# Step of differences in a correlation: at 1, the slope products of a kink have an infinite
# derivative.
CORRELATION_STEP = 1e-2
Points = Float[Tensor, " point"]
Pairs = Float[Tensor, "point point"]
PairFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
Forms = Tensor
"""Quadratic forms [target, point, point], or their diagonals [target, point]."""


def is_closed(interlayer: Interlayer, preact: Preactivation) -> bool:
    """Return True if `ClosedAdjoint` applies: one elementwise function between linear modules."""
    dropouts = [step for step in interlayer.steps if isinstance(step, DropoutStep)]
    if any(step.whole_channel for step in dropouts) or (dropouts and interlayer.mixes_points):
        return False
    return closed_form_for(interlayer, preact) is not None


@dataclass(frozen=True)
class ClosedAdjoint:
    """Adjoints through one elementwise function between linear modules.

    G = E[phi(u) phi(v)] is a function of a pair's covariance k and variances a and b, and
    dG/dk = E[phi'(u) phi'(v)] (Price 1958). Other derivatives are symmetric differences.
    """

    layer: FieldLayer

    def cotangent_adjoint(self, forms: Forms) -> tuple[Forms, Forms]:
        """Convert forms of the cotangent's moments at y to those at x and of y's covariance."""
        if forms.ndim == 2:
            return forms * self._units.slope_m2, forms * self._point_sensitivity
        forms = congruence(forms, _transposed(self._before))
        output_forms = congruence(forms * self._slopes, _transposed(self._after))
        if self._output_products is None:
            return output_forms, diagonal(forms) * self._point_sensitivity
        weighted = forms * self._output_products
        by_pairs = _chain_rule(weighted, *self._slope_derivatives, self._slope_m2_rate)
        return output_forms, congruence(by_pairs, self._before)

    def field_adjoint(self, forms: Forms) -> Forms:
        """Convert forms of the moments of x to forms of the covariance of y."""
        if forms.ndim == 2 and not self._interlayer.mixes_points:
            return forms * self._m2_rate
        forms = congruence(torch.diag_embed(forms) if forms.ndim == 2 else forms, self._after)
        by_var = _derivative_by_row_variance(
            self._pair.covariance, self._cov, self._var, self._slopes
        )
        by_pairs = _chain_rule(forms, self._slopes, by_var, self._m2_rate)
        return congruence(by_pairs, self._before)

    @cached_property
    def _interlayer(self) -> Interlayer:
        assert self.layer.interlayer is not None
        return self.layer.interlayer

    @cached_property
    def _mean(self) -> float:
        constant_mean = self.layer.preact.constant_mean
        assert constant_mean is not None
        return constant_mean

    @cached_property
    def _linear_maps(self) -> tuple[Tensor | None, Tensor | None]:
        """The linear modules before and after the function as matrices [in point, out point]."""
        form = closed_form_for(self._interlayer, self.layer.preact)
        assert form is not None
        before, after = linear_matrices(self._interlayer, form)
        return _product(before), _product([step for step in after if isinstance(step, Tensor)])

    @property
    def _before(self) -> Tensor | None:
        return self._linear_maps[0]

    @property
    def _after(self) -> Tensor | None:
        return self._linear_maps[1]

    @cached_property
    def _pair(self) -> PairExpectations:
        form = closed_form_for(self._interlayer, self.layer.preact)
        assert form is not None
        return pair_expectations(form.function)

    @cached_property
    def _cov(self) -> Pairs:
        assert self.layer.preact.cov is not None
        return congruence(squeeze_field(self.layer.preact.cov, 2), _transposed(self._before))

    @cached_property
    def _var(self) -> Points:
        if self._before is None:
            return squeeze_field(self.layer.preact.var, 1)
        return diagonal(self._cov).clamp(min=0)

    @cached_property
    def _output_products(self) -> Pairs | None:
        """The cotangent's moments at the function's output; None if points are uncorrelated."""
        output_cotangent = self.layer.output_cotangent
        assert output_cotangent is not None
        if output_cotangent.products is None and not self._interlayer.mixes_points:
            return None
        return congruence(squeeze_field(output_cotangent.full_products, 2), self._after)

    @cached_property
    def _units(self) -> UnitMoments:
        return self._units_at(self._var)

    def _units_at(self, var: Points) -> UnitMoments:
        return unit_moments(
            self._interlayer.pointwise_layers, torch.full_like(var, self._mean), var
        )

    @cached_property
    def _rates(self) -> tuple[Points, Points]:
        up, down = (self._units_at(self._var * exp(h)) for h in (LOG_STEP, -LOG_STEP))
        width = 2 * LOG_STEP * torch.where(self._var > 0, self._var, torch.inf)
        return (up.m2 - down.m2) / width, (up.slope_m2 - down.slope_m2) / width

    @property
    def _m2_rate(self) -> Points:
        """dE[phi^2] / d var."""
        return self._rates[0]

    @property
    def _slope_m2_rate(self) -> Points:
        """dE[phi'^2] / d var."""
        return self._rates[1]

    @cached_property
    def _point_sensitivity(self) -> Points:
        assert self.layer.output_cotangent is not None
        return squeeze_field(self.layer.output_cotangent.m2, 1) * self._slope_m2_rate

    @cached_property
    def _slopes(self) -> Pairs:
        slopes = self._pair.slope_covariance(self._cov, self._var, self._var)
        return slopes.diagonal_scatter(self._units.slope_m2, dim1=-2, dim2=-1)

    @cached_property
    def _slope_derivatives(self) -> tuple[Pairs, Pairs]:
        function, cov, var = self._pair.slope_covariance, self._cov, self._var
        step = CORRELATION_STEP * (var[:, None] * var).sqrt() * torch.where(cov > 0, 1.0, -1.0)
        change = function(cov, var, var) - function(cov - step, var, var)
        by_cov = change / torch.where(step != 0, step, torch.inf)
        return by_cov, _derivative_by_row_variance(function, cov, var, by_cov)


def _derivative_by_row_variance(
    function: PairFunction, cov: Pairs, var: Points, by_cov: Pairs
) -> Pairs:
    """Differentiate a function of (cov, row variance, column variance) by the row variance.

    The difference is taken at a fixed correlation, which must stay in [-1, 1]; `by_cov`, the
    derivative with respect to `cov`, corrects for this.
    """
    up, down = (function(cov * exp(h / 2), var * exp(h), var) for h in (LOG_STEP, -LOG_STEP))
    log_rate = (up - down) / (2 * LOG_STEP) - cov * by_cov / 2
    return log_rate / torch.where(var > 0, var, torch.inf)[:, None]


def _chain_rule(forms: Tensor, by_cov: Pairs, by_var: Pairs, by_diagonal: Points) -> Tensor:
    """Apply the chain rule to moments that depend on a pair's covariance and variances."""
    diagonals = diagonal(forms)
    off_diagonal = forms - torch.diag_embed(diagonals)
    by_variances = 2 * (off_diagonal * by_var).sum(-1) + diagonals * by_diagonal
    return off_diagonal * by_cov + torch.diag_embed(by_variances)


def _product(steps: Sequence[Tensor]) -> Tensor | None:
    product = None
    for step in steps:
        product = step if product is None else product @ step
    return product


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.mT


def is_readout_linear(last: FieldLayer) -> bool:
    """Return True if the modules after the last weight layer are linear."""
    steps = () if last.interlayer is None else last.interlayer.steps
    return all(isinstance(step, Mixing) and step.linear for step in steps)


def readout_matrix(last: FieldLayer) -> Tensor | None:
    """Return a linear readout, the modules after the last weight layer, as [input, output]."""
    if last.interlayer is None:
        return None
    interlayer = last.interlayer
    steps = tuple(step for step in interlayer.steps if isinstance(step, Mixing))
    matrices = step_matrices(interlayer, steps, interlayer.positions)
    return _product([matrix for matrix in matrices if isinstance(matrix, Tensor)])


def tracked_layers(layers: Sequence[FieldLayer]) -> list[int]:
    """Return the layers whose weight gradients are tracked through the network.

    These are all layers, unless there are more than `MAX_ALL_TRACKED` convolutions.
    """
    conv_layers = [index for index, layer in enumerate(layers) if not layer.taps.is_linear]
    if len(conv_layers) > MAX_ALL_TRACKED:
        conv_layers = [
            conv_layers[round(position * (len(conv_layers) - 1))] for position in TRACKED_POSITIONS
        ]
    return [
        index for index, layer in enumerate(layers) if layer.taps.is_linear or index in conv_layers
    ]


def gradient_by_cotangent(layer: FieldLayer, images_per_field: int) -> Tensor:
    """Differentiate the log mean square of a layer's weight gradient by its cotangent's moments."""
    taps, inputs = layer.taps, layer.inputs
    assert inputs.products is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    form = taps.forward_products(squeeze_field(inputs.products, 2)[None], ones)[0]
    # Each image has its own gradient.
    blocks = form.unflatten(1, (images_per_field, -1)).unflatten(0, (images_per_field, -1))
    same_image = torch.eye(images_per_field, dtype=torch.float64)[:, None, :, None]
    form = (blocks * same_image).flatten(2).flatten(0, 1)
    return form / _weight_gradient(layer, images_per_field)


def gradient_by_input(layer: FieldLayer, images_per_field: int) -> Forms:
    """Differentiate the log mean square of a layer's weight gradient by its input's moments."""
    taps, cotangent = layer.taps, layer.cotangent
    assert cotangent is not None
    ones = torch.ones(taps.n_taps, dtype=torch.float64)
    if cotangent.products is None:
        form = taps.backward_m2(squeeze_field(cotangent.m2, 1), ones)
    else:
        form = taps.backward_products(squeeze_field(cotangent.products, 2), ones)
    return form / _weight_gradient(layer, images_per_field)


def _weight_gradient(layer: FieldLayer, images_per_field: int) -> float:
    """Sum E[(dL/dw)^2] over kernel positions; return inf if the sum is 0."""
    taps, cotangent, inputs = layer.taps, layer.cotangent, layer.inputs
    assert cotangent is not None
    if cotangent.products is None:
        per_tap = taps.gradient_m2(cotangent.m2, inputs.m2, images_per_field)
    else:
        assert inputs.products is not None
        per_tap = taps.gradient_m2_from_products(
            cotangent.products, inputs.products, images_per_field
        )
    total = float(per_tap.sum()) * taps.n_taps
    return total if total > 0 else float("inf")


def as_matrices(forms: Forms) -> Tensor:
    """Return forms as full matrices, with diagonals as diagonal matrices."""
    return torch.diag_embed(forms) if forms.ndim == 2 else forms


def symmetrize(forms: Tensor) -> Tensor:
    """Return the symmetric part of matrices."""
    return (forms + forms.mT) / 2


def quadratic_forms(
    x: Float[Tensor, "sample point"], forms: Forms
) -> Float[Tensor, "sample target"]:
    """Evaluate x^T form x for each sample x and each form.

    Matrices are multiplied in float32, relative to their largest elements. Its rounding is far
    below the sampling error of the variances that are computed from the results.

    Examples
    --------
    >>> quadratic_forms(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    tensor([[5., 4.]])
    """
    if forms.ndim == 2:
        return x.square() @ forms.mT
    if not len(forms):
        return x.new_zeros(len(x), 0)
    scale, scales = _largest(x), [_largest(form) for form in forms]
    unit = (x / scale).float()
    values = [
        ((unit @ (form / size).float()) * unit).sum(-1)
        for form, size in zip(forms, scales, strict=True)
    ]
    sizes = torch.tensor(scales, dtype=torch.float64)
    return (torch.stack(values, -1) * sizes * scale * scale).to(x)


def _largest(x: Tensor) -> float:
    """Return the largest absolute value, or 1 for zeros."""
    return float(x.detach().abs().max()) or 1.0


def congruence(forms: Tensor, matrix: Tensor | None) -> Tensor:
    """Convert quadratic forms of B^T x to quadratic forms of x: B form B^T."""
    return forms if matrix is None else matrix @ forms @ matrix.mT


def diagonal(forms: Tensor) -> Tensor:
    """Return the diagonals of matrices."""
    return forms.diagonal(dim1=-2, dim2=-1)


def mean_diagonals(forms: Forms, images_per_field: int) -> Tensor:
    """Return the diagonals of forms, averaged over the points of each image."""
    diagonals = (forms if forms.ndim == 2 else diagonal(forms)).unflatten(1, (images_per_field, -1))
    return diagonals.mean(-1, keepdim=True).expand_as(diagonals).flatten(1)


def squeeze_field(x: Tensor, axes: int) -> Tensor:
    """Remove the axes of images, particles and groups (see `field.state`), each of length 1."""
    return x.reshape(x.shape[-axes:])
