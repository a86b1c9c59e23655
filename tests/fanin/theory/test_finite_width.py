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
from fanin.theory.finite_width.limits import estimate_spread_error
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.moments import LayerMoments
from fanin.theory.network import parse_network
from fanin.theory.predict import predict_moments
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


def method(model: nn.Module, moments: dict[str, LayerMoments] | None = None) -> str:
    return predict_finite_width(model, moments or he(model), images(1)).method


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


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU])
def test_networks_of_zero_mean_weights_are_not_simulated(activation) -> None:
    assert method(conv_network(activation, channels=8)) == "first_order"


def test_networks_without_a_first_order_law_are_sampled() -> None:
    shifted = conv_network()
    moments = layer_moments(shifted, lambda s: 2 / s.fan_in, lambda s: 0.01)
    assert method(shifted, moments) == "sampled"
    centred = conv_network()
    centred[4] = nn.Sequential(MeanOnly(), nn.ReLU())
    assert method(centred) == "sampled"


def test_very_narrow_networks_are_simulated() -> None:
    assert method(conv_network(channels=4)) == "simulated"  # 1 / (2 C) is 0.125


def test_networks_of_linear_layers_are_sampled() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    assert method(model) == "sampled"


def spread_error(activation: nn.Module, *log_sd: float, bias_var: float = 0.0) -> float:
    """Estimate the error for wide layers of second moment 1 with these first-order spreads."""
    layers: list[nn.Module] = [nn.Conv2d(1, 10**6, 1, device="meta")]
    for _ in log_sd[1:]:
        layers += [activation, nn.Conv2d(10**6, 10**6, 1, device="meta")]
    model = nn.Sequential(*layers)
    net = parse_network(model, (1, 2, 2))
    moments = layer_moments(model, lambda s: 1 / s.fan_in, bias=Moments(0.0, bias_var))
    m2 = np.ones((1, len(log_sd)))
    return estimate_spread_error(model, net, moments, m2, np.array([log_sd]))


def test_a_homogeneous_activation_adds_no_error() -> None:
    # log E[relu(y)^2] is linear in log E[y^2]; 1 / (2 C) is 5e-7.
    assert spread_error(nn.ReLU(), 1.0, 1.5, 2.0) < 1e-6


def test_a_bias_dilutes_what_passes() -> None:
    """Half of the second layer's moment is bias: log m' = log(e^t / 2 + 1/2), of slope 1/2."""
    sd = 0.3
    t = sd * np.random.default_rng(0).normal(size=200_000) - sd**2 / 2
    expected = abs(np.log(np.log((np.exp(t) + 1) / 2).std() / (sd / 2)))
    error = spread_error(nn.Identity(), sd, sd / 2, bias_var=0.5)
    assert error == pytest.approx(expected, abs=4 / len(t) ** 0.5)


def test_the_error_of_a_curved_activation_is_that_of_its_tangent() -> None:
    # f = log E[tanh^2] as a function of log q; sd(f(t)) / (|f'| s), t ~ N(-s^2 / 2, s^2), by
    # drawing t and integrating on a fine grid. The second layer adds no spread of its own.
    sd, step = 1.0, 1e-3
    t = np.random.default_rng(0).normal(-(sd**2) / 2, sd, 20_000)
    grid = np.linspace(-8, 8, 4001)

    def log_moment(log_q: np.ndarray) -> np.ndarray:
        y = grid * np.exp(log_q / 2)[:, None]
        return np.log(np.trapezoid(np.tanh(y) ** 2 * np.exp(-(grid**2) / 2), grid))

    slope = np.diff(log_moment(np.array([-step, step])))[0] / (2 * step)
    drawn = np.concatenate([log_moment(part) for part in np.split(t, 20)])
    expected = abs(np.log(drawn.std() / (slope * sd)))
    error = spread_error(nn.Tanh(), sd, slope * sd)
    # Standard error of the log of a standard deviation: at most 1 / sqrt(n) for these light tails.
    assert error == pytest.approx(expected, abs=4 / len(t) ** 0.5)
    # A spread that the second layer adds dilutes the error.
    assert spread_error(nn.Tanh(), sd, 3.0) < 0.2 * error
    assert spread_error(nn.Tanh(), 0.1, slope * 0.1) < 0.05 * error


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


def test_images_without_a_spread_of_their_own_change_no_other_row() -> None:
    model, x = conv_network(channels=32), images(36)  # the joint field has 32 images
    every = predict_finite_width(model, he(model), x).to_frame()
    some = predict_finite_width(model, he(model), x, individual=[0, 34]).to_frame()
    rows = every.quantity.eq("preact_m2") & every.image.isin([0, 34])
    pd.testing.assert_frame_equal(some[rows], every[rows])
    assert some[(some.image == 35)].log_sd.isna().all()
    mean = (some.image == -1) & (some.quantity == "preact_m2")
    # Images differ little in the spread of their log moments: the mean changes by less than 5 %.
    np.testing.assert_allclose(some[mean].log_sd, every[mean].log_sd, rtol=0.05)


@pytest.mark.parametrize("width", [32, 4])
def test_predictions_without_the_mean_have_the_same_rows_for_images(width: int) -> None:
    model, x = conv_network(channels=width), images(3)
    with_mean = predict_moments(model, he(model), x)
    without = predict_moments(model, he(model), x, mean=False)
    expected = with_mean[with_mean.image >= 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(without, expected)


def test_zero_weights_have_zero_spread() -> None:
    model = conv_network()
    moments = layer_moments(model, lambda s: 0.0, bias=Moments(0.0, 0.0))
    frame = predict_finite_width(model, moments, images(1)).to_frame()
    rows = frame[(frame.quantity == "preact_m2") | (frame.quantity == "weight_vjp_m2")]
    assert (rows.value == 0).all()
    assert (rows.log_sd == 0).all()
