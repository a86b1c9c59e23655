"""A stacked cell is the serial one, up to rounding: a step, and a hundred."""

from dataclasses import replace
from itertools import cycle

import pytest
import torch
from stacks import NUMBERS, alone, apart, largest, members, together
from torch import Tensor

from experiments.data import Split
from experiments.training.engines import TrainSpec

LINEAR = "model=linear"
MLP = "model=mlp model.width=9"
TWO_LAYER = "model=two_layer model.channels=3"
PLAIN = "model=plain model.depth=3 model.width=3"
CIRCULAR = f"{PLAIN} model.padding_mode=circular"
ALEXNET = "model=alexnet model.width=4 model.dense=7 data.image_side=15"
ALEXNET_2012 = f"{ALEXNET} model.groups=2 model.lrn=true model.dropout=0.5"
FITNET4 = "model=fitnet4 model.width=2 data.image_side=4"
MODELS = (LINEAR, MLP, TWO_LAYER, PLAIN, CIRCULAR, ALEXNET, ALEXNET_2012, FITNET4)
NORMS = ("none", "batch", "layer", "mean_only")
CLIPS = (
    "clip=none",
    "clip=norm clip.max_norm=0.1",
    "clip=value clip.max_value=0.01",
    "clip=none +clip.factors.fc1=0",
    "clip=norm +clip.factors.fc1=0.5",
)
DTYPES = ("float32", "float64")
SCHEDULES = ("constant", "cosine", "step", "warmup")
LOSSES = (
    *("loss=cross_entropy", "loss=cross_entropy head=softmax loss.form=naive"),
    *("loss=cross_entropy head=softmax loss.form=twice", "loss=bce head=sigmoid"),
    *("loss=bce head=sigmoid loss.form=naive", "loss=bce data.classes=2", "loss=mse"),
    *(f"loss=mse head={head}" for head in ("sigmoid", "softmax", "tanh")),
    "loss=mse data.task=regression",
)
ACTIVATIONS = (
    *("elu", "erf", "gelu", "hard_tanh", "identity", "leaky_relu", "relu", "selu", "sigmoid"),
    *("silu", "softplus", "tanh", "maxout"),
)
ALL_MODELS = [
    f"{model} model.norm={norm}" if model != LINEAR else model
    for model in MODELS
    for norm in (NORMS if model != LINEAR else ("none",))
]
MIXED = (  # each option of each group at least once
    f"{LINEAR} loss=mse head=softmax clip=none",
    f"{MLP} model.norm=batch optim=adam activation=gelu clip=norm clip.max_norm=0.1",
    f"{MLP} model.norm=none optim=adamw activation=silu schedule=step loss=bce",
    f"{TWO_LAYER} model.norm=mean_only optim=adamw schedule=cosine clip=value",
    f"{CIRCULAR} model.norm=layer activation=tanh schedule=warmup +clip.factors.conv1=0",
    f"{ALEXNET_2012} model.norm=none optim=adam activation=elu",
    f"{FITNET4} activation=maxout",
)

pytestmark = pytest.mark.usefixtures("as_in_workers")


# --- one step ---------------------------------------------------------------------------------


def assert_one_step_agrees(cell_config, case: str) -> None:
    """To 1e-12 of the network's largest parameter, in float64.

    Adam's first step is lr g / (|g| + eps): its default eps makes a hundred million times as much
    of a gradient that is rounding errors alone (a bias in front of batch normalization). What a
    hundred such steps make of it is judged below, by what rounding does to serial runs.
    """
    stack = members(cell_config, f"{case} train.steps=1 train.dtype=float64", 3)
    if "eps" in vars(stack[0].step.optim):
        stack = [with_eps(member, 1e-4) for member in stack]
    for stacked, serial in zip(together(stack), map(alone, stack), strict=True):
        assert serial.divergence is stacked.divergence is None
        assert apart(stacked, serial) <= 1e-12 * largest(serial)
        assert stacked.train_loss == pytest.approx(serial.train_loss, rel=1e-12)


