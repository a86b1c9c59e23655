"""Scalar values of the reference table: functionals, kernels, fixed points, initial losses."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from dense_kernels import Kernels, dense_kernels
from torch import nn
from torch.nn import functional as F

from fanin.losses import Head, Loss
from fanin.theory.depth_scales import critical_point, critical_weight_var, depth_scales
from fanin.theory.gaussian_pairs import pair_expectations
from fanin.theory.logits import initial_loss

FUNCTIONS = {
    "linear": nn.Identity(),
    "relu": torch.relu,
    "leaky_relu(0.01)": partial(F.leaky_relu, negative_slope=0.01),
    "lrelu0.2": partial(F.leaky_relu, negative_slope=0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
}
REFERENCE = pd.read_csv(Path(__file__).with_name("reference.csv"), comment="#")


def rows(pattern: str):
    table = REFERENCE[REFERENCE.case.str.contains(f"^(?:{pattern})")]
    ids = [f"{row.case}-{row.quantity[:12]}-{row.layer}" for row in table.itertuples()]
    assert len(ids) > 0
    return pytest.mark.parametrize("row", list(table.itertuples()), ids=ids)


@cache
def kernels(activation: str, sigma_w2: float, sigma_b2: float) -> Kernels:
    """Return the NNGP and tangent kernels of two inputs.

    The depth is that of the deepest matching MLP in reference.csv, and at least 15.
    """
    mlps = REFERENCE[REFERENCE.case.str.startswith("mlp_") & (REFERENCE.activation == activation)]
    mlps = mlps[(mlps.sigma_w2 == sigma_w2) & (mlps.sigma_b2 == sigma_b2)]
    deepest = max(15, *mlps.layer.astype(int))
    i = torch.arange(1, 65, dtype=torch.float64)
    inputs = torch.stack([torch.sin(0.37 * i) + 0.25, torch.cos(0.21 * i)])
    gram = inputs @ inputs.T / 64
    return dense_kernels(FUNCTIONS[activation], sigma_w2, sigma_b2, gram, deepest)


@rows("functional_")
def test_gaussian_functionals(row):
    var = torch.tensor([float(re.search(r"N\(0,(.*)\)$", row.quantity).group(1))]).double()
    law = pair_expectations(FUNCTIONS[row.activation])
    value = law.slope_m2(var) if "phi'" in row.quantity else law.second_moment(var)
    assert value.item() == pytest.approx(row.reference_value, rel=1e-10)


@rows("mlp_(?!bwd)")
def test_dense_kernels(row):
    layer = int(row.layer) - 1
    result = kernels(row.activation, row.sigma_w2, row.sigma_b2)
    values = {"q": result.cov[layer, 0, 0], "c": result.correlation()[layer, 0, 1]}
    values["N"] = result.ntk[layer, 0, 0]
    # neural-tangents uses the less accurate quadrature for tanh (derivations.md, 2.2).
    tolerance = 5e-5 if row.activation == "tanh" and "neural" in row.source else 1e-6
    value = values[row.quantity[0]].item()
    assert value == pytest.approx(row.reference_value, rel=tolerance)


@rows("mlp_bwd")
def test_gradients_of_dense_networks(row):
    last = int(re.search(r"E\[d_(\d+)\^2\]$", row.quantity).group(1))
    result = kernels(row.activation, row.sigma_w2, row.sigma_b2)
    ratio = result.gradient_factor[: last - 1, 0].prod().item()
    assert ratio == pytest.approx(row.reference_value, rel=1e-6)


@rows("fixedpoint_")
def test_fixed_points(row):
    scales = depth_scales(FUNCTIONS[row.activation], row.sigma_w2, row.sigma_b2)
    names = {"q": "q_star", "chi1": "chi_1", "cstar": "c_star"}
    value = getattr(scales, names.get(row.quantity, row.quantity))
    assert value == pytest.approx(row.reference_value, rel=1e-6)


@rows("critical_")
def test_critical_line(row):
    function = FUNCTIONS[row.activation]
    given = (row.sigma_w2, row.sigma_b2)
    assert critical_point(function, row.reference_value) == pytest.approx(given, rel=1e-6)
    assert critical_weight_var(function, row.sigma_b2) == pytest.approx(row.sigma_w2, rel=1e-6)
    scales = depth_scales(function, *given)
    assert scales.phase == "critical"
    assert scales.q_star == pytest.approx(row.reference_value, rel=1e-6)


@rows("ce_loss_")
def test_initial_cross_entropy(row):
    n_classes, variance = re.search(r"K(\d+)_s2_(.*)$", row.case).groups()
    start = initial_loss(Loss("cross_entropy"), Head("softmax"), int(n_classes), float(variance))
    se = float(re.search(r"se=(.*)$", row.source).group(1))
    # At variance 0 the reference value is exact to its printed digits.
    assert abs(start.loss - row.reference_value) <= max(3.5 * se, 1e-11)
