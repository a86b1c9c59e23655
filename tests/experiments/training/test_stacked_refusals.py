"""What can't be stacked says why, in one line; nothing in a stacked step waits for the device."""

from dataclasses import dataclass, replace

import pytest
import torch
from stacks import CPU, SMALL
from test_stacked_against_serial import ACTIVATIONS, CLIPS, LOSSES, MODELS, SCHEDULES
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from experiments.optim import Sgd
from experiments.schema import Cell, build_cell
from experiments.training.divergence import DivergenceMonitor
from experiments.training.engines import stacked_step, why_serial
from experiments.training.step import ALIVE, StepConfig, initial_state


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


# --- why not ----------------------------------------------------------------------------------


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


# --- no waiting -------------------------------------------------------------------------------


@pytest.mark.parametrize("optim", ["sgd", "adam", "adamw"])
def test_nothing_in_a_stacked_step_is_read_back(cell_config, optim):
    """Fake tensors have no values: whatever asks for one raises."""
    one = cell(cell_config, f"optim={optim}", "clip=norm", "model=plain", "model.norm=batch")
    with FakeTensorMode(allow_non_fake_inputs=False):
        task = StepConfig(one.network(), one.objective, one.optim, one.clip, 1e12)
        state = torch.utils._pytree.tree_map(lambda t: torch.stack([t, t, t]), initial_state(task))
        x, y = torch.zeros(3, 8, 1, 6, 6), torch.zeros(3, 8, dtype=torch.int64)
        rates = torch.zeros(3, dtype=torch.float64)
        state, losses = stacked_step(task)(state, x, y, rates, {}, {"weight_decay": rates})
        assert losses.shape == (3,)


class StandInEvent:
    """For torch.cuda.Event, where there is no GPU; it has happened when a test says so."""

    happened = False

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        return StandInEvent.happened


class StandInMarks:
    """Marks that say they are on a GPU, and copy themselves as they are at the time."""

    def __init__(self, *marks: int) -> None:
        self.device = torch.device("cuda")
        self._marks = torch.tensor(marks)

    def to(self, device: str, non_blocking: bool) -> Tensor:
        assert (device, non_blocking) == ("cpu", True)
        return self._marks.clone()


def test_marks_of_a_stand_in_gpu_are_read_once_they_have_arrived(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", StandInEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(StandInEvent, "happened", False)
    lookout = DivergenceMonitor()
    assert lookout.read(StandInMarks(ALIVE, ALIVE)) is None  # sent off
    assert lookout.read(StandInMarks(3, ALIVE)) is None  # the first are still on their way
    StandInEvent.happened = True
    assert lookout.read(StandInMarks(3, ALIVE)) == [ALIVE, ALIVE]  # those of the first call
    assert lookout.read(StandInMarks(3, 7)) == [3, ALIVE]
    lookout.reset()
    assert lookout.read(StandInMarks(7)) is None  # what was on its way has other places


def test_marks_on_the_cpu_are_read_at_once():
    assert DivergenceMonitor().read(torch.tensor([ALIVE, 4], device=CPU)) == [ALIVE, 4]
