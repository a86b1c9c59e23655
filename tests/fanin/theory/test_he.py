"""Theory `he` agrees with published numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from theory_networks import image, layer_moments, mlp, reference_input
from torch import nn

from fanin.inits import Init, Moments, XavierNormal
from fanin.theory import predict_he
from fanin.theory.moments import declared_moments


def test_he_init_keeps_relu_moments_constant():
    model = mlp(nn.ReLU, 64, 30)
    he = predict_he(
        model, layer_moments(model, lambda shape: 2 / shape.fan_in), reference_input(64)
    )
    q = he.value("preact_m2")[0]
    # q_1 is 2 times the mean square of the input: 1.174 in the reference table, at all depths.
    np.testing.assert_allclose(q, 1.1741917532063142, rtol=1e-12)
    np.testing.assert_allclose(he.value("vjp_m2")[0, :-1], 1, rtol=1e-12)
    np.testing.assert_allclose(he.value("weight_vjp_m2")[0, 1:-1], q[0] / 2, rtol=1e-12)


def test_glorot_init_by_activation():
    for activation, factor in ((nn.ReLU, 0.5), (nn.Tanh, 1.0), (lambda: nn.LeakyReLU(0.2), 0.52)):
        model = mlp(activation, 64, 30)
        glorot = layer_moments(model, lambda shape: 2 / (shape.fan_in + shape.fan_out))
        q = predict_he(model, glorot, reference_input(64)).value("preact_m2")[0]
        np.testing.assert_allclose(q[1:] / q[:-1], factor, rtol=1e-12)


def test_vgg_b_gradient_of_he2015():
    # He et al. 2015, section 2.2: 1 / (5.9 * 4.2^2 * 2.9^2 * 2.1^4), by conv10 down to conv2.
    channels = [3, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    layers = []
    for a, b in pairwise(channels):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers)
    he = predict_he(model, layer_moments(model, lambda shape: 1e-4), torch.rand(1, 3, 8, 8))
    vjp = he.value("vjp_m2")[0]
    factors = [math.sqrt(9 * c * 1e-4 / 2) for c in channels[2:]]
    assert math.sqrt(vjp[0] / vjp[9]) == pytest.approx(math.prod(factors), rel=1e-12)
    assert 1 / math.sqrt(vjp[0] / vjp[9]) == pytest.approx(1.7e4, rel=0.05)  # printed to 2 digits


def test_weight_mean_bias_and_pooling_are_ignored():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    pooled = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(4 * 36, 3)
    )
    x = torch.rand(2, 1, 8, 8)
    expected = predict_he(plain, layer_moments(plain, lambda shape: 0.1), x)
    moments = layer_moments(pooled, lambda shape: 0.1, lambda shape: 0.5, Moments(1.0, 1.0))
    for quantity, value in predict_he(pooled, moments, x).repeats.items():
        np.testing.assert_array_equal(value, expected.repeats[quantity])


def test_weight_gradient_sums_over_positions():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    he = predict_he(model, layer_moments(model, lambda shape: 1 / shape.fan_in), x)
    mean_square = x.square().mean((1, 2, 3))
    d = 0.5 * 3 / 144  # gain times fan_out times Var[w] of the linear layer
    np.testing.assert_allclose(he.value("vjp_m2")[:, 0], d)
    np.testing.assert_allclose(he.value("weight_vjp_m2")[:, 0], 36 * d * mean_square)


def test_backward_counts_the_outputs_of_one_group():
    """Whichever outputs Xavier's fan_out counts, an input reaches those of its own group."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 2, 1))
    for scheme, factor in (
        (XavierNormal(), 3 * 2 / (2 + 6)),
        (XavierNormal(True), 3 * 2 / (2 + 3)),
    ):
        he = predict_he(model, declared_moments(model, Init(scheme)), torch.rand(1, 2, 3, 3))
        vjp = he.value("vjp_m2")[0]
        assert vjp[0] / vjp[1] == pytest.approx(factor, rel=1e-12)


def test_intermediate_products_may_overflow_float64():
    model = mlp(nn.Identity, 4, 5)
    moments = layer_moments(model, lambda shape: 1e150)
    shrink = layer_moments(model, lambda shape: 1e-150)
    moments |= {name: shrink[name] for name in ("5", "7", "9")}
    q = predict_he(model, moments, image(torch.ones(4))).value("preact_m2")[0]
    np.testing.assert_allclose(q, [4e150, 1.6e301, 6.4e151, 256.0, 1024e-150], rtol=1e-12)
    zeros = layer_moments(model, lambda shape: 0.0)
    assert (predict_he(model, zeros, image(torch.ones(4))).value("preact_m2") == 0).all()
