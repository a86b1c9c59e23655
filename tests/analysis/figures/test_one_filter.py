"""One filter in closed form, against networks with such weights."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d

from analysis.figures.dying_relu.one_filter import Layer, OneFilter, patches_of
from experiments.clip import BiasGradient

SIDE = 6


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def logits(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return conv2d(x, w, b, padding=1).relu().flatten(1) @ v + c


def constant(x: Tensor, value: float, bias: float) -> list[Tensor]:
    like = {"dtype": torch.float64}
    n = x.shape[-1] ** 2
    sizes = ((1, 3, 3, 3), value), ((1,), bias), ((n,), value), ((), bias)
    return [torch.full(size, number, **like).requires_grad_() for size, number in sizes]


def test_patches_give_the_convolution() -> None:
    x, w = images(), torch.randn(1, 3, 3, 3, dtype=torch.float64)
    by_patches = patches_of(x, 3) @ w.flatten()
    torch.testing.assert_close(by_patches, conv2d(x, w, padding=1).flatten(1))


@pytest.mark.parametrize("rule", get_args(BiasGradient))
def test_the_killing_rate_is_where_weights_without_spread_go_black(rule: BiasGradient) -> None:
    """Weights of variance 0 are their mean, so the expectation is what happens."""
    x = images()
    weights = constant(x, 0.5, 0.3)
    rate = OneFilter(patches_of(x, 3), 0.5, 0.0, 0.3).killing_rate(
        torch.tensor([0.0, 1.0], dtype=torch.float64), rule
    )
    w, b, *_ = torch.autograd.grad(logits(x, *weights)[1], weights)
    b = {"own": b, "mean_of_weights": w.mean().reshape(1), "zero": torch.zeros_like(b)}[rule]
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        made = conv2d(x, *stepped, padding=1).relu()
        assert bool((made == 0).all()) is black


def test_a_step_of_both_images_kills_where_it_is_told_to() -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    theory = OneFilter(patches_of(x, 3), 0.05, 0.0, 0.1)
    rate = theory.killing_rate(theory.pulls(y), "own")
    loss = binary_cross_entropy_with_logits(logits(x, *weights), y)
    w, b = torch.autograd.grad(loss, weights[:2])
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        assert bool((conv2d(x, *stepped, padding=1) <= 0).all()) is black


def test_a_step_that_brightens_a_map_kills_at_no_rate() -> None:
    theory = OneFilter(patches_of(images(), 3), 0.5, 0.0)
    pulls = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    assert theory.killing_rate(pulls, "mean_of_weights") == float("inf")


@pytest.mark.parametrize("layer", get_args(Layer))
def test_without_spread_a_curvature_is_the_hessians(layer: Layer) -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    place = {"filter": 0, "linear": 2}[layer]

    def loss(tensor: Tensor) -> Tensor:
        placed = [*weights[:place], tensor, *weights[place + 1 :]]
        return binary_cross_entropy_with_logits(logits(x, *placed), y)

    size = weights[place].numel()
    hessian = torch.autograd.functional.hessian(loss, weights[place]).reshape(size, size)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    told = OneFilter(patches_of(x, 3), 0.05, 0.0, 0.1).curvature(layer)
    assert told == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("layer", get_args(Layer))
def test_the_gram_matrix_is_the_mean_over_draws(layer: Layer) -> None:
    x, draws = images(), 4000
    theory = OneFilter(patches_of(x, 3), 0.5, 1 / 12)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(draws):
        w = torch.rand(27, generator=generator, dtype=torch.float64)
        v = torch.rand(SIDE**2, generator=generator, dtype=torch.float64)
        patches = theory.patches
        derivative = torch.einsum("iqk,q->ik", patches, v) if layer == "filter" else patches @ w
        found.append(derivative @ derivative.T)
    measured = torch.stack(found)
    error = measured.std(0) / draws**0.5
    # Five standard errors, of three numbers.
    assert ((measured.mean(0) - theory.derivative_gram(layer)).abs() < 5 * error).all()


def test_the_ratio_grows_with_the_positions_and_is_1_without_a_mean() -> None:
    x = torch.ones(1, 3, 40, 40)
    with_mean = OneFilter(patches_of(x, 3), 0.5, 0.0).curvature_ratio()
    # Constant images: positions / taps, but for the rim, whose patches hold zeros.
    assert with_mean == pytest.approx(1600 / 27, rel=0.1)
    assert OneFilter(patches_of(x, 3), 0.0, 1.0).curvature_ratio() == pytest.approx(1.0)
