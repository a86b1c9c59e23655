"""Depth scales agree with the literature and with iterated maps."""

from __future__ import annotations

import math

import pytest
import torch
from dense_kernels import dense_kernels
from torch.nn import functional as F

from fanin.theory.depth_scales import (
    critical_point,
    critical_weight_var,
    depth_scales,
    log_sensitivity,
)
from fanin.theory.gaussian_pairs import pair_expectations

FUNCTIONS = {"tanh": torch.tanh, "gelu": F.gelu, "sigmoid": torch.sigmoid, "elu": F.elu}


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_critical_tanh_of_schoenholz2017():
    # Schoenholz et al. (2017), figure 2: sigma_w^2 = 1.76 at sigma_b^2 = 0.05.
    assert round(critical_weight_var(torch.tanh, 0.05), 2) == 1.76


@pytest.mark.parametrize(
    ("weight_var", "depth"),
    [(1.0, 3.63), (1.3, 7.83), (1.7, 74.9), (2.0, 25.2), (2.5, 11.8), (4.0, 6.98)],
)
def test_correlation_depths_of_tanh(weight_var, depth):
    # docs/appendix/derivations.md, section 2.2, to the digits given there.
    assert depth_scales(torch.tanh, weight_var, 0.05).xi_c == pytest.approx(depth, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var"),
    [("tanh", 1.3, 0.05), ("tanh", 3.0, 0.1), ("gelu", 2.0, 0.1), ("sigmoid", 9.0, 0.2)],
)
def test_iterated_maps_converge_at_the_predicted_rate(name, weight_var, bias_var):
    scales = depth_scales(FUNCTIONS[name], weight_var, bias_var)
    # Initial second moments for which GELU does not diverge.
    gram = t([0.4, 0.1], [0.1, 0.4])
    kernels = dense_kernels(FUNCTIONS[name], weight_var, bias_var, gram, 60)
    q, c = kernels.cov[:, 0, 0], kernels.correlation()[:, 0, 1]
    # Small distances, still far above rounding errors, shrink by a factor chi per layer.
    for path, end, chi in ((q, scales.q_star, scales.chi_q), (c, scales.c_star, scales.chi_c)):
        distance = (path - end).abs()
        near = ((distance < 1e-3) & (distance > 1e-8)).nonzero().flatten()
        assert len(near) > 2
        for layer in near[:-1].tolist():
            assert (distance[layer + 1] / distance[layer]).item() == pytest.approx(chi, rel=0.05)


def test_phase_without_a_fixed_point():
    phases = {w: depth_scales(torch.relu, w).phase for w in (1.0, 2.0, 3.0)}
    assert phases == {1.0: "q shrinks", 2.0: "any q", 3.0: "q grows"}
    assert depth_scales(torch.relu, 2.0, 0.1).phase == "q grows"
    assert math.isnan(depth_scales(torch.relu, 2.0).q_star)
    assert depth_scales(F.gelu, 2.5).phase == "q grows"


def test_relu_with_biases_is_ordered():
    # derivations.md, 1: torch's default on ReLU, q* = 0.4 / n and gradients by 1 / 6 a layer.
    scales = depth_scales(torch.relu, 1 / 3, 1 / (3 * 64))
    assert scales.q_star == pytest.approx(0.4 / 64)
    assert scales.chi_1 == pytest.approx(1 / 6)
    assert scales.phase == "ordered"


def test_fixed_point_at_zero():
    scales = depth_scales(torch.tanh, 0.5)
    assert (scales.phase, scales.q_star) == ("ordered", 0.0)
    assert scales.chi_1 == pytest.approx(0.5)
    assert depth_scales(torch.tanh, 1.0).phase == "critical"


@pytest.mark.parametrize("bias_var", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("name", ["tanh", "elu", "sigmoid"])
def test_critical_weight_var_is_critical(name, bias_var):
    weight_var = critical_weight_var(FUNCTIONS[name], bias_var)
    point = depth_scales(FUNCTIONS[name], weight_var, bias_var)
    assert point.chi_1 == pytest.approx(1.0, abs=1e-6)


def test_error_without_critical_point_suggests_function():
    with pytest.raises(ValueError, match="critical_point"):
        critical_weight_var(F.softplus, 0.05)
    assert critical_point(F.softplus, 1.0)[1] < 0


@pytest.mark.parametrize("function", [torch.tanh, F.gelu, F.selu, F.hardtanh])
@pytest.mark.parametrize("q", [1e-3, 0.4, 7.0])
def test_log_sensitivity_is_the_slope_of_the_q_map(function, q):
    law, step = pair_expectations(function), 1e-4
    low, high = law.second_moment(t(q * math.exp(-step), q * math.exp(step))).log().tolist()
    slope = (high - low) / (2 * step)
    # The difference quotient has errors of step^2 and of rounding / step.
    assert log_sensitivity(function, t(q)).item() == pytest.approx(slope, abs=1e-7)


def test_log_sensitivity_of_gelu_relu_and_tanh():
    # docs/appendix/derivations.md, section 2.3.
    q = t(0.3, 0.1)
    assert ((log_sensitivity(F.gelu, q) > 1.1) & (log_sensitivity(F.gelu, q) < 1.2)).all()
    assert log_sensitivity(torch.relu, t(1e-200, 1.0, 1e200)).tolist() == pytest.approx([1] * 3)
    assert (log_sensitivity(torch.tanh, t(0.1, 10.0)) < 1).all()


def test_relu_correlation_converges_like_a_power():
    # docs/appendix/derivations.md, section 2.2: 1 - c_l ~ 9 pi^2 / (2 l^2).
    gram = t([1.0, 0.2], [0.2, 1.0])
    c = dense_kernels(torch.relu, 2.0, 0.0, gram, 3000).correlation()[-1, 0, 1].item()
    assert (1 - c) * 3000**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.02)
