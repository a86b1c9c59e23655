"""Verdicts on healthy and unhealthy inits."""

from __future__ import annotations

import pytest
import torch
from certified_networks import FAST_THEORIES, images, mlp
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


def certified(activation: nn.Module, scheme: Scheme, depth: int = 14) -> Certificate:
    return certify(mlp(activation, depth), images(side=8), init=scheme, theories=FAST_THEORIES)


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [(nn.ReLU(), HeNormal()), (nn.Tanh(), XavierNormal()), (nn.Identity(), XavierNormal())],
)
def test_textbook_inits_are_healthy(activation: nn.Module, scheme: Scheme) -> None:
    certificate = certified(activation, scheme)
    assert certificate.verdicts == ()
    assert_healthy(certificate)


def test_glorot_with_relu_vanishes() -> None:
    verdicts = certified(nn.ReLU(), XavierNormal()).verdicts
    forward = [verdict for verdict in verdicts if verdict.quantity == "preact_m2"]
    # Layers 2 to 13 halve the moment; 2^-10 in layer 11 is the first value below 1e-3.
    assert forward[0].problem == "vanishing"
    assert forward[0].value == pytest.approx(2**-10, rel=0.2)
    assert f"{2**0.5:.3g}" in forward[0].remedy  # He's gain


def test_large_weights_explode_in_both_directions() -> None:
    verdicts = certified(nn.ReLU(), Normal(std=1.0)).verdicts
    assert {verdict.problem for verdict in verdicts} == {"exploding"}
    assert {verdict.quantity for verdict in verdicts} == {"preact_m2", "vjp_m2"}


def test_unscaled_images_explode_in_the_first_layer() -> None:
    certificate = certify(
        mlp(nn.ReLU()), 255 * images(side=8), init=HeNormal(), theories=FAST_THEORIES
    )
    (first, *_) = certificate.verdicts
    assert (first.layer, first.problem) == ("1", "exploding")
    assert "scale the images" in first.remedy


def test_saturation_vanishes_only_backward() -> None:
    verdicts = certified(nn.Sigmoid(), XavierNormal()).verdicts
    assert verdicts
    assert {(v.problem, v.quantity) for v in verdicts} == {("vanishing", "vjp_m2")}


def test_deep_gelu_is_depth_unstable() -> None:
    """docs/appendix/derivations.md, section 2.3: 1.13 to 1.18 a layer, 5.2 over 14 layers."""
    net = mlp(nn.GELU(), 15)
    certificate = certify(net, 3 * images(side=8), init=HeNormal(), theories=FAST_THEORIES)
    sensitivities = [layer.log_sensitivity for layer in certificate.layers[:-1]]
    assert 1.07 < min(sensitivities) < max(sensitivities) < 1.19
    (verdict,) = certificate.verdicts
    assert verdict.problem == "depth-unstable"
    assert verdict.value > 2
    assert "increase the gains" in verdict.remedy


def test_zero_weights_do_not_suggest_a_gain() -> None:
    init = Init(Zeros(), layers={"1": LayerInit(HeNormal())})
    first, *_ = certified(nn.ReLU(), init).verdicts
    assert first.problem == "vanishing"
    assert "no gain helps" in first.remedy


def test_error_names_layer_value_and_remedy() -> None:
    with pytest.raises(AssertionError, match="the init is unhealthy") as error:
        assert_healthy(certified(nn.ReLU(), Normal(std=0.01)))
    assert isinstance(error.value, UnhealthyInit)
    first = error.value.verdicts[0]
    message = str(error.value)
    assert f"layer {first.layer} is vanishing" in message
    assert f"{first.value:.3g}" in message
    assert "gain" in message
    assert len(message.splitlines()) <= 10  # further verdicts are only counted


def test_assert_healthy_accepts_a_model() -> None:
    net = mlp(nn.ReLU(), 3)
    assert_healthy(net, images(1, side=8), init=HeNormal())
    with pytest.raises(UnhealthyInit, match="vanishing"):
        assert_healthy(net, images(1, side=8), init=Normal(std=0.001))
    with pytest.raises(ConfigError, match="images is missing"):
        assert_healthy(net)


@pytest.mark.parametrize(
    ("theories", "basis"),
    [
        (("he",), "(theories: he; dead units not predicted)"),
        (THEORIES, f"(theories: {', '.join(THEORIES)})"),
    ],
)
def test_healthy_message_names_the_theories(
    theories: tuple[str, ...], basis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_certificate(
        certify(mlp(nn.ReLU(), 3), images(side=8), init=HeNormal(), theories=theories)
    )
    healthy = capsys.readouterr().out.partition("healthy: ")[2]
    assert basis in " ".join(healthy.split())


def test_as_dict_contains_verdicts() -> None:
    certificate = certified(nn.ReLU(), Normal(std=0.01))
    assert certificate.as_dict()["verdicts"][0]["problem"] == "vanishing"


def test_limits_can_be_changed() -> None:
    certificate = certified(nn.ReLU(), XavierNormal())
    assert_healthy(certificate, low=1e-6)
    with pytest.raises(TypeError, match="lowest"):
        assert_healthy(certificate, lowest=1e-6)


def test_global_average_pooling_is_not_vanishing() -> None:
    """The average pooling distributes each cotangent over all positions."""
    convs = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    convs += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(8, 10))
    certificate = certify(net, torch.rand(1, 1, 48, 48), init=HeNormal(), theories=FAST_THEORIES)
    assert certificate.verdicts == ()
