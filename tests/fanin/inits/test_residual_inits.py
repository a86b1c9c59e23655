"""Fixup and SkipInit: distributions of the weights, start of the blocks, and refusals."""

from math import sqrt

import pytest
import torch
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import (
    HeNormal,
    Init,
    LayerInit,
    SkipInit,
    WeightShape,
    Zeros,
    initialize,
    residual_branches,
    weight_layers,
)
from fanin.models import Mlp, Multiplier, ResNet

SHAPE = (3, 9, 9)


def generator_for(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(name.encode()) % 2**31)


def resnet(**options) -> nn.Sequential:
    options = {"depth": 14, "width": 4, "norm": "none"} | options
    return ResNet(**options).build(SHAPE, 10, nn.ReLU).double()


def images() -> torch.Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1)).double()


class OwnBlock(nn.Module):
    """Block with branches of `m` linear layers, as a user writes it."""

    residual_branch = ("layers", "scale")

    def __init__(self, m: int) -> None:
        super().__init__()
        self.skip = nn.Linear(5, 5)
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(m))
        self.scale = Multiplier()

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = layer(y.relu())
        return self.skip(x) + self.scale(y)


def own(m: int, n_blocks: int = 8) -> nn.Sequential:
    return nn.Sequential(*(OwnBlock(m) for _ in range(n_blocks)), nn.Linear(5, 3))


# --- fixup ------------------------------------------------------------------------------------


def fixup_factors(model: nn.Module) -> dict[str, float]:
    """Return the standard deviation of each layer's weights, relative to He's."""
    modules = weight_layers(model)
    factors = {}
    for name, layer in Init("fixup").for_model(model).items():
        weight = WeightShape.of(modules[name])
        var = layer.weight_moments(weight).var / HeNormal().moments(weight).var
        factors[name] = sqrt(var)
    return factors


def test_fixup_scales_branches_of_two_layers_by_the_square_root_of_their_number():
    """L^(-1/(2m - 2)) with L = 6 branches and m = 2 layers (Zhang et al. 2019, section 3)."""
    factors = fixup_factors(resnet(shortcut="B"))
    for name, factor in factors.items():
        if name.endswith("branch.conv1"):
            assert factor == pytest.approx(6**-0.5)
        else:
            assert factor == (0 if name == "fc1" or name.endswith("branch.conv2") else 1), name
    assert len(factors) == 14 + 2


@pytest.mark.parametrize(("m", "factor"), [(1, None), (2, 8**-0.5), (3, 8**-0.25), (5, 8**-0.125)])
def test_fixup_scales_branches_of_m_layers(m: int, factor: float | None):
    factors = fixup_factors(own(m))
    for index in range(m - 1):
        assert factors[f"3.layers.{index}"] == pytest.approx(factor)
    assert factors[f"3.layers.{m - 1}"] == factors["8"] == 0
    assert factors["3.skip"] == 1


def test_fixup_draws_its_declared_weights():
    model = resnet(width=64)
    initialize(model, "fixup", generator_for)
    weight = model.block2.branch.conv1.weight.detach()  # 36,864 weights
    declared = 2 / (64 * 9) / 6
    standard_error = declared * sqrt(2 / weight.numel())
    assert abs(float(weight.var()) - declared) < 5 * standard_error
    assert not model.block2.branch.conv2.weight.any()


def test_with_fixup_each_block_starts_as_its_shortcut_and_logits_are_zero():
    model = resnet(scalars="fixup")
    initialize(model, "fixup", generator_for)
    x = model.act1(model.conv1(images()))
    torch.testing.assert_close(model.block1(x), x)  # x is not negative
    assert not model(images()).any()


