"""Gaussian expectations are right at every scale, for smooth functions and at kinks."""

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
def test_closed_forms_hold_over_24_decades_of_variance(q):
    def m2(function):
        return expect(lambda y: function(y).square(), 0.0, q)

    assert m2(nn.Identity()) == pytest.approx(q, rel=1e-10)
    assert m2(nn.ReLU()) == pytest.approx(q / 2, rel=1e-10)
    assert m2(nn.LeakyReLU(0.2)) == pytest.approx(q * (1 + 0.2**2) / 2, rel=1e-10)
    assert m2(Erf()) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-10)


@given(variances, st.floats(-3, 3))
def test_a_population_around_a_mean_keeps_both_moments(q, shift):
    mean = shift * math.sqrt(q)
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
def test_agrees_with_adaptive_quadrature(activation, mean, var):
    scale = math.sqrt(var)

    def integrand(z):
        y = activation(torch.tensor(mean + scale * z, dtype=torch.float64)).item()
        return y * y * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    bends = [(y - mean) / scale for y in (-6, -3, -1, -0.5, 0, 0.5, 1, 3, 6)]
    points = sorted(z for z in {*bends, -1.0, 1.0} if abs(z) < 9)
    reference, _ = quad(integrand, -9, 9, points=points, epsabs=0, epsrel=1e-12, limit=200)
    assert expect(lambda y: activation(y).square(), mean, var) == pytest.approx(
        reference, rel=1e-10
    )


def test_coarse_nodes_err_less_than_particles_do():
    for function in (nn.ReLU(), nn.Tanh(), nn.GELU()):
        exact = expect(function, 0.7, 2.0, EXACT)
        assert expect(function, 0.7, 2.0, COARSE) == pytest.approx(exact, rel=1e-5)


def test_no_variance_is_a_point_mass():
    assert expect(torch.tanh, 0.3, 0.0) == pytest.approx(math.tanh(0.3), rel=1e-14)
    assert expect(torch.relu, 0.0, 0.0) == 0


@pytest.mark.parametrize("function", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softplus()])
@pytest.mark.parametrize("mean", [0.0, math.inf, -math.inf])
def test_overflow_is_infinite_never_undefined(function, mean):
    assert not math.isnan(expect(lambda y: function(y).square(), mean, math.inf))


def test_a_saturating_function_of_infinite_variance_has_its_limit():
    assert expect(lambda y: torch.tanh(y).square(), 0.0, math.inf) == pytest.approx(1)


def test_states_never_take_more_nodes_than_announced():
    y, weight = gaussian_nodes(
        torch.linspace(-1, 1, 50).double(), torch.logspace(-8, 8, 50).double()
    )
    assert y.shape[-1] <= max_nodes(EXACT)
    torch.testing.assert_close(weight.sum(-1), torch.ones(50).double())


class Outside(nn.Module):
    """An activation this project has never heard of."""

    def forward(self, x):
        return x * torch.sin(x)


@pytest.mark.parametrize(
    "module", [nn.ReLU(inplace=True), nn.PReLU(), nn.Identity(), nn.Softsign(), Outside()]
)
def test_an_elementwise_module_is_recognized_by_what_it_does(module):
    assert elementwise(module) is not None


@pytest.mark.parametrize(
    "module", [nn.Softmax(dim=1), nn.Dropout(0.5), nn.PReLU(3), nn.Flatten(0), nn.Linear(20, 20)]
)
def test_what_mixes_or_draws_is_not_elementwise(module):
    assert elementwise(module) is None


def test_derivatives_are_those_that_training_uses():
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    value, slope = derivative(elementwise(nn.ReLU(inplace=True)), x)
    assert value.tolist() == [0, 0, 3]
    assert slope.tolist() == [0, 0, 1]
    assert x.tolist() == [-2, 0, 3]
    assert derivative(lambda x: torch.ones(3), x)[1].tolist() == [0, 0, 0]
