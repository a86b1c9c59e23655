"""Pair expectations agree with nested quadrature, at every correlation and scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanin.theory.elementwise import derivative
from fanin.theory.gaussian_pairs import pair_expectations
from fanin.theory.quadrature import gaussian_nodes

SMOOTH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "mish": F.mish,
    "cube": lambda y: y**3 - y,
}
BENT_AT_0 = {"elu": F.elu, "selu": F.selu, "celu": lambda y: F.celu(y, alpha=0.5)}
STRAIGHT = {
    "relu": torch.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "identity": lambda y: y.clone(),
    "abs": torch.abs,
    "composed": lambda y: 3 * F.leaky_relu(-torch.relu(y), 0.1),
}
CORRELATIONS = (-1.0, -0.99, -0.6, 0.0, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0)
VARIANCES = ((0.01, 0.02), (1.0, 1.0), (0.3, 2.0), (4.0, 4.0))


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def nested(function, var_u, var_v, c, order):
    """E_u[f(u) E[f(v) | u]]."""
    u, weight = gaussian_nodes(t(0.0)[0], t(var_u)[0], order)
    mean, var = c * math.sqrt(var_v / var_u) * u, torch.full_like(u, var_v * (1 - c * c))
    v, weight_v = gaussian_nodes(mean, var, order)
    return float((weight * function(u) * (weight_v * function(v)).sum(-1)).sum())


def worst_errors(function, pairs=VARIANCES, correlations=CORRELATIONS, order=16):
    """Of the covariance and of the slopes', over the root mean squares.

    A bent function needs a high order: the inner mean bends sharply where |c| nears 1.
    """
    law = pair_expectations(function)
    c = t(*correlations)[:, None, None]
    errors, slope_errors = [], []

    def slope(y):
        return derivative(function, y)[1]

    for var_u, var_v in pairs:
        rows, cols = t(var_u).expand(len(c), 1), t(var_v).expand(len(c), 1)
        cov = c * math.sqrt(var_u * var_v)
        for f, ours, moment, found in (
            (function, law.covariance, law.second_moment, errors),
            (slope, law.slope_covariance, law.slope_m2, slope_errors),
        ):
            theirs = t(*(nested(f, var_u, var_v, float(a), order) for a in c.flatten()))
            size = (moment(rows) * moment(cols)).sqrt()
            found.append(
                float(((ours(cov, rows, cols)[..., 0] - theirs[:, None]) / size).abs().max())
            )
    return max(errors), max(slope_errors)


@pytest.mark.parametrize("name", [*SMOOTH])
def test_smooth_functions_agree_with_nested_quadrature(name):
    error, slope_error = worst_errors(SMOOTH[name])
    assert error < 1e-10
    assert slope_error < 1e-10


@pytest.mark.parametrize("name", [*BENT_AT_0])
def test_functions_bent_at_0_agree_with_nested_quadrature(name):
    error, slope_error = worst_errors(BENT_AT_0[name], VARIANCES[1:3], order=40)
    assert error < 1e-7
    assert slope_error < 1e-5


@pytest.mark.parametrize("name", [*STRAIGHT])
def test_straight_functions_have_closed_forms(name):
    assert pair_expectations(STRAIGHT[name]).homogeneous is not None
    error, slope_error = worst_errors(STRAIGHT[name], VARIANCES[2:3], order=40)
    # The nested quadrature's own error where |c| nears 1; the formula is exact.
    assert error < 1e-9
    # The slopes' kernel has a vertical tangent at c = +-1, so rounding of c costs its root.
    assert slope_error < 1e-7


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_saturated_units_are_within_a_millionth(name):
    error, slope_error = worst_errors(SMOOTH[name], [(100.0, 100.0)])
    assert error < 1e-8
    assert slope_error < 1e-5


def test_erf_has_williams_closed_form():
    # Williams (1997): 2 / pi asin(2 k / sqrt((1 + 2 q_u)(1 + 2 q_v))).
    var = torch.logspace(-6, 4, 40, dtype=torch.float64)
    c = torch.linspace(-1, 1, 40, dtype=torch.float64)
    cov = c[:, None, None] * (var[:, None] * var).sqrt()
    ours = pair_expectations(torch.erf).covariance(cov, var.expand(40, 40), var.expand(40, 40))
    root = ((1 + 2 * var)[:, None] * (1 + 2 * var)).sqrt()
    theirs = 2 / math.pi * torch.asin(2 * cov / root)
    moments = pair_expectations(torch.erf).second_moment(var)
    error = (ours - theirs).abs() / (moments[:, None] * moments).sqrt()
    # The widest units, of standard deviation 100, are the least exact.
    assert error[:, :30, :30].max() < 1e-9
    assert error.max() < 1e-5


@pytest.mark.parametrize("name", ["gelu", "elu"])
def test_many_variances_are_interpolated_as_exactly_as_few_are_computed(name):
    function = (SMOOTH | BENT_AT_0 | STRAIGHT)[name]
    law = pair_expectations(function)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 60, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-2, 1, 200, dtype=torch.float64)[:, None]
    cov = x @ x.T / 60
    var = cov.diagonal()
    some = slice(None, None, 29)
    few = law.covariance(cov[some, some], var[some], var[some])
    size = law.second_moment(var).sqrt()
    many = law.covariance(cov, var, var)
    difference = (many[some, some] - few) / (size[some, None] * size[some])
    assert difference.abs().max() < 1e-9
    assert torch.allclose(many.diagonal(), law.second_moment(var), rtol=1e-9)
    few = law.slope_covariance(cov[some, some], var[some], var[some])
    many = law.slope_covariance(cov, var, var)
    # Rounding of c near 1 costs a kinked function's slopes the root of it.
    assert (many[some, some] - few).abs().max() < 1e-7


@pytest.mark.parametrize("name", [*SMOOTH, *BENT_AT_0, *STRAIGHT])
def test_a_pre_activation_without_variance_is_its_value_at_0(name):
    function = (SMOOTH | BENT_AT_0 | STRAIGHT)[name]
    law = pair_expectations(function)
    var = t(0.0, 1.5)
    cov = torch.diag(var)
    at_0, slope_0 = (float(a) for a in derivative(function, t(0.0)))
    mean, slope_mean = float(law.mean(t(1.5))), float(law.slope_mean(t(1.5)))
    kernel, slopes = law.covariance(cov, var, var), law.slope_covariance(cov, var, var)
    assert kernel[0].tolist() == pytest.approx([at_0**2, at_0 * mean])
    assert slopes[0].tolist() == pytest.approx([slope_0**2, slope_0 * slope_mean])
    assert torch.equal(kernel, kernel.T)
    assert float(law.second_moment(t(0.0))) == pytest.approx(at_0**2)
    assert float(law.slope_m2(t(0.0))) == pytest.approx(slope_0**2)


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "relu", "softplus"])
def test_scales_of_any_size_are_handled(name):
    law = pair_expectations((SMOOTH | BENT_AT_0 | STRAIGHT)[name])
    var = t(1e-200, 1e-30, 1e-3, 1.0, 1e30, 1e200)
    cov = 0.5 * var.sqrt()[:, None] * var.sqrt()
    cov.diagonal().copy_(var)
    kernel, slopes = law.covariance(cov, var, var), law.slope_covariance(cov, var, var)
    assert kernel.isfinite().all()
    assert slopes.isfinite().all()
    assert torch.allclose(kernel.diagonal(), law.second_moment(var), rtol=1e-6, atol=0)


def test_kinks_away_from_0_cost_accuracy_where_the_docs_say():
    for function in (F.hardtanh, F.hardswish):
        error, slope_error = worst_errors(function, VARIANCES[1:3], CORRELATIONS[:-1:2], 40)
        assert error < 1e-4
        assert slope_error < 2e-2


def test_leading_dimensions_are_batches():
    law = pair_expectations(torch.tanh)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 9, generator=generator, dtype=torch.float64)
    cov = x @ x.mT / 9
    var = cov.diagonal(dim1=-2, dim2=-1)
    whole = law.covariance(cov, var, var)
    one = law.covariance(cov[1, 2], var[1, 2], var[1, 2])
    assert torch.allclose(whole[1, 2], one, rtol=1e-10)


@settings(derandomize=True, deadline=None, max_examples=8)
@given(
    sd=st.lists(st.floats(1e-4, 30), min_size=2, max_size=6),
    rank=st.integers(1, 3),
    name=st.sampled_from(["tanh", "gelu", "relu", "selu", "softplus"]),
    seed=st.integers(0, 1000),
)
def test_kernels_of_singular_covariances_are_covariances(sd, rank, name, seed):
    function = (SMOOTH | BENT_AT_0 | STRAIGHT)[name]
    law = pair_expectations(function)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sd), rank, generator=generator, dtype=torch.float64) * t(*sd)[:, None]
    cov = x @ x.T
    var = cov.diagonal()
    for kernel in (law.covariance(cov, var, var), law.slope_covariance(cov, var, var)):
        size = kernel.diagonal().clamp(min=1e-300).sqrt()
        lowest = torch.linalg.eigvalsh(kernel / size[:, None] / size)[0]
        # The slopes of selu, which jump, are good to about 1e-4 for such wide units.
        assert lowest > -1e-3 if name == "selu" else lowest > -1e-6