def test_gains_and_overrides_apply_to_fixup():
    init = Init("fixup", gain=2.0, layers={"block1.branch.conv2": LayerInit("he_normal")})
    layers = init.for_model(resnet())
    weight = WeightShape(4, 4, (3, 3))
    he = HeNormal().moments(weight).var
    assert layers["block1.branch.conv1"].weight_moments(weight).var == pytest.approx(4 * he / 6)
    assert layers["block1.branch.conv2"].weight_moments(weight).var == he
    override = Init("he_normal", layers={"block1.branch.conv1": LayerInit("fixup")})
    layers = override.for_model(resnet())
    assert layers["block1.branch.conv1"].weight_moments(weight).var == pytest.approx(he / 6)
    assert layers["fc1"].scheme == HeNormal()


# --- skipinit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_skipinit_sets_the_scalars_of_the_branches(alpha: float):
    model, he = resnet(scalars="multiplier"), resnet(scalars="multiplier")
    initialize(model, SkipInit(alpha), generator_for)
    initialize(he, "he_normal", generator_for)
    scales = [m.scale.item() for m in model.modules() if isinstance(m, Multiplier)]
    assert scales == [alpha] * 6
    assert {m.scale.item() for m in he.modules() if isinstance(m, Multiplier)} == {1.0}
    for name, layer in weight_layers(he).items():
        assert torch.equal(model.get_submodule(name).weight, layer.weight)


def test_with_skipinit_each_block_starts_as_its_shortcut():
    model = resnet(scalars="multiplier")
    initialize(model, "skipinit", generator_for)
    x = model.act1(model.conv1(images()))
    torch.testing.assert_close(model.block1(x), x)
    model(images()).logsumexp(1).sum().backward()
    assert model.block3.branch.scale.scale.grad.any()


def test_skipinit_finds_the_scalars_of_your_own_blocks():
    model = own(2)
    initialize(model, "skipinit", generator_for)
    assert [block.scale.scale.item() for block in model[:-1]] == [0.0] * 8


# --- zero_init --------------------------------------------------------------------------------


def test_zero_init_holds_for_every_init_unless_a_layer_is_overridden():
    override = {"block1.branch.conv2": LayerInit("he_normal")}
    layers = Init("lsuv", layers=override).for_model(resnet(zero_init=True))
    assert layers["block2.branch.conv2"].scheme == Zeros()
    assert layers["block1.branch.conv2"].scheme == HeNormal()
    model = resnet(zero_init=True)
    initialize(model, "lsuv", generator_for, images())
    assert not model.block1.branch.conv2.weight.any()
    x = images()
    with torch.no_grad():
        variances = [float(y.var(correction=0)) for y in (model.conv1(x), model(x))]
    assert all(abs(variance - 1) < 0.1 for variance in variances)  # the tolerance of `Lsuv`


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["fixup", "skipinit"])
def test_a_model_without_branches_is_refused(scheme: str):
    message = f"init={scheme} needs a model with residual branches, such as model=resnet"
    with pytest.raises(ConfigError, match=message):
        initialize(Mlp().build(SHAPE, 10, nn.ReLU), scheme, generator_for)


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("fixup", {"norm": "batch"}, r"block1.branch.norm1 \(BatchNorm2d\) .*model.norm=none"),
        ("skipinit", {}, r"branch of block1 has no learnable scalar; use model.scalars=multiplier"),
        (
            *("skipinit", {"scalars": "multiplier", "zero_init": True}),
            r"block1 also starts at zero .* set model.zero_init=false",
        ),
    ],
)
def test_a_model_that_a_scheme_does_not_suit_is_refused(scheme, options, message):
    with pytest.raises(ConfigError, match=message):
        initialize(resnet(**options), scheme, generator_for)


@pytest.mark.parametrize(
    ("children", "message"),
    [
        (("layer",), "block 0: no child 'layer'; did you mean layers"),
        (("scale",), "no weight layer"),
    ],
)
def test_a_wrong_residual_branch_is_refused(monkeypatch, children, message):
    monkeypatch.setattr(OwnBlock, "residual_branch", children)
    with pytest.raises(ConfigError, match=message):
        residual_branches(own(2))
