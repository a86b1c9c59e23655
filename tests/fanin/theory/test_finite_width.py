"""Theory `finite_width` predicts the spread of draws, on images and on the mean over images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from theory_networks import layer_moments
from torch import Tensor, nn

from fanin.inits import Moments
from fanin.models.layers import MeanOnly
from fanin.theory.field import predict_field
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.finite_width.predict import first_order_holds
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.moments import LayerMoments
from fanin.theory.network import parse_network
from fanin.theory.prediction import Prediction

QUANTITIES = {"preact_m2", "preact_mean", "preact_var", "vjp_m2", "weight_vjp_m2"}
Z_95 = 1.96


def images(n: int, side: int = 8) -> Tensor:
    noise = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0)).double()
    return 2 * F.avg_pool2d(noise, 3, 1, 1) + 0.2


def conv_network(
    activation: Callable[[], nn.Module] = nn.ReLU, channels: int = 64, side: int = 8
) -> nn.Sequential:
    points = (side // 2) ** 2
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.Flatten()),
        nn.Linear(points * channels, 10),
    )


def he(model: nn.Module) -> dict[str, LayerMoments]:
    return layer_moments(model, lambda s: 2 / s.fan_in)


def first_order_is_used(model: nn.Module, moments: dict[str, LayerMoments] | None = None) -> bool:
    x = images(1)
    return first_order_holds(
        model, parse_network(model, tuple(x.shape[1:])), moments or he(model), x
    )


def column_by_image(frame: pd.DataFrame, quantity: str, column: str) -> np.ndarray:
    rows = frame[frame.quantity == quantity]
    return rows[column].to_numpy().reshape(rows.image.nunique(), -1)


@pytest.fixture(scope="module")
def wide_prediction() -> Prediction:
    """Predict a wide network on two images."""
    model = conv_network()
    return predict_finite_width(model, he(model), images(2))


@pytest.mark.parametrize("channels", [64, 8])
def test_table_has_rows_for_each_image_and_their_mean(
    channels: int, wide_prediction: Prediction
) -> None:
    narrow = conv_network(channels=8)
    prediction = (
        wide_prediction if channels == 64 else predict_finite_width(narrow, he(narrow), images(2))
    )
    frame = prediction.to_frame()
    assert set(frame.quantity) == QUANTITIES
    assert set(frame.theory) == {"finite_width"}
    assert list(frame.image.unique()) == [0, 1, -1]
    assert list(frame.layer_name.unique()) == ["0", "3", "6"]
    signed = frame.quantity == "preact_mean"
    assert frame[signed].log_sd.isna().all()
    assert frame[~signed].log_sd.notna().all()
    assert (frame.sampling_se >= 0).all()


def test_equal_seeds_give_equal_predictions(wide_prediction: Prediction) -> None:
    model = conv_network()
    repeated = predict_finite_width(model, he(model), images(2))
    pd.testing.assert_frame_equal(wide_prediction.to_frame(), repeated.to_frame())


def test_first_order_holds_only_for_wide_centred_stable_networks() -> None:
    assert first_order_is_used(conv_network())
    assert first_order_is_used(conv_network(nn.Tanh))
    assert first_order_is_used(conv_network(nn.Sigmoid))
    assert not first_order_is_used(conv_network(channels=32))
    assert not first_order_is_used(conv_network(nn.GELU))
    assert not first_order_is_used(conv_network(nn.SiLU))
    shifted = conv_network()
    assert not first_order_is_used(
        shifted, layer_moments(shifted, lambda s: 2 / s.fan_in, lambda s: 0.01)
    )
    centred = conv_network()
    centred[4] = nn.Sequential(MeanOnly(), nn.ReLU())
    assert not first_order_is_used(centred)


def test_confidence_intervals_of_a_wide_network_cover_draws(wide_prediction: Prediction) -> None:
    """Check 95 % intervals with 150 independent draws."""
    model, x, draws = conv_network(), images(2), 150
    moments = he(model)
    frame = wide_prediction.to_frame()
    measured = simulate_networks(
        model, parse_network(model, (1, 8, 8)), moments, x, draws=draws, seed=7
    ).values
    for quantity in QUANTITIES - {"preact_mean"}:
        value, log_sd = (column_by_image(frame, quantity, column) for column in ("value", "log_sd"))
        m = torch.cat([measured[quantity], measured[quantity].mean(1, True)], 1).log().numpy()
        is_constant = log_sd < 1e-9
        z = (m - np.log(value) + log_sd**2 / 2) / np.where(is_constant, 1.0, log_sd)
        coverage = (np.abs(z) < Z_95).mean(0)[~is_constant]
        # 3.5 binomial standard errors, and an error of a tenth in the predicted spread.
        assert (coverage > 0.95 - 3.5 * (0.05 * 0.95 / draws) ** 0.5 - 0.025).all(), quantity


def test_values_of_a_wide_network_equal_theory_field(wide_prediction: Prediction) -> None:
    model = conv_network()
    field = predict_field(model, he(model), images(2))
    np.testing.assert_allclose(wide_prediction.value("vjp_m2"), field.value("vjp_m2"))


def test_grand_mean_reduces_the_variance(wide_prediction: Prediction) -> None:
    """For n logits, the variance is smaller than the second moment by a factor 1 - 1 / n."""
    m2, var = (wide_prediction.value(q)[0, -1] for q in ("preact_m2", "preact_var"))
    assert var / m2 == pytest.approx(1 - 1 / 10)


def test_mean_over_equal_images_has_the_spread_of_one_image() -> None:
    """The mean over different images has a smaller spread."""
    model = conv_network(nn.Tanh)
    moments = layer_moments(model, lambda s: 1 / s.fan_in)
    copies = images(1).repeat(3, 1, 1, 1)
    log_sd = column_by_image(
        predict_finite_width(model, moments, copies).to_frame(), "preact_m2", "log_sd"
    )
    np.testing.assert_allclose(log_sd[-1], log_sd[0], rtol=0.02)
    distinct = column_by_image(
        predict_finite_width(model, moments, images(3)).to_frame(), "preact_m2", "log_sd"
    )
    assert (distinct[-1] < distinct[:-1].max(0)).all()


def test_zero_weights_have_zero_spread() -> None:
    model = conv_network()
    moments = layer_moments(model, lambda s: 0.0, bias=Moments(0.0, 0.0))
    frame = predict_finite_width(model, moments, images(1)).to_frame()
    rows = frame[(frame.quantity == "preact_m2") | (frame.quantity == "weight_vjp_m2")]
    assert (rows.value == 0).all()
    assert (rows.log_sd == 0).all()
