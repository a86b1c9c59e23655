"""Expected initial losses and gradients agree with drawn logits and with their limits."""

from __future__ import annotations

import math

import pytest
import torch

from fanin.errors import ConfigError
from fanin.losses import Head, Loss, make_objective
from fanin.theory.logits import initial_loss

CROSS_ENTROPY = Loss("cross_entropy"), Head("softmax")
PAIRS = [
    ("cross_entropy", "softmax"),
    ("cross_entropy", "none"),
    ("bce", "sigmoid"),
    ("bce", "none"),
    ("mse", "none"),
    ("mse", "sigmoid"),
    ("mse", "tanh"),
    ("mse", "softmax"),
]


def measure_draws(loss, head, n_classes, s2, *, shift=0.0, shift_var=0.0, log_sd=0.0, n=40_000):
    """Return mean and standard error of the loss and its squared gradient over sampled logits."""
    generator = torch.Generator().manual_seed(7)
    objective = make_objective(loss, head, n_classes)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spread = torch.exp(log_sd * normal(n, 1) - log_sd**2 / 2)
    logits = (s2 * spread).sqrt() * normal(n, objective.n_outputs)
    logits = (logits + shift + math.sqrt(shift_var) * normal(n, 1)).requires_grad_()
    label = torch.randint(n_classes, (n,), generator=generator)
    losses = objective.per_example(logits, label)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    square, losses = gradient.square().sum(1), losses.detach()
    return [(float(x.mean()), float(x.std()) / math.sqrt(n)) for x in (losses, square)]


def assert_agree(start, measured):
    pairs = zip(
        (start.loss, start.gradient_m2), (start.loss_se, start.gradient_se), measured, strict=True
    )
    for value, value_se, (mean, se) in pairs:
        assert abs(value - mean) <= 3.5 * math.hypot(se, value_se) + 1e-12 * abs(mean)


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize(("loss", "head"), PAIRS)
def test_losses_and_heads_agree_with_draws(loss, head, n_classes):
    for s2 in (0.0, 0.5, 40.0):
        shift = {"shift": 0.4, "shift_var": 0.3}
        start = initial_loss(Loss(loss), Head(head), n_classes, s2, **shift)
        assert_agree(start, measure_draws(Loss(loss), Head(head), n_classes, s2, **shift))


@pytest.mark.parametrize("n_classes", [2, 3, 47, 1000])
@pytest.mark.parametrize("s2", [0.09, 0.99, 1.01, 17.0, 1e4, 1e8])
def test_cross_entropy_agrees_with_draws(n_classes, s2):
    n = min(40_000, 4_000_000 // n_classes)
    measured = measure_draws(*CROSS_ENTROPY, n_classes, s2, n=n)
    start = initial_loss(*CROSS_ENTROPY, n_classes, s2)
    assert_agree(start, measured)


@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000])
def test_cross_entropy_of_small_and_large_logits(n_classes):
    for s2 in (0.0, 1e-8, 1e-4):
        start = initial_loss(*CROSS_ENTROPY, n_classes, s2)
        second_order = math.log(n_classes) + s2 / 2 * (1 - 1 / n_classes)
        assert start.loss == pytest.approx(second_order, abs=s2**2 + 1e-11)
        assert start.gradient_m2 == pytest.approx(1 - 1 / n_classes, abs=s2 + 1e-11)
    huge = initial_loss(*CROSS_ENTROPY, n_classes, 1e16)
    larger = initial_loss(*CROSS_ENTROPY, n_classes, 1e20)
    assert larger.loss / huge.loss == pytest.approx(100, rel=1e-6)
    assert larger.gradient_m2 == pytest.approx(2 * (1 - 1 / n_classes), rel=1e-6)


def test_expected_maximum_of_normals():
    # E max of 2: 1 / sqrt(pi); of 10 and 100: docs/appendix/derivations.md, section 3.5.
    for n_classes, expected in ((2, 0.5641896), (10, 1.5388), (100, 2.5076)):
        start = initial_loss(*CROSS_ENTROPY, n_classes, 1e16)
        assert start.loss / 1e8 == pytest.approx(expected, abs=6e-5)  # as rounded there


def test_both_integrals_agree_at_their_boundary():
    # The integration variable changes at s = 1.
    below, above = (initial_loss(*CROSS_ENTROPY, 10, 1 + d) for d in (-1e-9, 1e-9))
    assert below.loss == pytest.approx(above.loss, rel=1e-8)
    assert below.gradient_m2 == pytest.approx(above.gradient_m2, rel=1e-8)


def test_log_normal_logit_variance():
    start = initial_loss(*CROSS_ENTROPY, 10, 4.0, log_sd=1.0)
    assert_agree(start, measure_draws(*CROSS_ENTROPY, 10, 4.0, log_sd=1.0, n=200_000))
    assert start.loss < initial_loss(*CROSS_ENTROPY, 10, 4.0).loss


def test_softmax_ignores_a_common_shift():
    unshifted = initial_loss(*CROSS_ENTROPY, 10, 2.0)
    shifted = initial_loss(*CROSS_ENTROPY, 10, 2.0, shift=1e6, shift_var=1e9)
    assert unshifted == shifted


def test_naive_equals_stable_but_twice_does_not():
    naive = initial_loss(Loss("cross_entropy", "naive"), Head("softmax"), 10, 1.0)
    assert naive == initial_loss(*CROSS_ENTROPY, 10, 1.0)
    twice = Loss("cross_entropy", "twice")
    assert_agree(
        initial_loss(twice, Head("softmax"), 10, 1.0),
        measure_draws(twice, Head("softmax"), 10, 1.0),
    )


def test_incompatible_loss_and_head_raise():
    with pytest.raises(ConfigError, match="sigmoids"):
        initial_loss(Loss("cross_entropy"), Head("sigmoid"), 10, 1.0)
