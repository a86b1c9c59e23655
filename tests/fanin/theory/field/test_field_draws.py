"""Theory 3 agrees with fresh draws of networks, layer type by layer type."""

from __future__ import annotations

import pytest
import torch
from field_networks import BACKWARD, FORWARD, Weights, image, rejected, z_scores
from torch import nn

from fanin.models.layers import LocalResponseNorm, MeanOnly

C, DRAWS = 64, 120  # what finite width adds is below half of a standard error


def net(*after_first: nn.Module, side: int, act=nn.ReLU, **conv) -> nn.Sequential:
    """A convolution, whatever stands behind it, a convolution, a flat readout of `side` maps."""
    settings = {"kernel_size": 3, "padding": 1} | conv
    return nn.Sequential(
        *(nn.Conv2d(2, C, **settings), *after_first),
        *(nn.Conv2d(C, C, 3, padding=1), act(), nn.Flatten(), nn.Linear(C * side**2, 10)),
    )


NETS = {
    "zero padding": net(nn.ReLU(), side=7),
    "stride and dilation": net(nn.ReLU(), side=3, stride=2, dilation=2),
    "groups": net(nn.ReLU(), side=7, groups=2),
    "tanh": net(nn.Tanh(), side=7, act=nn.Tanh),
    "gelu": net(nn.GELU(), side=7, act=nn.GELU),
    "max-pool": net(nn.ReLU(), nn.MaxPool2d(2), side=3),
    "overlapping max-pool": net(nn.Tanh(), nn.MaxPool2d(3, 2), side=3, act=nn.Tanh),
    "max-pool before the activation": net(nn.MaxPool2d(3, 2, 1), nn.ELU(), side=4),
    "average-pool": net(nn.GELU(), nn.AvgPool2d(2), side=3),
    "overlapping average-pool": net(nn.ReLU(), nn.AvgPool2d(3, 2, padding=1), side=4),
    "adaptive average-pool": net(nn.SELU(), nn.AdaptiveAvgPool2d(3), side=3),
    "average then maximum": net(nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), side=1),
    "mean only": net(MeanOnly(), nn.ReLU(), side=7),
    "response normalization": net(nn.ReLU(), LocalResponseNorm(), side=7),
}


@pytest.mark.parametrize("kind", NETS)
def test_layer_by_layer(kind):
    scores = z_scores(NETS[kind], Weights(), image(), DRAWS)
    assert not rejected(scores), scores


@pytest.mark.parametrize(
    ("tilt", "act", "zero_sum"),
    [
        (1.0, nn.ReLU, False),
        (4.0, nn.ReLU, True),
        (1.0, nn.Tanh, True),
        (4.0, nn.Tanh, False),
        (4.0, nn.Identity, True),
    ],
)
def test_weights_of_non_zero_mean(tilt, act, zero_sum):
    x = image()
    model = nn.Sequential(
        *(nn.Conv2d(2, C, 3, padding=1), act(), nn.Conv2d(C, C, 3, stride=2, padding=1), act()),
        *(nn.Conv2d(C, C, 3, padding=1), act(), nn.Flatten(), nn.Linear(16 * C, 10)),
    )
    weights = Weights(gain=2**0.5 if act is nn.ReLU else 1.0, tilt=tilt)
    scores = z_scores(model, weights, x - x.mean() if zero_sum else x, DRAWS)
    assert not rejected(scores), scores


def test_weights_of_non_zero_mean_through_a_max_pool():
    model = nn.Sequential(
        *(nn.Conv2d(2, C, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(C, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    scores = z_scores(model, Weights(tilt=2.0), image(), DRAWS)
    assert not rejected(scores), scores


def test_dropout_in_training_by_its_masks():
    # Torch's own dropout draws its masks anew for every pass, which vmapped draws can't share, so
    # this one is averaged by hand: E[mask^2] = 1 / (1 - p) multiplies the next layer's moment.
    from fanin.theory.field import predict_field

    weights = Weights()
    plain = net(nn.ReLU(), side=7).double()
    dropped = net(nn.ReLU(), nn.Dropout(0.25), side=7).double()
    q, q_dropped = (
        predict_field(model, weights.moments(model), image()).value("preact_m2")[0]
        for model in (plain.train(), dropped.train())
    )
    assert q_dropped[0] == pytest.approx(q[0], rel=1e-12)
    assert q_dropped[1:] == pytest.approx(q[1:] / 0.75, rel=1e-9)


def test_exactly_zero_patches_pass_nothing_back():
    # Black background, no biases: y = 0 exactly, and torch takes relu'(0) = 0.
    x = torch.zeros(1, 2, 7, 7).double()
    x[..., :2, :2] = 1.0
    scores = z_scores(net(nn.ReLU(), side=7), Weights(), x, DRAWS)
    assert not rejected(scores), scores


def test_a_grouped_first_layer_over_channels_of_different_size():
    x = image() * torch.tensor([1.0, 5.0])[:, None, None]
    scores = z_scores(NETS["groups"], Weights(), x, DRAWS)
    assert not rejected(scores), scores


def test_forward_moments_of_he_relu_nets_are_exact_at_any_width():
    narrow = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4 * 49, 10)),
    )
    scores = z_scores(narrow, Weights(), image(), draws=200, quantities=FORWARD[:1])
    assert not rejected(scores), scores


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(7)])
def test_logits_that_a_pooling_makes_of_the_last_maps(pool):
    model = nn.Sequential(
        *(nn.Conv2d(2, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, 10, 3, padding=1), pool),
        nn.Flatten(),
    )
    # Ten channels of many positions: their own variance is that of few units (theory 4's matter).
    quantities = ("preact_m2", "preact_mean", *BACKWARD)
    scores = z_scores(model, Weights(), image(), DRAWS, quantities)
    assert not rejected(scores), scores
