"""Theory `field` agrees with draws of networks for each layer type."""

from __future__ import annotations

import pytest
import torch
from field_networks import BACKWARD, FORWARD, Weights, image, rejected_scores, z_scores
from torch import nn

from fanin.models.layers import LocalResponseNorm, MeanOnly

CHANNELS, DRAWS = 64, 120  # the finite-width effect is below half a standard error


def make_network(
    *interlayer: nn.Module, side: int, activation=nn.ReLU, **conv_kwargs
) -> nn.Sequential:
    """Build a convolution, `interlayer`, a convolution and a linear readout of square maps."""
    settings = {"kernel_size": 3, "padding": 1} | conv_kwargs
    return nn.Sequential(
        *(nn.Conv2d(2, CHANNELS, **settings), *interlayer),
        *(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(CHANNELS * side**2, 10),
        ),
    )


NETWORKS = {
    "zero padding": make_network(nn.ReLU(), side=7),
    "stride and dilation": make_network(nn.ReLU(), side=3, stride=2, dilation=2),
    "groups": make_network(nn.ReLU(), side=7, groups=2),
    "tanh": make_network(nn.Tanh(), side=7, activation=nn.Tanh),
    "gelu": make_network(nn.GELU(), side=7, activation=nn.GELU),
    "max-pool": make_network(nn.ReLU(), nn.MaxPool2d(2), side=3),
    "overlapping max-pool": make_network(nn.Tanh(), nn.MaxPool2d(3, 2), side=3, activation=nn.Tanh),
    "max-pool before the activation": make_network(nn.MaxPool2d(3, 2, 1), nn.ELU(), side=4),
    "average-pool": make_network(nn.GELU(), nn.AvgPool2d(2), side=3),
    "overlapping average-pool": make_network(nn.ReLU(), nn.AvgPool2d(3, 2, padding=1), side=4),
    "adaptive average-pool": make_network(nn.SELU(), nn.AdaptiveAvgPool2d(3), side=3),
    "average then maximum": make_network(nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), side=1),
    "mean only": make_network(MeanOnly(), nn.ReLU(), side=7),
    "response normalization": make_network(nn.ReLU(), LocalResponseNorm(), side=7),
}


@pytest.mark.parametrize("layer_type", NETWORKS)
def test_each_layer_type_agrees_with_drawn_networks(layer_type):
    scores = z_scores(NETWORKS[layer_type], Weights(), image(), DRAWS)
    assert not rejected_scores(scores), scores


@pytest.mark.parametrize(
    ("mean_ratio", "activation", "zero_sum"),
    [
        (1.0, nn.ReLU, False),
        (4.0, nn.ReLU, True),
        (1.0, nn.Tanh, True),
        (4.0, nn.Tanh, False),
        (4.0, nn.Identity, True),
    ],
)
def test_weights_with_a_mean_agree_with_drawn_networks(mean_ratio, activation, zero_sum):
    x = image()
    model = nn.Sequential(
        *(
            nn.Conv2d(2, CHANNELS, 3, padding=1),
            activation(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1),
            activation(),
        ),
        *(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(16 * CHANNELS, 10),
        ),
    )
    weights = Weights(gain=2**0.5 if activation is nn.ReLU else 1.0, mean_ratio=mean_ratio)
    scores = z_scores(model, weights, x - x.mean() if zero_sum else x, DRAWS)
    assert not rejected_scores(scores), scores


def test_weights_with_a_mean_and_a_max_pool_agree_with_drawn_networks():
    model = nn.Sequential(
        *(nn.Conv2d(2, CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(CHANNELS, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    scores = z_scores(model, Weights(mean_ratio=2.0), image(), DRAWS)
    assert not rejected_scores(scores), scores


def test_dropout_scales_the_next_second_moment():
    # torch.nn.Dropout draws new masks in every call, which vmap over draws does not support. The
    # expected factor on the next layer's moment is E[mask^2] = 1 / (1 - p).
    from fanin.theory.field import predict_field

    weights = Weights()
    without_dropout = make_network(nn.ReLU(), side=7).double()
    with_dropout = make_network(nn.ReLU(), nn.Dropout(0.25), side=7).double()
    m2, m2_dropout = (
        predict_field(model, weights.moments(model), image()).value("preact_m2")[0]
        for model in (without_dropout.train(), with_dropout.train())
    )
    assert m2_dropout[0] == pytest.approx(m2[0], rel=1e-12)
    assert m2_dropout[1:] == pytest.approx(m2[1:] / 0.75, rel=1e-9)


def test_cotangents_are_zero_behind_zero_patches():
    # Black background and no biases: y is exactly 0, and relu'(0) = 0 in torch.
    x = torch.zeros(1, 2, 7, 7).double()
    x[..., :2, :2] = 1.0
    scores = z_scores(make_network(nn.ReLU(), side=7), Weights(), x, DRAWS)
    assert not rejected_scores(scores), scores


def test_grouped_first_layer_with_channels_of_different_scale():
    x = image() * torch.tensor([1.0, 5.0])[:, None, None]
    scores = z_scores(NETWORKS["groups"], Weights(), x, DRAWS)
    assert not rejected_scores(scores), scores


def test_second_moments_of_he_relu_networks_are_exact_at_any_width():
    narrow = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4 * 49, 10)),
    )
    scores = z_scores(narrow, Weights(), image(), draws=200, quantities=FORWARD[:1])
    assert not rejected_scores(scores), scores


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(7)])
def test_logits_pooled_from_the_last_maps_agree_with_drawn_networks(pool):
    model = nn.Sequential(
        *(
            nn.Conv2d(2, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, 10, 3, padding=1),
            pool,
        ),
        nn.Flatten(),
    )
    # preact_var is excluded: with ten channels it depends on the width (theory `finite_width`).
    quantities = ("preact_m2", "preact_mean", *BACKWARD)
    scores = z_scores(model, Weights(), image(), DRAWS, quantities)
    assert not rejected_scores(scores), scores
