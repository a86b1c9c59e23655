"""Pair expectations agree with nested quadrature, at every correlation and scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fanin.theory import mehler
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
KINK_AT_ZERO = {"elu": F.elu, "selu": F.selu, "celu": lambda y: F.celu(y, alpha=0.5)}
PIECEWISE_LINEAR = {
    "relu": torch.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "identity": lambda y: y.clone(),
    "abs": torch.abs,
    "composed": lambda y: 3 * F.leaky_relu(-torch.relu(y), 0.1),
}
CORRELATIONS = (-1.0, -0.99, -0.6, 0.0, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0)
VARIANCES = ((0.01, 0.02), (1.0, 1.0), (0.3, 2.0), (4.0, 4.0))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def nested_quadrature(function, var_u, var_v, c, order):
    """Compute E_u[f(u) E[f(v) | u]]."""
    u, weight = gaussian_nodes(tensor(0.0)[0], tensor(var_u)[0], order)
    mean, var = c * math.sqrt(var_v / var_u) * u, torch.full_like(u, var_v * (1 - c * c))
    v, weight_v = gaussian_nodes(mean, var, order)
    return float((weight * function(u) * (weight_v * function(v)).sum(-1)).sum())


def max_errors(function, pairs=VARIANCES, correlations=CORRELATIONS, order=16):
    """Return the largest relative errors of the covariance and of the slope covariance.

    A function with a kink needs a high order, because the inner mean bends sharply near |c| = 1.
    """
    pair = pair_expectations(function)
    c = tensor(*correlations)[:, None, None]
    errors, slope_errors = [], []

    def slope(y):
        return derivative(function, y)[1]

    for var_u, var_v in pairs:
        rows, columns = tensor(var_u).expand(len(c), 1), tensor(var_v).expand(len(c), 1)
        cov = c * math.sqrt(var_u * var_v)
        for f, actual, moment, error_list in (
            (function, pair.covariance, pair.second_moment, errors),
            (slope, pair.slope_covariance, pair.slope_m2, slope_errors),
        ):
            expected = tensor(
                *(nested_quadrature(f, var_u, var_v, float(a), order) for a in c.flatten())
            )
            size = (moment(rows) * moment(columns)).sqrt()
            error_list.append(
                float(((actual(cov, rows, columns)[..., 0] - expected[:, None]) / size).abs().max())
            )
    return max(errors), max(slope_errors)


@pytest.mark.parametrize("name", [*SMOOTH])
def test_smooth_functions_agree_with_nested_quadrature(name):
    error, slope_error = max_errors(SMOOTH[name])
    assert error < 1e-10
    assert slope_error < 1e-10


@pytest.mark.parametrize("name", [*KINK_AT_ZERO])
def test_functions_with_a_kink_at_zero_agree_with_nested_quadrature(name):
    error, slope_error = max_errors(KINK_AT_ZERO[name], VARIANCES[1:3], order=40)
    assert error < 1e-7
    assert slope_error < 1e-5


@pytest.mark.parametrize("name", [*PIECEWISE_LINEAR])
def test_piecewise_linear_functions_have_closed_forms(name):
    assert pair_expectations(PIECEWISE_LINEAR[name]).homogeneous is not None
    error, slope_error = max_errors(PIECEWISE_LINEAR[name], VARIANCES[2:3], order=40)
    # This is the error of the nested quadrature near |c| = 1; the formula is exact.
    assert error < 1e-9
    # The slope kernel has a vertical tangent at c = +-1, so it has the square root of c's rounding
    # error.
    assert slope_error < 1e-7


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_saturated_units_agree_with_nested_quadrature(name):
    error, slope_error = max_errors(SMOOTH[name], [(100.0, 100.0)])
    assert error < 1e-8
    assert slope_error < 1e-5


def test_erf_matches_williams_closed_form():
    # Williams (1997): 2 / pi asin(2 k / sqrt((1 + 2 q_u)(1 + 2 q_v))).
    var = torch.logspace(-6, 4, 40, dtype=torch.float64)
    c = torch.linspace(-1, 1, 40, dtype=torch.float64)
    cov = c[:, None, None] * (var[:, None] * var).sqrt()
    actual = pair_expectations(torch.erf).covariance(cov, var.expand(40, 40), var.expand(40, 40))
    root = ((1 + 2 * var)[:, None] * (1 + 2 * var)).sqrt()
    expected = 2 / math.pi * torch.asin(2 * cov / root)
    moments = pair_expectations(torch.erf).second_moment(var)
    error = (actual - expected).abs() / (moments[:, None] * moments).sqrt()
    # The widest units, of standard deviation 100, have the largest error.
    assert error[:, :30, :30].max() < 1e-9
    assert error.max() < 1e-5


@pytest.mark.parametrize("name", ["gelu", "elu"])
def test_interpolation_over_many_variances_is_exact(name):
    function = (SMOOTH | KINK_AT_ZERO | PIECEWISE_LINEAR)[name]
    pair = pair_expectations(function)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 60, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-2, 1, 200, dtype=torch.float64)[:, None]
    cov = x @ x.T / 60
    var = cov.diagonal()
    subset = slice(None, None, 29)
    direct = pair.covariance(cov[subset, subset], var[subset], var[subset])
    size = pair.second_moment(var).sqrt()
    interpolated = pair.covariance(cov, var, var)
    difference = (interpolated[subset, subset] - direct) / (size[subset, None] * size[subset])
    assert difference.abs().max() < 1e-9
    assert torch.allclose(interpolated.diagonal(), pair.second_moment(var), rtol=1e-9)
    direct = pair.slope_covariance(cov[subset, subset], var[subset], var[subset])
    interpolated = pair.slope_covariance(cov, var, var)
    # Near c = 1, the slopes of a kinked function have the square root of c's rounding error.
    assert (interpolated[subset, subset] - direct).abs().max() < 1e-7


@pytest.mark.parametrize("name", [*SMOOTH, *KINK_AT_ZERO, *PIECEWISE_LINEAR])
def test_zero_variance_gives_the_value_at_zero(name):
    function = (SMOOTH | KINK_AT_ZERO | PIECEWISE_LINEAR)[name]
    pair = pair_expectations(function)
    var = tensor(0.0, 1.5)
    cov = torch.diag(var)
    at_0, slope_0 = (float(a) for a in derivative(function, tensor(0.0)))
    mean, slope_mean = float(pair.mean(tensor(1.5))), float(pair.slope_mean(tensor(1.5)))
    kernel, slopes = pair.covariance(cov, var, var), pair.slope_covariance(cov, var, var)
    assert kernel[0].tolist() == pytest.approx([at_0**2, at_0 * mean])
    assert slopes[0].tolist() == pytest.approx([slope_0**2, slope_0 * slope_mean])
    assert torch.equal(kernel, kernel.T)
    assert float(pair.second_moment(tensor(0.0))) == pytest.approx(at_0**2)
    assert float(pair.slope_m2(tensor(0.0))) == pytest.approx(slope_0**2)


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "relu", "softplus"])
def test_extreme_variances_stay_finite(name):
    pair = pair_expectations((SMOOTH | KINK_AT_ZERO | PIECEWISE_LINEAR)[name])
    var = tensor(1e-200, 1e-30, 1e-3, 1.0, 1e30, 1e200)
    cov = 0.5 * var.sqrt()[:, None] * var.sqrt()
    cov.diagonal().copy_(var)
    kernel, slopes = pair.covariance(cov, var, var), pair.slope_covariance(cov, var, var)
    assert kernel.isfinite().all()
    assert slopes.isfinite().all()
    assert torch.allclose(kernel.diagonal(), pair.second_moment(var), rtol=1e-6, atol=0)


def test_kinks_away_from_zero_have_the_documented_error():
    for function in (F.hardtanh, F.hardswish):
        error, slope_error = max_errors(function, VARIANCES[1:3], CORRELATIONS[:-1:2], 40)
        assert error < 1e-4
        assert slope_error < 2e-2


def test_leading_dimensions_are_batch_dimensions():
    pair = pair_expectations(torch.tanh)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 9, generator=generator, dtype=torch.float64)
    cov = x @ x.mT / 9
    var = cov.diagonal(dim1=-2, dim2=-1)
    batched = pair.covariance(cov, var, var)
    single = pair.covariance(cov[1, 2], var[1, 2], var[1, 2])
    assert torch.allclose(batched[1, 2], single, rtol=1e-10)


@settings(derandomize=True, deadline=None, max_examples=8)
@given(
    sd=st.lists(st.floats(1e-4, 30), min_size=2, max_size=6),
    rank=st.integers(1, 3),
    name=st.sampled_from(["tanh", "gelu", "relu", "selu", "softplus"]),
    seed=st.integers(0, 1000),
)
def test_kernels_of_singular_covariances_are_positive_semidefinite(sd, rank, name, seed):
    function = (SMOOTH | KINK_AT_ZERO | PIECEWISE_LINEAR)[name]
    pair = pair_expectations(function)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sd), rank, generator=generator, dtype=torch.float64) * tensor(*sd)[:, None]
    cov = x @ x.T
    var = cov.diagonal()
    for kernel in (pair.covariance(cov, var, var), pair.slope_covariance(cov, var, var)):
        size = kernel.diagonal().clamp(min=1e-300).sqrt()
        lowest = torch.linalg.eigvalsh(kernel / size[:, None] / size)[0]
        # The slopes of selu jump, and have an error of about 1e-4 for such wide units.
        assert lowest > -1e-3 if name == "selu" else lowest > -1e-6


@pytest.mark.parametrize("name", ["gelu", "elu"])
def test_symmetric_covariances_give_the_products_of_all_pairs(name, monkeypatch):
    monkeypatch.setattr(mehler, "PAIRS_AT_ONCE", 60)  # several blocks of rows
    pair = pair_expectations((SMOOTH | KINK_AT_ZERO)[name])
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cov, calls = x @ x.T / 30, []
    evaluate = mehler._evaluate_series

    def counted(table, c, rows, cols):
        calls.append(c.numel())
        return evaluate(table, c, rows, cols)

    monkeypatch.setattr(mehler, "_evaluate_series", counted)
    var = cov.diagonal()
    symmetric = pair.covariance(cov, var, var)
    n_symmetric = sum(calls)
    calls.clear()
    # Rows in another order: no symmetry.
    other = pair.covariance(cov.flip(0), var.flip(0), var).flip(0)
    assert sum(calls) == 400
    assert n_symmetric < 0.6 * 400
    assert torch.allclose(symmetric, other, rtol=1e-9, atol=1e-12)
