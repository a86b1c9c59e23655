"""Tests of orthogonal weights, for all groups, per group and at the kernel's centre."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fanin.inits import DeltaOrthogonal, Orthogonal, WeightShape

SIZES = st.integers(1, 12)
KERNELS = st.lists(st.integers(1, 4), max_size=2).map(tuple)
SEEDS = st.integers(0, 2**31)
EPS = torch.finfo(torch.float64).eps


def assert_orthonormal(matrix: torch.Tensor) -> None:
    """Check that the rows, or the columns if there are fewer, are orthonormal.

    Householder QR is backward stable: |Q^T Q - 1| is a small multiple of rows x columns x eps.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    identity = torch.eye(tall.shape[1], dtype=torch.float64)
    assert (tall.mT @ tall - identity).abs().max() <= 4 * tall.numel() * EPS


@settings(deadline=None)
@given(SIZES, SIZES, KERNELS, st.integers(1, 3), SEEDS)
def test_all_groups_share_one_orthogonal_matrix(outputs, inputs, kernel, groups, seed):
    groups = groups if kernel else 1
    weight = WeightShape(outputs * groups, inputs * groups, kernel, groups)
    sampled = Orthogonal().sample(weight, torch.Generator().manual_seed(seed))
    matrix = sampled.reshape(outputs * groups, weight.fan_in)
    assert_orthonormal(matrix)
    mean_square = float((sampled**2).mean())
    # The error of each squared column (or row) is at most the one of `assert_orthonormal`.
    assert abs(mean_square / Orthogonal().moments(weight).var - 1) <= 4 * matrix.numel() * EPS


@settings(deadline=None)
@given(SIZES, SIZES, KERNELS, st.integers(1, 3), SEEDS)
def test_each_group_has_an_orthogonal_matrix(outputs, inputs, kernel, groups, seed):
    groups = groups if kernel else 1
    weight = WeightShape(outputs * groups, inputs * groups, kernel, groups)
    scheme = Orthogonal(per_group=True)
    sampled = scheme.sample(weight, torch.Generator().manual_seed(seed))
    matrices = sampled.reshape(groups, outputs, weight.fan_in)
    for matrix in matrices:
        assert_orthonormal(matrix)
    mean_square = float((sampled**2).mean())
    assert abs(mean_square / scheme.moments(weight).var - 1) <= 4 * weight.fan_in * 12 * EPS


@settings(deadline=None)
@given(SIZES, SIZES, st.lists(st.integers(1, 4), min_size=1, max_size=2), st.integers(1, 3), SEEDS)
def test_delta_orthogonal_has_its_matrix_at_the_centre(outputs, inputs, kernel, groups, seed):
    weight = WeightShape(outputs * groups, inputs * groups, tuple(kernel), groups)
    sampled = DeltaOrthogonal().sample(weight, torch.Generator().manual_seed(seed))
    centre = (..., *(size // 2 for size in kernel))
    for matrix in sampled[centre].reshape(groups, outputs, inputs):
        assert_orthonormal(matrix)
    sampled[centre] = 0
    assert sampled.count_nonzero() == 0
    var = DeltaOrthogonal().moments(weight).var
    assert var[centre] == 1 / max(outputs, inputs)
    assert var.sum() == var[centre]


def test_groups_are_independent():
    weight = WeightShape(8, 8, kernel=(1,), groups=2)
    sampled = Orthogonal(per_group=True).sample(weight, torch.Generator().manual_seed(0))
    first, second = sampled.split(4)
    assert not torch.equal(first, second)


def test_delta_orthogonal_of_a_linear_layer_is_orthogonal():
    weight = WeightShape(7, 5)
    schemes = Orthogonal(), DeltaOrthogonal()
    draws = [scheme.sample(weight, torch.Generator().manual_seed(0)) for scheme in schemes]
    assert torch.equal(*draws)
    assert len({scheme.moments(weight) for scheme in schemes}) == 1


def test_delta_orthogonal_keeps_the_norm_of_an_image():
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(DeltaOrthogonal().sample(WeightShape.of(conv), torch.Generator()))
        image = torch.randn(1, 4, 9, 9, dtype=torch.float64, generator=torch.Generator())
        torch.testing.assert_close(conv(image).norm(), image.norm(), rtol=1e3 * EPS, atol=0)
