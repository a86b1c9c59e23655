"""Theory `field` with batch and layer normalization: draws, exact values and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_networks import BACKWARD, FORWARD, Weights, image, rejected_scores, standard_error
from torch import nn

from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.network import parse_network

CHANNELS = 64
IMAGES = torch.cat([image(seed=seed) for seed in range(4)])


def batch_norm(channels: int = CHANNELS) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def layer_norm(channels: int = CHANNELS) -> nn.Module:
    return nn.GroupNorm(1, channels)


def make_network(
    norm, *pool: nn.Module, side: int = 7, activation=nn.ReLU, **conv_kwargs
) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, CHANNELS, 3, padding=1, **conv_kwargs), norm(), activation(), *pool),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, **conv_kwargs), norm(), activation()),
        *(nn.Flatten(), nn.Linear(CHANNELS * side**2, 10)),
    ).double()


def z_scores(model: nn.Sequential, weights: Weights, draws: int = 120) -> dict:
    """Return (mean over draws - prediction) / standard error, by quantity and layer."""
    moments = weights.moments(model)
    frame = predict_field(model, moments, IMAGES, sampling=Sampling()).to_frame()
    frame = frame[frame.image == -1]
    simulated = simulate_networks(
        model, parse_network(model, IMAGES.shape[1:]), moments, IMAGES, draws=draws
    )
    scores = {}
    for quantity in (*FORWARD[:2], *BACKWARD):
        rows = frame[frame.quantity == quantity]
        measured = simulated.values[quantity].detach().mean(1).numpy()
        value = rows.value.to_numpy()
        se = np.hypot(standard_error(measured), rows.sampling_se.to_numpy())
        deviations = (measured.mean(0) - value) / np.maximum(se, 1e-9 * np.abs(value) + 1e-300)
        scores |= {(quantity, number): z for number, z in enumerate(deviations.tolist(), start=1)}
    return scores


@pytest.mark.parametrize(
    ("norm", "mean_ratio", "pool", "activation"),
    [
        (batch_norm, 0.0, [], nn.ReLU),
        (batch_norm, 1.0, [nn.MaxPool2d(2)], nn.ReLU),
        (batch_norm, 1.0, [], nn.Tanh),
        (layer_norm, 0.0, [nn.MaxPool2d(2)], nn.ReLU),
        (layer_norm, 0.0, [nn.AvgPool2d(2)], nn.Tanh),
    ],
)
def test_predictions_agree_with_drawn_networks(norm, mean_ratio, pool, activation):
    model = make_network(norm, *pool, side=3 if pool else 7, activation=activation)
    scores = z_scores(model, Weights(mean_ratio=mean_ratio))
    assert not rejected_scores(scores), scores


@pytest.mark.parametrize("norm", [batch_norm, layer_norm])
@pytest.mark.parametrize("gain", [0.1, 1.0, 1e3])
def test_relu_after_normalization_halves_the_second_moment(norm, gain):
    # Apart from eps, the normalized field is symmetric about 0 and has mean square 1.
    model = make_network(norm, padding_mode="circular")
    for index in (1, 4):
        model[index].eps = 1e-30
    m2 = predict_field(model, Weights(gain=gain).moments(model), IMAGES).value("preact_m2").mean(0)
    assert m2[1:] == pytest.approx([0.5 * gain**2] * 2, rel=1e-6)


def test_eps_reduces_the_normalized_second_moment():
    model = make_network(layer_norm, padding_mode="circular")
    (x,) = IMAGES[:1, None]
    m2 = predict_field(model, Weights(gain=0.01).moments(model), x).value("preact_m2").mean(0)
    assert m2[1] == pytest.approx(0.5e-4 * m2[0] / (m2[0] + model[1].eps), rel=1e-6)


@pytest.mark.parametrize("norm", [batch_norm, layer_norm])
@pytest.mark.parametrize("gain", [1e4, 1e110])  # the square of 1e110^2 overflows float64
def test_normalization_removes_the_scale_of_the_weights(norm, gain):
    model = make_network(norm)
    small, large = (
        predict_field(model, Weights(gain=g).moments(model), IMAGES) for g in (1e3, gain)
    )
    ratio = large.value("preact_m2") / small.value("preact_m2")
    assert ratio == pytest.approx(np.full(ratio.shape, (gain / 1e3) ** 2), rel=1e-6)
    # The cotangent is multiplied by the weights of the next layer and divided by the norm's scale.
    assert large.value("vjp_m2") == pytest.approx(small.value("vjp_m2"), rel=1e-6)


def test_uniform_affine_parameters_are_applied():
    model = make_network(batch_norm, padding_mode="circular", activation=nn.Identity)
    nn.init.constant_(model[1].weight, 3.0)
    nn.init.constant_(model[1].bias, 4.0)
    weights = Weights(gain=1.0)
    m2 = predict_field(model, weights.moments(model), IMAGES).value("preact_m2").mean(0)
    assert m2[1] == pytest.approx(3.0**2 + 4.0**2, rel=1e-4)


def test_batch_normalization_couples_images():
    # A much brighter image determines the scale of the whole channel.
    model = make_network(batch_norm)
    moments = Weights().moments(model)
    images = IMAGES * torch.tensor([1.0, 1.0, 1.0, 30.0])[:, None, None, None]
    m2 = predict_field(model, moments, images).value("preact_m2")
    assert m2[0, 1] < 0.1 * m2[3, 1]
    single = predict_field(model, moments, images[:1]).value("preact_m2")[0]
    assert m2[0, 1] < 0.5 * single[1]


@pytest.mark.parametrize("joint", [False, True])
def test_layer_normalization_does_not_couple_images(joint):
    model = make_network(layer_norm)
    moments = Weights().moments(model)
    bright = IMAGES * torch.tensor([1.0, 1.0, 1.0, 30.0])[:, None, None, None]
    sampling = Sampling(samples=512, repeats=1)
    equal, unequal = (
        predict_field(model, moments, x, joint=joint, sampling=sampling).value("preact_m2")
        for x in (IMAGES, bright)
    )
    assert unequal[3, 0] == pytest.approx(900 * equal[3, 0])
    # eps is 1e-5, the variances are 0.1 or more.
    assert unequal[:, 1:] == pytest.approx(equal[:, 1:], rel=1e-3)


def named_network(norm: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(2, 4, 3))
    model.add_module("norm1", norm)
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc1", nn.Linear(100, 10))
    return model.double()


def nonuniform_batch_norm() -> nn.Module:
    norm = batch_norm(4)
    nn.init.uniform_(norm.weight)
    return norm


@pytest.mark.parametrize(
    ("norm", "mean_ratio", "reason"),
    [
        (nn.GroupNorm(2, 4), 0.0, "num_groups=2"),
        (nn.GroupNorm(1, 4), 1.0, "non-zero mean"),
        (nn.BatchNorm2d(4).eval(), 0.0, "BatchNorm2d"),
        (nonuniform_batch_norm(), 0.0, "differs between channels"),
    ],
)
def test_unsupported_normalization_raises_with_the_layer_name(norm, mean_ratio, reason):
    model = named_network(norm)
    with pytest.raises(UnpredictableLayer, match=rf"norm1.*{reason}"):
        predict_field(model, Weights(mean_ratio=mean_ratio).moments(model), IMAGES)


def test_batch_normalization_of_one_value_raises():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(98, 8), nn.BatchNorm1d(8, track_running_stats=False),
        nn.Linear(8, 4),
    ).double()  # fmt: skip
    with pytest.raises(UnpredictableLayer, match="layer 2"):
        predict_field(model, Weights().moments(model), IMAGES[:1])


@pytest.mark.parametrize("norm", [batch_norm, layer_norm])
def test_relu_halves_the_second_moment_at_any_width(norm):
    # The distribution of the weights is symmetric, so y and -y have the same distribution and
    # E[relu(y)^2] = E[y^2] / 2.
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), norm(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1), norm(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(196, 10)),
    ).double()
    moments = Weights().moments(model)  # variance 2 / fan_in, so the logits have E[y^2] = 2 E[x^2]
    simulated = simulate_networks(
        model, parse_network(model, IMAGES.shape[1:]), moments, IMAGES, draws=160
    )
    logits = simulated.values["preact_m2"].detach()[..., -1].mean(1).numpy()
    assert abs(logits.mean() - 1) < 3.5 * standard_error(logits)
