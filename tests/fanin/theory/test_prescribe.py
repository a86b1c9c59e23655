"""Prescribed gains keep a network's second moments constant."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fanin.inits import HeNormal, Init, Normal, Zeros, initialize
from fanin.inits.weight_shape import WeightShape
from fanin.seeds import make_generator
from fanin.theory.gains import scale_moments
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.predict import predict_moments
from fanin.theory.prescribe import Certified, prescribe


def image(n: int = 2, side: int = 12) -> torch.Tensor:
    t = torch.linspace(0, 3, side, dtype=torch.float64)
    phase = torch.arange(n, dtype=torch.float64)[:, None, None, None]
    return (torch.sin(t[:, None] + phase) * torch.cos(2 * t[None, :])).clamp(min=0)


def net(activation: nn.Module, channels: int = 32) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), activation, nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation, nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * channels, 64), activation, nn.Linear(64, 10)),
    )


def predicted(model: nn.Module, init: Init, x: torch.Tensor, quantity: str) -> np.ndarray:
    from fanin.theory.certificate.weights import resolve_moments

    frame = predict_moments(model, resolve_moments(model, init).moments, x, ("field",), seed=1)
    rows = frame[(frame.image == -1) & (frame.quantity == quantity)]
    return rows.value.to_numpy(float)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.GELU()])
def test_forward_gains_reach_the_target(activation: nn.Module) -> None:
    model = net(activation).double()
    prescription = prescribe(model, image(), target=0.7)
    # With another seed, so that the theory's own sampling error remains.
    assert predicted(model, prescription.init, image(), "preact_m2") == pytest.approx(0.7, rel=0.03)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
def test_backward_gains_keep_the_cotangent_constant(activation: nn.Module) -> None:
    model = net(activation).double()
    prescription = prescribe(model, image(), direction="backward")
    assert predicted(model, prescription.init, image(), "vjp_m2") == pytest.approx(1.0, rel=0.1)


def test_both_is_the_geometric_mean() -> None:
    model = net(nn.ReLU())
    forward, backward, both = (
        prescribe(model, image(), direction=direction).gains
        for direction in ("forward", "backward", "both")
    )
    for name in forward:
        assert both[name] == pytest.approx((forward[name] * backward[name]) ** 0.5)


def test_relu_mlp_needs_only_the_first_gain() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))
    gains = prescribe(model, 2 * image(1)).gains
    mean_square = (2 * image(1)).square().mean().item()
    assert gains["1"] == pytest.approx((2 * mean_square) ** -0.5)
    assert gains["3"] == pytest.approx(1.0)


def test_gains_account_for_weight_mean_and_biases() -> None:
    model = net(nn.ReLU()).double()
    prescription = prescribe(model, image(), init=Init(Normal(std=0.1, mean=0.01), bias=0.3))
    assert predicted(model, prescription.init, image(), "preact_m2") == pytest.approx(1.0, rel=0.05)


def test_check_measures_the_target() -> None:
    checked = prescribe(net(nn.ReLU(), 64), image()).check(draws=24)
    excess = (checked.preact_m2_measured - 1).abs() / checked.preact_m2_se
    assert (excess < 4).all()
    assert (checked.preact_m2_se < 0.2).all()


def test_overrides_and_torch_code_agree() -> None:
    model = net(nn.ReLU())
    prescription = prescribe(model, image())
    overrides = dict(text.split("=") for text in prescription.overrides)
    assert {f"init.layers.{name}.gain" for name in prescription.gains} == set(overrides)
    scope: dict = {}
    exec(prescription.torch_code, scope)
    torch.manual_seed(0)
    scope["init_weights"](model)
    for name, gain in prescription.gains.items():
        weight = model.get_submodule(name).weight.detach().double()
        std = gain * HeNormal().moments(WeightShape.of(model.get_submodule(name))).var ** 0.5
        assert float(overrides[f"init.layers.{name}.gain"]) == pytest.approx(gain, rel=1e-5)
        assert weight.std().item() == pytest.approx(std, rel=4 / (2 * weight.numel()) ** 0.5)
        assert not model.get_submodule(name).bias.any()


def test_gain_of_the_init_is_multiplied() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))
    plain = prescribe(model, image(1))
    doubled = prescribe(model, image(1), init=Init(HeNormal(), gain=2.0))
    assert doubled.init.for_layer("1").gain == pytest.approx(plain.init.for_layer("1").gain)
    assert doubled.gains["1"] == pytest.approx(plain.gains["1"] / 2)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (Zeros(), "its inputs or weights are all zero"),
        (
            Init(HeNormal(), bias=2.0),
            "from its biases alone is 4, not below target=1",
        ),
    ],
)
def test_unreachable_target_names_the_layer(init: Init | Zeros, message: str) -> None:
    with pytest.raises(UnpredictableLayer, match=message):
        prescribe(net(nn.ReLU()), image(), init=init)


def test_scale_moments_keeps_biases() -> None:
    from fanin.theory.certificate.weights import resolve_moments

    model = nn.Sequential(nn.Linear(4, 4))
    moments = resolve_moments(model, Init(HeNormal(), bias=0.5)).moments
    twice = scale_moments(moments, {"0": 2.0})["0"]
    assert (twice.weight.var, twice.bias.mean) == (2.0, 0.5)


def test_certified_init_applies_the_gains_to_every_draw() -> None:
    model, x = net(nn.ReLU()), image(8)
    gains = prescribe(model, x).gains
    for draw in range(2):
        weights = {}
        for scheme in (HeNormal(), Certified()):
            stream = partial(make_generator, "w", draw)
            initialize(model, Init(scheme), stream, x.float())
            weights[type(scheme)] = [model.get_submodule(name).weight.clone() for name in gains]
        pairs = zip(weights[HeNormal], weights[Certified], gains.values(), strict=True)
        for he, certified, gain in pairs:
            torch.testing.assert_close(certified, he * gain, rtol=1e-5, atol=0)


def test_certified_init_accounts_for_biases() -> None:
    model, x = net(nn.Tanh()), image(8)
    expected = prescribe(model, x, init=Init(HeNormal(), bias=0.5)).gains
    stream = partial(make_generator, "w", 0)
    initialize(model, Init(HeNormal()), stream, x.float())
    he = model[0].weight.clone()
    initialize(model, Init(Certified(), bias=0.5), stream, x.float())
    torch.testing.assert_close(model[0].weight, he * expected["0"], rtol=1e-5, atol=0)
