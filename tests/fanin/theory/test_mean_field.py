"""Theory `mean_field` agrees with reference values, and with draws if its assumptions hold."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from theory_networks import (
    ACTIVATIONS,
    BACKWARD,
    image,
    layer_moments,
    measure_moments,
    mlp,
    normal,
    reference_input,
    standard_errors,
    uniform,
)
from torch import nn

from fanin.inits.weight_shape import Moments
from fanin.models.layers import LocalResponseNorm, MeanOnly, SeededDropout
from fanin.theory import UnpredictableLayer, predict_he, predict_mean_field
from fanin.theory.layers import NamedLayer
from fanin.theory.mean_field import unit_moments

REFERENCE = pd.read_csv(Path(__file__).with_name("reference.csv"), comment="#")
FORWARD = ("preact_m2", "preact_mean", "preact_var")


def moments_after(modules, mean=0.0, var=1.0):
    named = [NamedLayer.of(str(i), module) for i, module in enumerate(modules)]
    mean, var = torch.tensor([mean, var], dtype=torch.float64)
    return unit_moments(named, mean, var)


def rows(prefix: str):
    is_predicted = ~REFERENCE.quantity.str.match("c:|NTK")  # excludes correlations and kernels
    table = REFERENCE[REFERENCE.case.str.startswith(prefix) & is_predicted]
    ids = [f"{row.case}-layer{row.layer}-{row.quantity[:8]}" for row in table.itertuples()]
    return pytest.mark.parametrize("row", list(table.itertuples()), ids=ids)


@rows("functional_")
def test_gaussian_functionals_of_the_reference(row):
    q = float(re.search(r"N\(0,(.*)\)$", row.quantity).group(1))
    moments = moments_after([ACTIVATIONS[row.activation]()], var=q)
    value = moments.slope_m2 if "phi'" in row.quantity else moments.m2
    assert value.item() == pytest.approx(row.reference_value, rel=1e-10)


@rows("mlp_")
def test_dense_networks_of_the_reference(row):
    depth = 15 if row.quantity.startswith("E[d_1") else int(row.layer)
    model = mlp(ACTIVATIONS[row.activation], 64, depth)
    moments = layer_moments(
        model, lambda shape: row.sigma_w2 / shape.fan_in, bias=Moments(0.0, row.sigma_b2)
    )
    prediction = predict_mean_field(model, moments, reference_input(64))
    quantity = "vjp_m2" if row.quantity.startswith("E[d_1") else "preact_m2"
    layer = 0 if quantity == "vjp_m2" else depth - 1
    # neural-tangents uses the less accurate quadrature for tanh (derivations.md, 2.2).
    tolerance = 5e-5 if row.activation == "tanh" and "neural" in row.source else 1e-6
    value = prediction.value(quantity)[0, layer]
    assert value == pytest.approx(row.reference_value, rel=tolerance)


@rows("U(")
def test_weights_of_non_zero_mean_of_the_reference(row):
    low, high = map(float, re.search(r"U\((.*),(.*)\)_", row.case).groups())
    model = mlp(ACTIVATIONS[row.activation], 128, int(row.layer), inputs=64)
    moments = layer_moments(model, lambda _: (high - low) ** 2 / 12, lambda _: (high + low) / 2)
    frame = predict_mean_field(model, moments, reference_input(64)).to_frame()
    quantity = "preact_m2" if row.quantity.startswith("E[y^2]") else "preact_var"
    last = frame[(frame.image == 0) & (frame.quantity == quantity)].iloc[-1]
    # The reference has a relative standard error of 0.3 % (column `source`).
    se = math.hypot(last.sampling_se, 0.003 * row.reference_value)
    assert abs(last.value - row.reference_value) < 3.5 * se


def z_scores(model, moments, x, sample, draws, quantities, **settings):
    return scores_of(
        measure_moments(model, x, draws, sample), model, moments, x, quantities, **settings
    )


def scores_of(measured, model, moments, x, quantities, **settings):
    prediction = predict_mean_field(model, moments, x, **settings)
    frame = prediction.to_frame().query("image == 0")
    scores = {}
    for quantity in quantities:
        rows = frame[frame.quantity == quantity]
        value, se = (torch.tensor(rows[c].to_numpy()) for c in ("value", "sampling_se"))
        scores[quantity] = standard_errors(measured[quantity], value, se).tolist()
    return scores


def worst(scores) -> float:
    return max(abs(z) for layer_scores in scores.values() for z in layer_scores)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_zero_mean_dense_networks_agree_with_draws(activation):
    model = mlp(activation, 128, 4)
    moments = layer_moments(model, lambda shape: 2 / shape.fan_in)
    sample = normal(lambda shape: math.sqrt(2 / shape.fan_in))
    scores = z_scores(model, moments, reference_input(128), sample, 100, FORWARD + BACKWARD)
    assert worst(scores) < 4, scores


def test_positive_weights_agree_with_draws():
    model = mlp(nn.ReLU, 128, 4)
    moments = layer_moments(model, lambda _: 1 / 12, lambda _: 1 / 2)
    x = reference_input(128)
    measured = measure_moments(model, x, 100, uniform(0, 1))
    scores = scores_of(measured, model, moments, x, FORWARD + BACKWARD)
    assert worst(scores) < 4, scores
    he = predict_he(model, moments, x).value("preact_m2")[0]
    # Factors per layer are (n / 2)^2 and n / 24, so the ratio grows by 6 n per layer.
    assert measured["preact_m2"][:, 3].mean() / he[3] > 1e6


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Identity])
def test_weight_mean_with_zero_mean_input(activation):
    n = 128
    x = reference_input(n)
    x = x - x.mean()
    model = mlp(activation, n, 4)
    std = 1 / math.sqrt(n)
    moments = layer_moments(model, lambda _: std**2, lambda _: std / 2)
    settings = {"particles": 256, "repeats": 16}
    sample = normal(lambda _: std, mean=0.5)
    scores = z_scores(model, moments, x, sample, 120, FORWARD + BACKWARD, **settings)
    assert worst(scores) < 4, scores


def conv_net_without_borders(channels):
    conv = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="circular")
    model = nn.Sequential(
        *(conv(2, channels), nn.ReLU(), conv(channels, channels), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(channels * 36, 5)),
    )
    generator = torch.Generator().manual_seed(1)
    return model, torch.rand((1, 2, 6, 6), generator=generator, dtype=torch.float64)


def test_circular_relu_cnn_agrees_with_draws():
    model, x = conv_net_without_borders(channels=24)
    moments = layer_moments(model, lambda shape: 2 / shape.fan_in)
    sample = normal(lambda shape: math.sqrt(2 / shape.fan_in))
    scores = z_scores(model, moments, x, sample, 120, ("preact_m2", *BACKWARD))
    assert worst(scores) < 4, scores


def test_positive_weights_sum_gradients_over_positions():
    model, x = conv_net_without_borders(channels=24)
    moments = layer_moments(model, lambda _: 1 / 12, lambda _: 1 / 2)
    measured = measure_moments(model, x, 50, uniform(0, 1))["weight_vjp_m2"].mean(0)[:2].numpy()
    mean_field = predict_mean_field(model, moments, x).value("weight_vjp_m2")[0, :2]
    he = predict_he(model, moments, x).value("weight_vjp_m2")[0, :2]
    # Positions of an image differ, so this theory only predicts the order of magnitude.
    assert (np.abs(np.log(measured / mean_field)) < math.log(2)).all()
    assert (measured / he > 1e4).all()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(1, 4), nn.BatchNorm1d(4).eval()]
)
def test_normalization_before_the_activation(norm):
    running = isinstance(norm, nn.BatchNorm1d)  # evaluation mode uses initial statistics 0 and 1
    units = moments_after([norm, nn.ReLU()], *((0.0, 1.0) if running else (5.0, 9.0)))
    var = 1.0 if running else 9.0
    assert units.m2.item() == pytest.approx(0.5 * var / (var + norm.eps), rel=1e-9)


def test_normalization_after_relu():
    units = moments_after([nn.ReLU(), nn.BatchNorm1d(4, track_running_stats=False)])
    assert units.mean.item() == pytest.approx(0, abs=1e-12)
    var = 0.5 - 0.5 / math.pi
    assert units.m2.item() == pytest.approx(var / (var + 1e-5), rel=1e-9)


def test_mean_only_keeps_the_variance():
    units = moments_after([MeanOnly()], 5.0, 9.0)
    assert units.mean.item() == pytest.approx(0, abs=1e-12)
    assert units.m2.item() == pytest.approx(9)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.2), SeededDropout(0.2, (4,))])
def test_dropout_in_training_and_evaluation(dropout):
    units = moments_after([nn.ReLU(), dropout.train()])
    assert units.m2.item() == pytest.approx(0.5 / 0.8)
    assert units.slope_m2.item() == pytest.approx(0.5 / 0.8)
    assert units.mean.item() == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert moments_after([nn.ReLU(), dropout.eval()]).m2.item() == pytest.approx(0.5)


def test_dropout_before_an_activation_is_a_mixture():
    units = moments_after([nn.Dropout(0.5), nn.Sigmoid()])
    kept = moments_after([nn.Sigmoid()], 0.0, 4.0)
    assert units.m2.item() == pytest.approx(0.5 * kept.m2.item() + 0.5 * 0.25, rel=1e-9)


def test_lrn_sums_in_paper_and_averages_in_torch():
    q = 1e4
    paper = moments_after([LocalResponseNorm()], 0.0, q).m2.item()
    assert paper == pytest.approx(q * (2 + 1e-4 * 5 * q) ** -1.5)
    torch_s = moments_after([nn.LocalResponseNorm(5, k=2.0)], 0.0, q).m2.item()
    assert torch_s == pytest.approx(q * (2 + 1e-4 * q) ** -1.5)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])
def test_pooling_is_ignored(pool):
    assert moments_after([nn.ReLU(), pool, nn.Flatten()]).m2.item() == pytest.approx(0.5)


def test_module_that_mixes_units_raises():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Softmax(dim=1), nn.Linear(4, 4))
    with pytest.raises(UnpredictableLayer, match=r"layer 2: Softmax is neither"):
        predict_mean_field(model, layer_moments(model, lambda _: 1.0), reference_input(4))


def test_zero_weights_give_zero_moments():
    model = mlp(nn.ReLU, 8, 3)
    prediction = predict_mean_field(model, layer_moments(model, lambda _: 0.0), reference_input(8))
    assert (prediction.value("preact_m2") == 0).all()
    assert prediction.value("vjp_m2").tolist() == [[0, 0, 1]]


def test_constant_weights_have_no_variance():
    model = mlp(nn.Identity, 8, 3)
    moments = layer_moments(model, lambda _: 0.0, lambda _: 0.5)
    x = reference_input(8)
    prediction = predict_mean_field(model, moments, x, particles=2, repeats=2)
    sums = 0.5 * x.sum().item() * np.array([1, 4, 16])
    np.testing.assert_allclose(prediction.value("preact_mean")[0], sums, rtol=1e-5)
    assert (prediction.value("preact_var") == 0).all()
    # Units that are equal send equal cotangents: 8 of them add up to 8 times one.
    np.testing.assert_allclose(prediction.value("vjp_m2")[0], [32, 2, 1], rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1e60, -1e60])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Identity])
def test_overflow_gives_inf_not_nan(activation, mean):
    model = mlp(activation, 8, 6)
    moments = layer_moments(model, lambda _: 1e120, lambda _: mean)
    moments["9"] = layer_moments(model, lambda _: 0.0)["9"]
    frame = predict_mean_field(model, moments, 1e10 * reference_input(8)).to_frame()
    assert not frame["value"].isna().any()
    assert not frame["sampling_se"].isna().any()


def test_nan_pixel_affects_only_its_image():
    model = mlp(nn.ReLU, 8, 3)
    x = torch.cat([reference_input(8), reference_input(8)])
    x[0, 0, 0, 3] = torch.nan
    for mean in (0.0, 0.5):
        moments = layer_moments(model, lambda _: 0.1, lambda _, mean=mean: mean)
        q = predict_mean_field(model, moments, x).value("preact_m2")
        assert np.isnan(q[0]).all()
        assert np.isfinite(q[1]).all()


def test_same_seed_gives_same_particles():
    model = mlp(nn.Tanh, 8, 3)
    moments = layer_moments(model, lambda _: 0.1, lambda _: 0.1)
    once, again, other = (
        predict_mean_field(model, moments, image(torch.ones(8)), seed=seed).value("preact_m2")
        for seed in (0, 0, 1)
    )
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_odd_number_of_particles_raises():
    model = mlp(nn.Tanh, 8, 3)
    moments = layer_moments(model, lambda _: 0.1, lambda _: 0.1)
    with pytest.raises(ValueError, match="particles=3: must be even"):
        predict_mean_field(model, moments, reference_input(8), particles=3)
