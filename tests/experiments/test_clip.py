"""Clipping equals torch's, except that non-finite gradients stay where they are."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from experiments.clip import Clip, ClipNorm, ClipValue, NoClip
from experiments.config.instantiate import instantiate_wrapped, validate, validate_wrapped
from fanin.errors import ConfigError

OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "clip").glob("*.yaml"))
NORM = {"_target_": "experiments.clip.ClipNorm", "max_norm": 2.0}


def gradients(scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv1.weight": (4, 1, 3, 3), "conv1.bias": (4,), "fc1.weight": (3, 16)}
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def clipped_by_torch(clip, grads: dict[str, Tensor], bound: float) -> dict[str, Tensor]:
    params = {name: torch.nn.Parameter(torch.zeros_like(g)) for name, g in grads.items()}
    for name, p in params.items():
        p.grad = grads[name].clone()
    clip(params.values(), bound)
    return {name: p.grad for name, p in params.items() if p.grad is not None}


def norm(grads: dict[str, Tensor]) -> float:
    return math.sqrt(sum(g.double().square().sum().item() for g in grads.values()))


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_yaml_lists_every_number_at_its_default(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"]}) == node


@pytest.mark.parametrize("bound", [0.5, 1000.0])
def test_clipping_by_norm_and_value_equals_torchs(bound: float):
    by_norm = clipped_by_torch(torch.nn.utils.clip_grad_norm_, gradients(), bound)
    torch.testing.assert_close(ClipNorm(bound).apply(gradients()), by_norm)
    by_value = clipped_by_torch(torch.nn.utils.clip_grad_value_, gradients(), bound)
    torch.testing.assert_close(ClipValue(bound).apply(gradients()), by_value)


def test_no_clip_returns_the_gradients_unchanged():
    grads = gradients()
    assert NoClip().apply(grads) is grads


@given(st.floats(1e-3, 1e150))
def test_a_clipped_norm_never_exceeds_its_bound_and_keeps_its_direction(scale: float):
    grads = gradients(scale)
    clipped = ClipNorm(max_norm=1.0).apply(grads)
    # n squares, their sum and a root: relative rounding under n ulps.
    n = sum(g.numel() for g in grads.values())
    assert norm(clipped) <= 1 + n * torch.finfo(torch.float64).eps
    ratio = norm(clipped) / norm(grads)
    for name, grad in grads.items():
        torch.testing.assert_close(clipped[name], ratio * grad)


def test_small_gradients_pass_unchanged():
    grads = gradients(1e-6)
    assert all(torch.equal(ClipNorm().apply(grads)[name], grads[name]) for name in grads)


def test_a_norm_that_overflows_float16_is_clipped():
    clipped = ClipNorm(max_norm=1.0).apply({"w": torch.full((4,), 30000.0, dtype=torch.float16)})
    assert clipped["w"].tolist() == [0.5] * 4
    many = {"w": torch.full((4096, 16), 60000.0, dtype=torch.float16)}
    # The factor, 1 / 15.36 million, is 0 in float16; the clipped gradients, 1/256, are not.
    assert ClipNorm(max_norm=1.0).apply(many)["w"].unique().tolist() == [1 / 256]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_non_finite_entry_does_not_spread(bad: float):
    grads = gradients()
    grads["conv1.bias"][2] = bad
    clipped = ClipNorm(max_norm=0.1).apply(grads)
    assert all(torch.equal(clipped[n].isfinite(), grads[n].isfinite()) for n in grads)
    assert clipped["conv1.bias"][2].item() == pytest.approx(bad, nan_ok=True)


def test_each_cell_of_a_stack_is_clipped_by_its_own_norm():
    scales = torch.tensor([1e-3, 1.0, 1e3, math.nan], dtype=torch.float64)
    stacked = {name: g * scales.view(-1, *[1] * g.ndim) for name, g in gradients().items()}
    clipped = vmap(ClipNorm(max_norm=1.0).apply)(stacked)
    for index in range(3):
        cell = {name: g[index] for name, g in stacked.items()}
        for name, serial in ClipNorm(max_norm=1.0).apply(cell).items():
            torch.testing.assert_close(clipped[name][index], serial)


def test_a_factor_scales_its_layer_before_the_rule():
    clip = Clip(ClipValue(max_value=2.0), factors={"conv1": 10.0, "fc1": 0.0})
    grads = {name: torch.ones(2) for name in ("conv1.weight", "conv1.bias", "conv2.bias", "fc1.w")}
    clipped = {name: grad.tolist() for name, grad in clip.apply(grads).items()}
    assert clipped == {
        "conv1.weight": [2.0, 2.0],
        "conv1.bias": [2.0, 2.0],
        "conv2.bias": [1.0, 1.0],
        "fc1.w": [0.0, 0.0],
    }
    assert all(grad.tolist() == [1, 1] for grad in grads.values())


def test_a_bias_may_get_the_mean_of_its_units_weight_gradients():
    grads = {
        "conv1.weight": torch.arange(12.0).reshape(2, 1, 2, 3),
        "conv1.bias": torch.tensor([100.0, 200.0]),
        "norm1.weight": torch.tensor([1.0, 2.0]),
        "norm1.bias": torch.tensor([3.0, 4.0]),
        "head.bias": torch.tensor([5.0]),
    }
    clip = Clip(ClipValue(max_value=8.0), factors={"conv1": 2.0}, bias="mean_of_weights")
    clipped = {name: grad.tolist() for name, grad in clip.apply(grads).items()}
    # Means 2.5 and 8.5 of the two units, times 2, clipped at 8.
    assert clipped["conv1.bias"] == [5.0, 8.0]
    assert clipped["norm1.bias"] == [3.0, 4.0]
    assert clipped["head.bias"] == [5.0]
    assert grads["conv1.bias"].tolist() == [100.0, 200.0]
    zeroed = Clip(NoClip(), bias="zero").apply(grads)
    assert zeroed["conv1.bias"].tolist() == [0.0, 0.0]
    assert all(torch.equal(zeroed[name], grads[name]) for name in grads if name != "conv1.bias")


def test_a_node_contains_the_rule_and_the_common_keys():
    node = NORM | {"factors": {"conv1": 1}, "bias": "own"}
    assert instantiate_wrapped(Clip, node, "clip") == Clip(ClipNorm(2.0), {"conv1": 1.0})
    assert validate_wrapped(Clip, node, "clip") == node
    assert type(validate_wrapped(Clip, node, "clip")["factors"]["conv1"]) is float


def test_defaults_are_filled_in():
    node = {"_target_": "experiments.clip.ClipValue"}
    assert validate_wrapped(Clip, node, "clip") == node | {
        "max_value": 1.0,
        "factors": {},
        "bias": "own",
    }
    assert instantiate_wrapped(Clip, node, "clip") == Clip(ClipValue(1.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"factor": {"conv1": 0.5}}, r"clip\.factor: no such key; did you mean factors"),
        ({"max_nrom": 1.0}, r"clip\.max_nrom: no such key; did you mean max_norm"),
        ({"max_norm": 0.0}, r"clip\.max_norm: .*greater than 0"),
        ({"factors": {"conv1": "half"}}, r"clip\.factors\.conv1: .*expected a number"),
        ({"factors": {"conv1": -1.0}}, r"clip\.factors\.conv1: .*greater than or equal to 0"),
        ({"factors": 0.5}, r"clip\.factors: expected a mapping"),
        (
            {"bias": "mean"},
            r"clip\.bias: invalid value 'mean'; did you mean mean_of_weights",
        ),
    ],
)
def test_a_wrong_key_or_value_is_refused(changed: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        instantiate_wrapped(Clip, NORM | changed, "clip")
    with pytest.raises(ConfigError, match=message):
        validate_wrapped(Clip, NORM | changed, "clip")
