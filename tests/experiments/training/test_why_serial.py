"""`why_serial` gives the reason why a cell can't be trained in a stack, in one line."""

from dataclasses import dataclass, replace

import pytest
import torch
from stacks import SMALL
from test_stacked_against_serial import ACTIVATIONS, CLIPS, LOSSES, MODELS, RESNETS, SCHEDULES
from torch import Tensor, nn

from experiments.optim import Sgd
from experiments.schema import Cell, build_cell
from experiments.training.stackable import why_serial


def cell(cell_config, *overrides: str) -> Cell:
    return build_cell(cell_config(*SMALL, *overrides))


def with_activation(cell: Cell, activation: type[nn.Module]) -> Cell:
    return replace(cell, activation=activation)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 2 * x


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.total


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
    ],
)
def test_the_reason_names_an_unsupported_setting(cell_config, overrides, reason):
    assert reason in why_serial(cell(cell_config, *overrides))


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (Branching, "data-dependent"),
        (nn.RReLU, "rrelu"),
        (Stateful, "has a buffer (act1.total)"),
    ],
)
def test_the_reason_names_an_unsupported_activation(cell_config, activation, reason):
    message = why_serial(with_activation(cell(cell_config), activation))
    assert message is not None
    assert "\n" not in message
    assert reason in message


@pytest.mark.parametrize(
    ("optim", "reason"),
    [
        (NoDataclass(), "NoDataclass is not a dataclass"),
        (Nesterov(), "Nesterov.nesterov is not a number"),
        (MaybeMomentum(), "torch.vmap"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_reason_names_an_unsupported_optimizer(cell_config, optim, reason):
    message = why_serial(replace(cell(cell_config), optim=optim))
    assert message is not None
    assert reason in message
    assert "\n" not in message


def test_an_inplace_activation_can_be_stacked(cell_config):
    in_place = with_activation(cell(cell_config), lambda: nn.ReLU(inplace=True))
    assert why_serial(in_place) is None


@pytest.mark.slow
def test_every_option_can_be_stacked(cell_config):
    groups = ("activation", ACTIVATIONS), ("schedule", SCHEDULES)
    options = [[f"{group}={option}"] for group, choices in groups for option in choices]
    options += [case.split() for case in (*MODELS, *RESNETS, *CLIPS, *LOSSES)]
    for option in options:
        keys = {text.partition("=")[0] for text in option}
        small = [text for text in SMALL if text.partition("=")[0] not in keys]
        assert why_serial(build_cell(cell_config(*small, *option))) is None, option
