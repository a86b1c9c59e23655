"""Tests of the study `dying_relu` and of its closed-form theory of one filter."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from small_sweep import run_sweep
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d

from analysis.figures.dying_relu import killing_rate
from analysis.figures.dying_relu.cells import summarize
from analysis.figures.dying_relu.theory import SingleFilterTheory, patches_of
from experiments.clip import BiasGradient

REPORTED = (
    *("data=shapes", "data.train_size=2", "data.test_size=2", "data.side=8"),
    *("model=two_layer", "model.channels=1", "model.pool=false"),
    *("init=uniform", "init.a=0.0", "init.b=1.0", "init.bias={mean:0.5,std:0.2887}"),
    *("head=sigmoid", "loss=bce", "clip.bias=mean_of_weights", "train.batch_size=1"),
    *("probe.draws=1", "probe.size=2", "probe.images=[0,1]", "train.steps=2", "probe.steps=[1,2]"),
)
SIDE = 6


def test_a_step_above_the_predicted_rate_kills_and_one_below_does_not(tmp_path: Path) -> None:
    grid = ("optim.lr=1e-4,1.0", "seed=range(3)", "scaling=unit")
    cells = summarize(run_sweep(tmp_path, "s", *REPORTED, *grid, small=["runner=inline"]))["cells"]
    assert len(cells) == 6
    predicted = cells["rate_predicted"].unique()
    assert len(predicted) == 1
    # The rates are a factor of 100 or more from the prediction; draws shift it by far less.
    assert 1e-2 < float(predicted[0]) < 1e-1
    assert cells["dead"].tolist() == (cells["lr"] == 1.0).astype(float).tolist()


@pytest.mark.parametrize(
    ("dead", "rate"), [([0, 0, 1], np.sqrt(0.1 * 1.0)), ([0, 0, 0], 1.0), ([1, 1, 1], 0.01)]
)
def test_the_killing_rate_lies_between_two_rates_or_at_the_end_of_the_grid(
    dead: list[float], rate: float
) -> None:
    cells = pd.DataFrame({"lr": [0.01, 0.1, 1.0], "dead": dead})
    assert killing_rate(cells) == pytest.approx(rate)


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
def test_killing_rate_is_exact_for_weights_of_variance_zero(rule: BiasGradient) -> None:
    x = images()
    weights = constant(x, 0.5, 0.3)
    rate = SingleFilterTheory(patches_of(x, 3), 0.5, 0.3).killing_rate(
        torch.tensor([0.0, 1.0], dtype=torch.float64), rule
    )
    w, b, *_ = torch.autograd.grad(logits(x, *weights)[1], weights)
    b = {"own": b, "mean_of_weights": w.mean().reshape(1), "zero": torch.zeros_like(b)}[rule]
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        feature_map = conv2d(x, *stepped, padding=1).relu()
        assert bool((feature_map == 0).all()) is black


def test_killing_rate_of_a_full_batch_step() -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    theory = SingleFilterTheory(patches_of(x, 3), 0.05, 0.1)
    gradients = (logits(x, *weights).detach().sigmoid() - y) / 2
    rate = theory.killing_rate(gradients, "own")
    loss = binary_cross_entropy_with_logits(logits(x, *weights), y)
    w, b = torch.autograd.grad(loss, weights[:2])
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        assert bool((conv2d(x, *stepped, padding=1) <= 0).all()) is black


def test_a_step_that_increases_preactivations_never_kills() -> None:
    theory = SingleFilterTheory(patches_of(images(), 3), 0.5)
    logit_gradients = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    assert theory.killing_rate(logit_gradients, "mean_of_weights") == float("inf")
