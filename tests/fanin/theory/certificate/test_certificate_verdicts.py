"""Unhealthy inits are named, with the number and the remedy; healthy ones pass."""

from __future__ import annotations

import pytest
import torch
from certified_networks import COARSE, deep, images
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import HeNormal, Init, LayerInit, Normal, Scheme, XavierNormal, Zeros
from fanin.theory.certificate import (
    Certificate,
    UnhealthyInit,
    assert_healthy,
    certify,
    print_certificate,
)
from fanin.theory.predict import THEORIES

ALL = ("preact_m2", "vjp_m2")


def certified(activation: nn.Module, scheme: Scheme, depth: int = 14) -> Certificate:
    return certify(deep(activation, depth), images(side=8), init=scheme, theories=COARSE)


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [(nn.ReLU(), HeNormal()), (nn.Tanh(), XavierNormal()), (nn.Identity(), XavierNormal())],
)
def test_textbook_pairs_are_healthy(activation: nn.Module, scheme: Scheme) -> None:
    certificate = certified(activation, scheme)
    assert certificate.verdicts == ()
    assert_healthy(certificate)


def test_glorot_on_rectifiers_vanishes_where_halving_has_made_a_thousandth() -> None:
    found = [v for v in certified(nn.ReLU(), XavierNormal()).verdicts if v.quantity == "preact_m2"]
    # Layers 2 to 13 have 64 inputs, and halve: 2^-10 is the first below 1e-3, in the 11th layer.
    assert found[0].problem == "vanishing"
    assert found[0].value == pytest.approx(2**-10, rel=0.2)
    assert f"{2**0.5:.3g}" in found[0].remedy  # the gain that keeps a rectifier's level


def test_too_large_weights_explode_forward_and_backward() -> None:
    found = certified(nn.ReLU(), Normal(std=1.0)).verdicts
    assert {v.problem for v in found} == {"exploding"}
    assert {v.quantity for v in found} == set(ALL)


def test_unscaled_images_explode_in_the_first_layer() -> None:
    certificate = certify(deep(nn.ReLU()), 255 * images(side=8), init=HeNormal(), theories=COARSE)
    (first, *_) = certificate.verdicts
    assert (first.layer, first.problem) == ("1", "exploding")
    assert "scale the images" in first.remedy


def test_saturation_shows_on_the_way_back_alone() -> None:
    found = certified(nn.Sigmoid(), XavierNormal()).verdicts
    assert found
    assert {(v.problem, v.quantity) for v in found} == {("vanishing", "vjp_m2")}


def test_gelu_under_he_amplifies_what_a_width_leaves_to_chance() -> None:
    """docs/appendix/derivations.md, section 2.3: 1.13 to 1.18 a layer, 5.2 over 14 layers."""
    deep_net = deep(nn.GELU(), 15)
    certificate = certify(deep_net, 3 * images(side=8), init=HeNormal(), theories=COARSE)
    sensitivities = [layer.log_sensitivity for layer in certificate.layers[:-1]]
    assert 1.07 < min(sensitivities) < max(sensitivities) < 1.19
    (found,) = certificate.verdicts
    assert found.problem == "depth-unstable"
    assert found.value > 2
    assert "raise the second moment" in found.remedy


def test_zero_weights_are_named_without_a_gain_that_cannot_help() -> None:
    init = Init(Zeros(), layers={"1": LayerInit(HeNormal())})
    first, *_ = certified(nn.ReLU(), init).verdicts
    assert first.problem == "vanishing"
    assert "no gain mends that" in first.remedy


def test_the_error_is_an_assertion_that_names_layer_number_and_remedy() -> None:
    with pytest.raises(AssertionError, match="this init is unhealthy") as raised:
        assert_healthy(certified(nn.ReLU(), Normal(std=0.01)))
    assert isinstance(raised.value, UnhealthyInit)
    first = raised.value.verdicts[0]
    told = str(raised.value)
    assert f"{first.layer} is vanishing" in told
    assert f"{first.value:.3g}" in told
    assert "gain" in told
    assert len(told.splitlines()) <= 10  # the rest are counted


def test_a_model_can_be_judged_in_one_line() -> None:
    net = deep(nn.ReLU(), 3)
    assert_healthy(net, images(1, side=8), init=HeNormal())
    with pytest.raises(UnhealthyInit, match="vanishing"):
        assert_healthy(net, images(1, side=8), init=Normal(std=0.001))
    with pytest.raises(ConfigError, match="needs the images"):
        assert_healthy(net)


@pytest.mark.parametrize(
    ("theories", "words"),
    [(("he",), "(by he; dead units not predicted)"), (THEORIES, f"(by {', '.join(THEORIES)})")],
)
def test_a_healthy_verdict_names_its_theories(
    theories: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_certificate(
        certify(deep(nn.ReLU(), 3), images(side=8), init=HeNormal(), theories=theories)
    )
    healthy = capsys.readouterr().out.partition("healthy: ")[2]
    assert words in " ".join(healthy.split())


def test_the_certificate_holds_its_verdicts_as_data() -> None:
    certificate = certified(nn.ReLU(), Normal(std=0.01))
    assert certificate.as_dict()["verdicts"][0]["problem"] == "vanishing"


def test_limits_can_be_set() -> None:
    certificate = certified(nn.ReLU(), XavierNormal())
    assert_healthy(certificate, low=1e-6)
    with pytest.raises(TypeError, match="lowest"):
        assert_healthy(certificate, lowest=1e-6)


def test_a_global_average_is_no_vanishing_gradient() -> None:
    """It shares each cotangent out over all positions, before any layer that is judged."""
    convs = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    convs += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(8, 10))
    certificate = certify(net, torch.rand(1, 1, 48, 48), init=HeNormal(), theories=COARSE)
    assert certificate.verdicts == ()
