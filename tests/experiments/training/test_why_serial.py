"""A cell that can't be trained in a stack says why, in one line."""

from dataclasses import dataclass, replace

import pytest
import torch
from stacks import SMALL
from test_stacked_against_serial import ACTIVATIONS, CLIPS, LOSSES, MODELS, SCHEDULES
from torch import Tensor, nn

from experiments.optim import Sgd
from experiments.schema import Cell, build_cell
from experiments.training.engines import why_serial


def cell(cell_config, *overrides: str) -> Cell:
    return build_cell(cell_config(*SMALL, *overrides))


def with_activation(cell: Cell, activation: type[nn.Module]) -> Cell:
    return replace(cell, activation=activation)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 2 * x


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.seen


class NoDataclass:
    lr = 0.1
    init, update = Sgd.init, Sgd.update


@dataclass(frozen=True)
class Nesterov(Sgd):
    nesterov: bool = True


@dataclass(frozen=True)
class MaybeMomentum(Sgd):
    def update(self, params, grads, state, lr):
        return super().update(params, grads, state, lr) if self.momentum else (params, state)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["train.steps=0"], "nothing is trained"),
        (["train.dtype=float16"], "train.dtype=float16"),
        (["train.dtype=bfloat16"], "train.dtype=bfloat16"),
    ],
)
def test_a_setting_that_is_not_stacked_is_named(cell_config, overrides, reason):
    assert reason in why_serial(cell(cell_config, *overrides))


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (Branching, "data-dependent"),
        (nn.RReLU, "rrelu"),
        (Remembering, "keeps act1.seen"),
    ],
)
def test_an_activation_that_is_not_stacked_says_why(cell_config, activation, reason):
    found = why_serial(with_activation(cell(cell_config), activation))
    assert found is not None
    assert "\n" not in found
    assert reason in found


@pytest.mark.parametrize(
    ("optim", "reason"),
    [
        (NoDataclass(), "NoDataclass is no dataclass"),
        (Nesterov(), "Nesterov.nesterov is no number"),
        (MaybeMomentum(), "torch.vmap"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_optimizer_that_is_not_stacked_says_why(cell_config, optim, reason):
    found = why_serial(replace(cell(cell_config), optim=optim))
    assert found is not None
    assert reason in found
    assert "\n" not in found


def test_an_activation_in_place_stacks(cell_config):
    in_place = with_activation(cell(cell_config), lambda: nn.ReLU(inplace=True))
    assert why_serial(in_place) is None


@pytest.mark.slow
def test_every_option_stacks(cell_config):
    named = ("activation", ACTIVATIONS), ("schedule", SCHEDULES)
    options = [[f"{group}={option}"] for group, choices in named for option in choices]
    options += [case.split() for case in (*MODELS, *CLIPS, *LOSSES)]
    for option in options:
        given = {text.partition("=")[0] for text in option}
        small = [text for text in SMALL if text.partition("=")[0] not in given]
        assert why_serial(build_cell(cell_config(*small, *option))) is None, option
