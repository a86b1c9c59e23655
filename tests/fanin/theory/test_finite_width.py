"""Theory 4 in the predictions table: what single draws do, on images and on the mean over them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from theory_networks import declared
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


def convolutional(
    activation: Callable[[], nn.Module] = nn.ReLU, channels: int = 64, side: int = 8
) -> nn.Sequential:
    points = (side // 2) ** 2
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.Flatten()),
        nn.Linear(points * channels, 10),
    )


def he(model: nn.Module) -> dict[str, LayerMoments]:
    return declared(model, lambda s: 2 / s.fan_in)


def holds(model: nn.Module, moments: dict[str, LayerMoments] | None = None) -> bool:
    x = images(1)
    return first_order_holds(
        model, parse_network(model, tuple(x.shape[1:])), moments or he(model), x
    )


def table(frame: pd.DataFrame, quantity: str, column: str) -> np.ndarray:
    rows = frame[frame.quantity == quantity]
    return rows[column].to_numpy().reshape(rows.image.nunique(), -1)


@pytest.fixture(scope="module")
def wide() -> Prediction:
    """Of a wide net on two images."""
    model = convolutional()
    return predict_finite_width(model, he(model), images(2))


@pytest.mark.parametrize("channels", [64, 8])
def test_every_image_and_the_mean_over_them_has_a_row(channels: int, wide: Prediction) -> None:
    narrow = convolutional(channels=8)
    prediction = wide if channels == 64 else predict_finite_width(narrow, he(narrow), images(2))
    frame = prediction.to_frame()
    assert set(frame.quantity) == QUANTITIES
    assert set(frame.theory) == {"finite_width"}
    assert list(frame.image.unique()) == [0, 1, -1]
    assert list(frame.layer_name.unique()) == ["0", "3", "6"]
    signed = frame.quantity == "preact_mean"
    assert frame[signed].log_sd.isna().all()
    assert frame[~signed].log_sd.notna().all()
    assert (frame.sampling_se >= 0).all()


def test_the_same_seed_predicts_the_same(wide: Prediction) -> None:
    model = convolutional()
    again = predict_finite_width(model, he(model), images(2))
    pd.testing.assert_frame_equal(wide.to_frame(), again.to_frame())


def test_first_order_is_for_wide_centred_nets_that_amplify_nothing() -> None:
    assert holds(convolutional())
    assert holds(convolutional(nn.Tanh))
    assert holds(convolutional(nn.Sigmoid))
    assert not holds(convolutional(channels=32))
    assert not holds(convolutional(nn.GELU))
    assert not holds(convolutional(nn.SiLU))
    shifted = convolutional()
    assert not holds(shifted, declared(shifted, lambda s: 2 / s.fan_in, lambda s: 0.01))
    centred = convolutional()
    centred[4] = nn.Sequential(MeanOnly(), nn.ReLU())
    assert not holds(centred)


def test_bars_of_a_wide_net_hold_what_is_drawn(wide: Prediction) -> None:
    """95 % intervals over 150 draws; draws of one net are independent, its layers are not."""
    model, x, draws = convolutional(), images(2), 150
    moments = he(model)
    frame = wide.to_frame()
    measured = simulate_networks(
        model, parse_network(model, (1, 8, 8)), moments, x, draws=draws, seed=7
    ).values
    for quantity in QUANTITIES - {"preact_mean"}:
        value, log_sd = (table(frame, quantity, column) for column in ("value", "log_sd"))
        m = torch.cat([measured[quantity], measured[quantity].mean(1, True)], 1).log().numpy()
        certain = log_sd < 1e-9
        z = (m - np.log(value) + log_sd**2 / 2) / np.where(certain, 1.0, log_sd)
        coverage = (np.abs(z) < Z_95).mean(0)[~certain]
        # Binomial scatter at 3.5 standard errors, and a spread known to a tenth.
        assert (coverage > 0.95 - 3.5 * (0.05 * 0.95 / draws) ** 0.5 - 0.025).all(), quantity


def test_values_of_a_wide_net_are_the_fields(wide: Prediction) -> None:
    model = convolutional()
    field = predict_field(model, he(model), images(2))
    np.testing.assert_allclose(wide.value("vjp_m2"), field.value("vjp_m2"))


def test_the_grand_mean_takes_its_share_of_the_variance(wide: Prediction) -> None:
    """Among n logits the variance is smaller than the second moment by 1 / n."""
    m2, var = (wide.value(q)[0, -1] for q in ("preact_m2", "preact_var"))
    assert var / m2 == pytest.approx(1 - 1 / 10)


def test_alike_images_scatter_together() -> None:
    """The mean over copies of one image is that image; over different ones it scatters less."""
    model = convolutional(nn.Tanh)
    moments = declared(model, lambda s: 1 / s.fan_in)
    copies = images(1).repeat(3, 1, 1, 1)
    log_sd = table(predict_finite_width(model, moments, copies).to_frame(), "preact_m2", "log_sd")
    np.testing.assert_allclose(log_sd[-1], log_sd[0], rtol=0.02)
    different = table(
        predict_finite_width(model, moments, images(3)).to_frame(), "preact_m2", "log_sd"
    )
    assert (different[-1] < different[:-1].max(0)).all()


def test_zero_weights_are_certain() -> None:
    model = convolutional()
    moments = declared(model, lambda s: 0.0, bias=Moments(0.0, 0.0))
    frame = predict_finite_width(model, moments, images(1)).to_frame()
    rows = frame[(frame.quantity == "preact_m2") | (frame.quantity == "weight_vjp_m2")]
    assert (rows.value == 0).all()
    assert (rows.log_sd == 0).all()