def with_eps(member: TrainSpec, eps: float) -> TrainSpec:
    return replace(member, step=replace(member.step, optim=replace(member.step.optim, eps=eps)))


@pytest.mark.parametrize("case", MIXED)
def test_a_step_agrees(cell_config, case):
    assert_one_step_agrees(cell_config, case)


# An optimizer, a clip, a schedule or a dtype sees a tree of tensors, whatever network they are of:
# so each model comes with the next of these, and every pair of optimizer and clip comes up.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "optim", "clip"), [*zip(ALL_MODELS, cycle(NUMBERS), cycle(CLIPS), strict=False)]
)
def test_a_step_agrees_for_every_model_optimizer_and_clip(cell_config, model, optim, clip):
    assert_one_step_agrees(cell_config, f"{model} optim={optim} {clip}")


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "optim"), [*zip(LOSSES, cycle(NUMBERS), strict=False)])
def test_a_step_agrees_for_every_loss(cell_config, loss, optim):
    assert_one_step_agrees(cell_config, f"{TWO_LAYER} {loss} optim={optim}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "schedule"), [*zip(ACTIVATIONS, cycle(SCHEDULES), strict=False)]
)
def test_a_step_agrees_for_every_activation_and_schedule(cell_config, activation, schedule):
    assert_one_step_agrees(cell_config, f"{PLAIN} activation={activation} schedule={schedule}")


# --- a hundred steps --------------------------------------------------------------------------


def nudged(member: TrainSpec, seed: int) -> TrainSpec:
    """The cell on images each of whose pixels is the next number up or down."""
    x = member.data.train.x.to(member.cell.train.torch_dtype)
    rng = torch.Generator().manual_seed(seed)
    up = torch.rand(x.shape, generator=rng) < 0.5
    moved = torch.where(up, x.nextafter(torch.full_like(x, torch.inf)), down(x))
    return replace(member, data=replace(member.data, train=Split(moved, member.data.train.y)))


def down(x: Tensor) -> Tensor:
    return x.nextafter(torch.full_like(x, -torch.inf))


def assert_drift_is_roundings(cell_config, case: str, dtype: str) -> None:
    """Stacked and serial part by no more than 100 times what an ulp of the input does.

    And by the rounding of the result itself, an ulp a step. Of four nudges the largest was at
    least half of the largest of 16, in all cases tried.
    """
    steps = 100
    stack = members(cell_config, f"{case} train.steps={steps} train.dtype={dtype}", 3)
    serial = alone(stack[0])
    drift = max(apart(alone(nudged(stack[0], seed)), serial) for seed in range(4))
    rounding = steps * torch.finfo(stack[0].cell.train.torch_dtype).eps * largest(serial)
    stacked = together(stack)[0]
    assert stacked.divergence is serial.divergence is None
    assert apart(stacked, serial) <= 100 * drift + rounding


def test_a_hundred_steps_part_as_rounding_does(cell_config):
    case = f"{MLP} model.norm=batch optim=adam activation=gelu clip=norm"
    assert_drift_is_roundings(cell_config, case, "float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "optim", "dtype"),
    [*zip(ALL_MODELS[:17], cycle(NUMBERS), cycle(DTYPES), strict=False)],
)
def test_a_hundred_steps_of_every_kind_part_as_rounding_does(cell_config, model, optim, dtype):
    assert_drift_is_roundings(cell_config, f"{model} optim={optim} clip=norm", dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "dtype"), [*zip(LOSSES, cycle(DTYPES), strict=False)])
def test_a_hundred_steps_of_every_loss_part_as_rounding_does(cell_config, loss, dtype):
    # Adam: a regression diverges at the rates that suit the others under descent.
    assert_drift_is_roundings(cell_config, f"{TWO_LAYER} {loss} optim=adam", dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hundred_steps_of_alexnet_part_as_rounding_does(cell_config, dtype):
    assert_drift_is_roundings(cell_config, f"{ALEXNET_2012} model.norm=batch optim=adam", dtype)
