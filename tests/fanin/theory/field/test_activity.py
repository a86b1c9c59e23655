"""Points whose inputs are all 0 in most networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from theory_networks import layer_moments
from torch import nn

from fanin.inits import Moments
from fanin.theory.field import predict_field
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.network import parse_network

DRAWS = 400


def test_dark_halves_of_an_image_send_no_gradient() -> None:
    """With weights of positive mean, no ReLU of the first layer is active at dark pixels."""
    channels = 32
    model = nn.Sequential(
        *(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3, groups=2)),
        *(nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Flatten()),
        nn.Linear(channels * 64, 10),
    )
    moments = layer_moments(model, lambda s: 1 / s.fan_in, mean=lambda s: s.fan_in**-0.5)
    image = torch.ones(1, 3, 12, 12).double()
    image[..., :6] = -1
    field = predict_field(model, moments, image)
    net = parse_network(model, (3, 12, 12))
    drawn = simulate_networks(model, net, moments, image, draws=DRAWS, seed=1).values["vjp_m2"][
        :, 0
    ]
    se = (drawn.std(0) / drawn.mean(0) / DRAWS**0.5).numpy()[1:3]
    log_ratio = np.log(field.value("vjp_m2")[0] / drawn.mean(0).numpy())[1:3]
    # If these points had Gaussian pre-activations, the log ratio at layer 3 would be 0.26.
    assert (np.abs(log_ratio) < 3 * se + 1 / channels).all()
    # Two of eight columns see dark pixels only, and a third one is 0 in half of the networks.
    zero_fraction = field.value("act_zero_fraction")[0]
    assert 2 / 8 < zero_fraction[1] < 3 / 8


def test_biases_keep_units_from_being_exactly_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
    model.extend([nn.Flatten(), nn.Linear(8, 2)])
    image = -torch.ones(1, 1, 1, 1).double()
    for bias_var, expected in ((0.0, 1.0), (0.1, 0.5)):
        moments = layer_moments(model, lambda s: 1e-6, lambda s: 1.0, Moments(0.0, bias_var))
        moments["0"] = replace(moments["0"], bias=Moments(0.0, 0.0))
        zeros = predict_field(model, moments, image).value("act_zero_fraction")[0]
        assert zeros[:2] == pytest.approx([1.0, expected])
