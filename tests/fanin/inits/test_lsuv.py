"""Tests of layer-sequential unit variance (Mishkin & Matas 2016)."""

import pytest
import torch
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import HeNormal, Init, LayerInit, Lsuv, initialize, weight_layers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32 * 4, 10),
    )


def images(scale: float = 50.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(20, 3, 8, 8, generator=generator)


def generator_for(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(name.encode()))


@torch.no_grad()
def output_variances(model: nn.Sequential, x: torch.Tensor) -> dict[str, float]:
    variances = {}
    for name, module in model.named_children():
        x = module(x)
        if name in weight_layers(model):
            variances[name] = float(x.double().var(correction=0))
    return variances


def test_calibrated_outputs_have_unit_variance():
    model = net()
    initialize(model, Init(Lsuv(tolerance=0.02)), generator_for, images())
    variances = output_variances(model, images())
    assert list(variances) == ["0", "3", "6"]
    assert all(abs(v - 1) < 0.02 for v in variances.values())


def test_a_gain_multiplies_the_calibrated_weights():
    calibrated, doubled = net(), net()
    initialize(calibrated, Init(Lsuv()), generator_for, images())
    initialize(doubled, Init(Lsuv(), gain=2.0), generator_for, images())
    for name, module in weight_layers(calibrated).items():
        assert torch.equal(weight_layers(doubled)[name].weight, 2 * module.weight)


def test_the_gain_does_not_affect_the_calibration():
    """If every variance is within the tolerance, the weights are orthogonal times the gain."""
    model = net()
    initialize(model, Init(Lsuv(tolerance=1e9), gain=2.0), generator_for, images())
    first = model[0].weight.flatten(1)
    torch.testing.assert_close(first @ first.mT, 4 * torch.eye(16))


def test_weights_stay_orthogonal_up_to_a_factor():
    model = net()
    initialize(model, Init(Lsuv()), generator_for, images())
    gram = model[6].weight @ model[6].weight.mT
    gram = gram / gram[0, 0]
    # The largest error of a float32 dot product of 128 entries.
    assert (gram - torch.eye(10)).abs().max() < 128 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("scale", [0.0, float("inf")])
def test_calibration_skips_zero_and_non_finite_outputs(scale):
    model = net()
    initialize(model, Init(Lsuv()), generator_for, images(0.0) + scale)
    first = model[0].weight.flatten(1)
    torch.testing.assert_close(first @ first.mT, torch.eye(16))


def test_max_iterations_limits_the_calibration():
    """With biases of variance 4, no weights give an output of variance 1, so it cannot converge."""
    model = net()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([2.0, -2.0]).repeat(8))
        initial = model[0].weight.clone()
        Lsuv(max_iterations=3).calibrate(model, images(), ["0"])
        ratio = (model[0].weight / initial).mean()
        assert 0 < ratio < (4.0**-0.5) ** 2
        assert output_variances(model, images())["0"] >= 4


def test_calibration_skips_other_layers():
    model = net()
    layers = {"3": LayerInit(HeNormal())}
    initialize(model, Init(Lsuv(), layers=layers), generator_for, images())
    he_model = net()
    initialize(he_model, Init(HeNormal()), generator_for)
    assert torch.equal(model[3].weight, he_model[3].weight)
    assert abs(output_variances(model, images())["6"] - 1) < 0.1


def test_calibration_restores_buffers_and_random_state():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    initialize(model, Init(Lsuv()), generator_for, images())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert not model[0]._forward_hooks


def test_lsuv_needs_images():
    with pytest.raises(ConfigError, match="Lsuv calibrates on data; pass images"):
        initialize(net(), Init(Lsuv()), generator_for)
