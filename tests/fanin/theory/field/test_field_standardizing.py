"""Theory 3 through batch and layer normalization: draws, what is exact, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_networks import BACKWARD, FORWARD, Weights, image, rejected, standard_error
from torch import nn

from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.network import parse_network

C = 64
IMAGES = torch.cat([image(seed=seed) for seed in range(4)])


def batch(channels: int = C) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def layer(channels: int = C) -> nn.Module:
    return nn.GroupNorm(1, channels)


def net(norm, *pool: nn.Module, side: int = 7, act=nn.ReLU, **conv) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, C, 3, padding=1, **conv), norm(), act(), *pool),
        *(nn.Conv2d(C, C, 3, padding=1, **conv), norm(), act()),
        *(nn.Flatten(), nn.Linear(C * side**2, 10)),
    ).double()


def scores(model: nn.Sequential, weights: Weights, draws: int = 120) -> dict:
    """By quantity and layer, how many standard errors the mean over real networks is off."""
    moments = weights.moments(model)
    frame = predict_field(model, moments, IMAGES, sampling=Sampling()).to_frame()
    frame = frame[frame.image == -1]
    drawn = simulate_networks(
        model, parse_network(model, IMAGES.shape[1:]), moments, IMAGES, draws=draws
    )
    found = {}
    for quantity in (*FORWARD[:2], *BACKWARD):
        rows = frame[frame.quantity == quantity]
        measured = drawn.values[quantity].detach().mean(1).numpy()
        value = rows.value.to_numpy()
        se = np.hypot(standard_error(measured), rows.sampling_se.to_numpy())
        off = (measured.mean(0) - value) / np.maximum(se, 1e-9 * np.abs(value) + 1e-300)
        found |= {(quantity, number): z for number, z in enumerate(off.tolist(), start=1)}
    return found


@pytest.mark.parametrize(
    ("norm", "tilt", "pool", "act"),
    [
        (batch, 0.0, [], nn.ReLU),
        (batch, 1.0, [nn.MaxPool2d(2)], nn.ReLU),
        (batch, 1.0, [], nn.Tanh),
        (layer, 0.0, [nn.MaxPool2d(2)], nn.ReLU),
        (layer, 0.0, [nn.AvgPool2d(2)], nn.Tanh),
    ],
)
def test_real_networks_agree(norm, tilt, pool, act):
    model = net(norm, *pool, side=3 if pool else 7, act=act)
    found = scores(model, Weights(tilt=tilt))
    assert not rejected(found), found


@pytest.mark.parametrize("norm", [batch, layer])
@pytest.mark.parametrize("gain", [0.1, 1.0, 1e3])
def test_half_of_the_second_moment_is_behind_the_rectifier_whatever_goes_in(norm, gain):
    # The standardized field is symmetric about 0 and has mean square 1, eps apart.
    model = net(norm, padding_mode="circular")
    for place in (1, 4):
        model[place].eps = 1e-30
    q = predict_field(model, Weights(gain=gain).moments(model), IMAGES).value("preact_m2").mean(0)
    assert q[1:] == pytest.approx([0.5 * gain**2] * 2, rel=1e-6)


def test_eps_takes_its_share():
    model = net(layer, padding_mode="circular")
    (x,) = IMAGES[:1, None]
    q = predict_field(model, Weights(gain=0.01).moments(model), x).value("preact_m2").mean(0)
    assert q[1] == pytest.approx(0.5e-4 * q[0] / (q[0] + model[1].eps), rel=1e-6)


@pytest.mark.parametrize("norm", [batch, layer])
@pytest.mark.parametrize("gain", [1e4, 1e110])  # the second beyond what float64 squares
def test_the_weights_size_is_forgotten(norm, gain):
    model = net(norm)
    small, large = (
        predict_field(model, Weights(gain=g).moments(model), IMAGES) for g in (1e3, gain)
    )
    ratio = large.value("preact_m2") / small.value("preact_m2")
    assert ratio == pytest.approx(np.full(ratio.shape, (gain / 1e3) ** 2), rel=1e-6)
    # What comes back through a norm is divided by the size that the weights above multiplied.
    assert large.value("vjp_m2") == pytest.approx(small.value("vjp_m2"), rel=1e-6)


def test_equal_scales_and_shifts_are_the_norms_own():
    model = net(batch, padding_mode="circular", act=nn.Identity)
    nn.init.constant_(model[1].weight, 3.0)
    nn.init.constant_(model[1].bias, 4.0)
    weights = Weights(gain=1.0)
    q = predict_field(model, weights.moments(model), IMAGES).value("preact_m2").mean(0)
    assert q[1] == pytest.approx(3.0**2 + 4.0**2, rel=1e-4)


def test_images_that_are_normalized_together_are_predicted_together():
    # An image far brighter than the others takes the channel's scale for itself.
    model = net(batch)
    moments = Weights().moments(model)
    images = IMAGES * torch.tensor([1.0, 1.0, 1.0, 30.0])[:, None, None, None]
    q = predict_field(model, moments, images).value("preact_m2")
    assert q[0, 1] < 0.1 * q[3, 1]
    alone = predict_field(model, moments, images[:1]).value("preact_m2")[0]
    assert q[0, 1] < 0.5 * alone[1]


@pytest.mark.parametrize("joint", [False, True])
def test_layer_normalization_takes_each_image_by_itself(joint):
    model = net(layer)
    moments = Weights().moments(model)
    bright = IMAGES * torch.tensor([1.0, 1.0, 1.0, 30.0])[:, None, None, None]
    sampling = Sampling(samples=512, repeats=1)
    even, uneven = (
        predict_field(model, moments, x, joint=joint, sampling=sampling).value("preact_m2")
        for x in (IMAGES, bright)
    )
    assert uneven[3, 0] == pytest.approx(900 * even[3, 0])
    assert uneven[:, 1:] == pytest.approx(even[:, 1:], rel=1e-3)  # eps: 1e-5 beside 0.1 or more


def named(norm: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(2, 4, 3))
    model.add_module("strange", norm)
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc1", nn.Linear(100, 10))
    return model.double()


def uneven() -> nn.Module:
    norm = batch(4)
    nn.init.uniform_(norm.weight)
    return norm


@pytest.mark.parametrize(
    ("norm", "tilt", "why"),
    [
        (nn.GroupNorm(2, 4), 0.0, "2 groups"),
        (nn.GroupNorm(1, 4), 1.0, "non-zero mean"),
        (nn.BatchNorm2d(4).eval(), 0.0, "BatchNorm2d"),
        (uneven(), 0.0, "differently"),
    ],
)
def test_what_has_no_theory_is_refused_by_name(norm, tilt, why):
    model = named(norm)
    with pytest.raises(UnpredictableLayer, match=rf"strange.*{why}"):
        predict_field(model, Weights(tilt=tilt).moments(model), IMAGES)


def test_batch_normalization_of_one_number_is_refused():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(98, 8), nn.BatchNorm1d(8, track_running_stats=False),
        nn.Linear(8, 4),
    ).double()  # fmt: skip
    with pytest.raises(UnpredictableLayer, match="layer 2"):
        predict_field(model, Weights().moments(model), IMAGES[:1])


@pytest.mark.parametrize("norm", [batch, layer])
def test_half_holds_at_any_width(norm):
    # The law of the weights is symmetric, so y and -y are as likely: E[relu(y)^2] = E[y^2] / 2.
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), norm(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1), norm(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(196, 10)),
    ).double()
    moments = Weights().moments(model)  # of the logits, 2 / fan_in: E[y^2] = 2 E[x^2]
    drawn = simulate_networks(
        model, parse_network(model, IMAGES.shape[1:]), moments, IMAGES, draws=160
    )
    logits = drawn.values["preact_m2"].detach()[..., -1].mean(1).numpy()
    assert abs(logits.mean() - 1) < 3.5 * standard_error(logits)
