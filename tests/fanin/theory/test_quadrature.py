"""Gaussian expectations are accurate at every scale, for smooth functions and at kinks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from fanin.activations import Erf
from fanin.theory.elementwise import derivative, elementwise
from fanin.theory.quadrature import COARSE, EXACT, gaussian_nodes, max_nodes

variances = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)


def expect(function, mean, var, order=EXACT):
    mean, var = torch.tensor([[mean], [var]], dtype=torch.float64)
    y, weight = gaussian_nodes(mean, var, order)
    return (weight * function(y)).sum().item()


@given(variances)
def test_quadrature_matches_closed_forms_over_24_decades_of_variance(q):
    def m2(function):
        return expect(lambda y: function(y).square(), 0.0, q)

    assert m2(nn.Identity()) == pytest.approx(q, rel=1e-10)
    assert m2(nn.ReLU()) == pytest.approx(q / 2, rel=1e-10)
    assert m2(nn.LeakyReLU(0.2)) == pytest.approx(q * (1 + 0.2**2) / 2, rel=1e-10)
    assert m2(Erf()) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-10)


@given(variances, st.floats(-3, 3))
def test_quadrature_preserves_mean_and_second_moment(q, relative_mean):
    mean = relative_mean * math.sqrt(q)
    assert expect(nn.Identity(), mean, q) == pytest.approx(mean, rel=1e-10, abs=1e-13 * q**0.5)
    assert expect(torch.square, mean, q) == pytest.approx(q + mean**2, rel=1e-10)


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.Tanh(), nn.GELU(), nn.SELU(), nn.Softplus()),
        *(nn.Hardtanh(), nn.Hardswish(), nn.Softshrink(), nn.ReLU6()),
    ],
    ids=lambda module: type(module).__name__,
)
@pytest.mark.parametrize(("mean", "var"), [(0.0, 1e-6), (0.0, 1.0), (0.0, 900.0), (-1.0, 4.0)])
def test_quadrature_agrees_with_adaptive_quadrature(activation, mean, var):
    scale = math.sqrt(var)

    def integrand(z):
        y = activation(torch.tensor(mean + scale * z, dtype=torch.float64)).item()
        return y * y * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    kinks = [(y - mean) / scale for y in (-6, -3, -1, -0.5, 0, 0.5, 1, 3, 6)]
    points = sorted(z for z in {*kinks, -1.0, 1.0} if abs(z) < 9)
    reference, _ = quad(integrand, -9, 9, points=points, epsabs=0, epsrel=1e-12, limit=200)
    assert expect(lambda y: activation(y).square(), mean, var) == pytest.approx(
        reference, rel=1e-10
    )


def test_coarse_quadrature_error_is_below_particle_noise():
    for function in (nn.ReLU(), nn.Tanh(), nn.GELU()):
        exact = expect(function, 0.7, 2.0, EXACT)
        assert expect(function, 0.7, 2.0, COARSE) == pytest.approx(exact, rel=1e-5)


def test_zero_variance_evaluates_the_function_at_the_mean():
    assert expect(torch.tanh, 0.3, 0.0) == pytest.approx(math.tanh(0.3), rel=1e-14)
    assert expect(torch.relu, 0.0, 0.0) == 0


@pytest.mark.parametrize("function", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softplus()])
@pytest.mark.parametrize("mean", [0.0, math.inf, -math.inf])
def test_infinite_variance_never_gives_nan(function, mean):
    assert not math.isnan(expect(lambda y: function(y).square(), mean, math.inf))


def test_infinite_variance_of_a_saturating_function_gives_its_limit():
    assert expect(lambda y: torch.tanh(y).square(), 0.0, math.inf) == pytest.approx(1)


def test_number_of_nodes_is_at_most_max_nodes():
    y, weight = gaussian_nodes(
        torch.linspace(-1, 1, 50).double(), torch.logspace(-8, 8, 50).double()
    )
    assert y.shape[-1] <= max_nodes(EXACT)
    torch.testing.assert_close(weight.sum(-1), torch.ones(50).double())


class CustomActivation(nn.Module):
    """A user-defined activation."""

    def forward(self, x):
        return x * torch.sin(x)


@pytest.mark.parametrize(
    "module",
    [
        *(nn.ReLU(inplace=True), nn.PReLU(), nn.PReLU(3)),  # all slopes are equal
        *(nn.Identity(), nn.Softsign(), CustomActivation()),
    ],
)
def test_elementwise_accepts_elementwise_modules(module):
    assert elementwise(module) is not None


def prelu_of_different_slopes() -> nn.PReLU:
    module = nn.PReLU(3)
    nn.init.uniform_(module.weight)
    return module


@pytest.mark.parametrize(
    "module",
    [
        *(nn.Softmax(dim=1), nn.Dropout(0.5), prelu_of_different_slopes()),
        *(nn.Flatten(0), nn.Linear(20, 20)),
    ],
)
def test_elementwise_rejects_mixing_and_random_modules(module):
    assert elementwise(module) is None


def test_derivative_equals_autograd():
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    value, slope = derivative(elementwise(nn.ReLU(inplace=True)), x)
    assert value.tolist() == [0, 0, 3]
    assert slope.tolist() == [0, 0, 1]
    assert x.tolist() == [-2, 0, 3]
    assert derivative(lambda x: torch.ones(3), x)[1].tolist() == [0, 0, 0]
