"""Contents of a certificate, compared to draws and known values."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pytest
import torch
from certified_networks import FAST_THEORIES, conv_net, images, mlp
from rich.console import Console
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import HeNormal, Init, LayerInit, Normal, Uniform
from fanin.losses import Head, Loss, make_objective
from fanin.probes.sharpness import sharpness
from fanin.theory.certificate import Certificate, certify
from fanin.theory.field import FieldTooLarge

FIELD = (*FAST_THEORIES, "field")


def assert_agrees(certificate: Certificate, quantity: str, layers: slice = slice(None)) -> None:
    """Assert that the mean over draws is within 4 standard errors of the prediction."""
    for layer in certificate.layers[layers]:
        mean, error = layer.measured[quantity]
        assert abs(mean - layer.value(quantity)) < 4 * error, (layer.name, quantity)


def printed(certificate: Certificate) -> str:
    out = StringIO()
    Console(file=out, width=100).print(certificate)
    return out.getvalue()


@pytest.fixture(scope="module")
def measured() -> Certificate:
    """Return a certificate with 32 measured draws of a CNN with 48 channels, on four images."""
    labels = torch.tensor([1, 2, 3, 4])
    return certify(
        *(conv_net(48), images(4)), init=HeNormal(), theories=FIELD, measure=32, labels=labels
    )


def test_predicted_moments_agree_with_draws(measured: Certificate) -> None:
    assert_agrees(measured, "preact_m2")
    assert_agrees(measured, "vjp_m2", slice(2))  # at the logits it is 1 by its norm
    assert_agrees(measured, "weight_vjp_m2")


def test_loss_gradients_agree_with_draws(measured: Certificate) -> None:
    assert_agrees(measured, "grad_m2")
    assert_agrees(measured, "weight_grad_m2")


def test_joint_quantities_agree_with_draws(measured: Certificate) -> None:
    assert_agrees(measured, "dead_fraction", slice(2))
    # Excludes the ten logits, whose correlation is smaller by about 1/10.
    assert_agrees(measured, "input_correlation", slice(2))


def test_initial_loss_agrees_with_draws(measured: Certificate) -> None:
    draws = measured.draws
    logits = draws[(draws.quantity == "logit_var") & (draws.image == -1)].value
    error = logits.std() / len(logits) ** 0.5
    assert abs(logits.mean() - measured.output.logit_var) < 4 * error
    zero = certify(conv_net(), images(), init=Normal(std=1e-9), theories=("mean_field",)).output
    assert zero.initial_loss["cross_entropy"] == pytest.approx(math.log(10))
    assert zero.gradient_m2 == pytest.approx(0.9 / 10)


def test_no_loss_gradients_if_logits_share_a_mean() -> None:
    shared = Init(HeNormal(), layers={"2": LayerInit(Uniform(0, 1))})
    layers = certify(conv_net(), images(), init=shared, theories=FAST_THEORIES).layers
    assert "vjp_m2" in layers[0].predicted
    assert "grad_m2" not in layers[0].predicted


def test_maps_average_to_the_layer_moments() -> None:
    certificate = certify(conv_net(), images(3), init=HeNormal(), theories=("field",))
    maps = certificate.maps("0.0")
    assert maps.m2.shape == maps.mean.shape == maps.vjp_m2.shape == (3, 12, 12)
    assert maps.m2.mean() == pytest.approx(certificate.layer("0.0").q)
    flat = certify(conv_net(), torch.ones(1, 1, 12, 12), init=HeNormal(), theories=("field",))
    (m2,) = flat.maps("0.0").m2
    assert m2[0, 0] / m2[6, 6] == pytest.approx(4 / 9)  # a corner reads 4 of 9 taps
    with pytest.raises(KeyError, match=r"no layer named conv1; choose one of 0\.0, 0\.3, 2"):
        certificate.maps("conv1")


def test_depth_scales_of_activation_and_variances() -> None:
    wide = Normal(std=(1.5 / 64) ** 0.5)
    tanh = certify(mlp(nn.Tanh(), 3), images(side=8), init=wide, theories=FAST_THEORIES)
    depth = tanh.layers[1].depth
    assert depth is not None
    assert depth.sigma_w2 == pytest.approx(1.5)
    assert depth.phase == "chaotic"
    assert depth.critical_sigma_w2 == pytest.approx(1.0, rel=1e-6)  # tanh without bias
    he = (
        certify(mlp(nn.ReLU(), 3), images(side=8), init=HeNormal(), theories=FAST_THEORIES)
        .layers[1]
        .depth
    )
    assert he is not None
    assert he.chi_1 == pytest.approx(1.0)
    assert he.critical_sigma_w2 == pytest.approx(2.0)


def test_overflows_at_names_the_first_likely_layer() -> None:
    """N(0, 1) weights of width 256 overflow float16 in layer 4 or 5 (derivations.md, 3.6)."""
    certificate = certify(
        *(mlp(nn.ReLU(), 8, 256), torch.ones(1, 1, 8, 8)),
        init=Normal(std=1.0),
        theories=FAST_THEORIES,
    )
    assert certificate.overflows_at["float16"] in {"7", "9"}
    assert certificate.overflows_at["float32"] is None
    chances = [layer.overflow["float16"] for layer in certificate.layers]
    assert chances == sorted(chances)
    assert "float16 overflows from" in printed(certificate)


def test_overflow_of_units_with_a_common_mean() -> None:
    """64 pixels through U(0, 1) weights give about 40,000 in every unit, far from 65,504."""
    net, image = mlp(nn.ReLU(), 3, 64), torch.full((1, 1, 8, 8), 1250.0)
    certificate = certify(net, image, init=Uniform(0.0, 1.0), theories=FAST_THEORIES, measure=8)
    first, second = (layer.name for layer in certificate.layers[:2])
    assert certificate.overflows_at["float16"] == second
    assert certificate.layer(first).overflow["float16"] < 0.01
    mean, _ = certificate.layer(first).measured["preact_m2"]
    assert mean == pytest.approx(40_000**2, rel=0.05)


def test_sharpness_of_network_and_single_layers() -> None:
    net, labels = mlp(nn.Tanh(), 3, 16), torch.tensor([0, 1])
    eigenvalues = certify(
        *(net, images(side=8)), theories=FAST_THEORIES, labels=labels, loss="mse", sharpness=True
    ).sharpness
    objective = make_objective(Loss("mse"), Head("none"), 10)
    whole = sharpness(net.double(), objective.loss, images(side=8), labels)
    assert eigenvalues[""] == pytest.approx(whole, rel=0.02)  # twice the iteration's tolerance
    assert set(eigenvalues) == {"", "1", "3", "5"}
    # A principal submatrix has no larger eigenvalue (Cauchy interlacing).
    assert max(eigenvalues[name] for name in ("1", "3", "5")) <= 1.02 * whole


def test_sharpness_requires_labels() -> None:
    with pytest.raises(ConfigError, match="labels are missing"):
        certify(conv_net(), images(), init=HeNormal(), theories=FAST_THEORIES, sharpness=True)


def test_dead_units_give_a_verdict() -> None:
    certificate = certify(
        mlp(nn.ReLU(), 4), images(3, side=8), init=Uniform(-0.5, 0.1), theories=FIELD
    )
    dead = [v for v in certificate.verdicts if v.problem == "dead"]
    assert dead
    assert dead[0].value > 0.9


def test_too_large_field_suggests_mean_field() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * 48 * 48, 10)),
    )
    with pytest.raises(FieldTooLarge, match="theory `mean_field`"):
        certify(net, torch.ones(1, 1, 96, 96), init=HeNormal())
    assert np.isfinite(
        certify(net, torch.ones(1, 1, 96, 96), init=HeNormal(), theories=FAST_THEORIES).layers[-1].q
    )
