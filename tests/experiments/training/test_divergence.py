"""A cell that diverges: as it would alone, at no cost to its neighbours, soon out of the way."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from stacks import alone, members, same_bits, together
from torch import Tensor

from experiments.training.divergence import DivergenceMonitor
from experiments.training.engines import StackedEngine, TrainSpec
from experiments.training.loop import SYNC_EVERY, train_stacked
from experiments.training.step import ALIVE, StepConfig

CASE = "model=mlp model.width=9 activation=tanh"
PLACE = 2  # of the cell that diverges, among five

pytestmark = pytest.mark.usefixtures("as_in_workers")


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """Number of networks in each step of the stacks that follow, without copies."""
    counts: list[int] = []
    step = StackedEngine.step

    def counting(self: StackedEngine, number: int) -> Tensor:
        losses = step(self, number)
        counts.append(len(losses))
        return losses

    monkeypatch.setattr(StackedEngine, "step", counting)
    return counts


def with_loss_bound(members: list[TrainSpec], bound: float) -> list[TrainSpec]:
    return [replace(member, step=replace(member.step, loss_bound=bound)) for member in members]


def with_inits(members: list[TrainSpec], scale: float) -> list[TrainSpec]:
    """All as they are but one, whose weights are multiplied."""
    with torch.no_grad():
        for parameter in members[PLACE].step.model.parameters():
            parameter *= scale
    return members


def with_rate(members: list[TrainSpec], lr: float) -> list[TrainSpec]:
    cell = members[PLACE].cell
    changed = replace(members[PLACE], cell=replace(cell, optim=replace(cell.optim, lr=lr)))
    return [*members[:PLACE], changed, *members[PLACE + 1 :]]


def others(members: list) -> list:
    return members[:PLACE] + members[PLACE + 1 :]


def assert_neighbours_keep_their_bits(stack: list[TrainSpec], *steps: int) -> None:
    ended, without = together(stack), together(others(stack))
    serial = alone(stack[PLACE])
    assert serial.divergence is not None
    assert serial.divergence.step in steps
    assert ended[PLACE].divergence == serial.divergence
    assert ended[PLACE].curves["step"] == serial.curves["step"]
    assert all(end.divergence is None for end in without)
    assert all(map(same_bits, others(ended), without))


@pytest.mark.parametrize(
    ("spoil", "dtype"), [("weights", "float32"), ("rate", "float64"), ("input", "float32")]
)
def test_neighbours_of_a_cell_that_diverges_at_once_keep_their_bits(cell_config, spoil, dtype):
    stack = members(cell_config, f"{CASE} train.steps=20 train.dtype={dtype}", 5)
    if spoil == "weights":
        stack = with_inits(stack, math.inf)
    elif spoil == "rate":
        stack = with_rate(stack, 1e307)
    else:
        nothing = replace(stack[PLACE].scaling, spread=torch.zeros(1, 1, 1))
        stack[PLACE] = replace(stack[PLACE], scaling=nothing)
    assert_neighbours_keep_their_bits(stack, 0, 1)


def growing(cell_config, steps: int) -> list[TrainSpec]:
    """A linear regression beyond the largest stable rate: its loss grows evenly."""
    case = "model=linear data.task=regression loss=mse train.dtype=float64"
    return with_rate(members(cell_config, f"{case} train.steps={steps}", 5), 0.05)


def test_neighbours_of_a_cell_that_diverges_later_keep_their_bits(cell_config):
    found = alone(growing(cell_config, 100)[PLACE]).divergence
    assert found is not None
    assert SYNC_EVERY < found.step < 100
    assert found.reason == "loss above bound"
    # In the middle; at the last step; by the last update, seen on the batch that would follow.
    for steps in (found.step + 20, found.step + 1, found.step):
        assert_neighbours_keep_their_bits(growing(cell_config, steps), found.step)


def test_a_cell_that_diverges_leaves_at_the_next_look_and_is_yielded_then(cell_config, sizes):
    stack = with_inits(members(cell_config, f"{CASE} train.steps=20", 5), math.inf)
    seen = [(index, len(sizes)) for index, _ in train_stacked(stack, lambda done, total: None)]
    assert seen == [(PLACE, SYNC_EVERY), (0, 20), (1, 20), (3, 20), (4, 20)]
    assert sizes == [5] * SYNC_EVERY + [4] * (20 - SYNC_EVERY)


def test_cells_leave_until_none_is_left(cell_config, sizes):
    stack = members(cell_config, f"{CASE} train.steps=20", 3)
    stack = with_loss_bound(stack, 1e-9)
    assert [end.divergence.step for end in together(stack)] == [0, 0, 0]
    assert sizes == [3] * SYNC_EVERY


def test_the_last_cell_left_is_what_it_was_among_many(cell_config):
    stack = growing(cell_config, 60)
    ended = together([stack[PLACE], stack[0]])
    assert ended[0].divergence is not None
    assert same_bits(ended[1], together(stack)[0])


def test_what_a_stack_keeps_of_a_cell_is_its_own_memory(cell_config):
    """A view would hold the tensors of all."""
    for end in together(members(cell_config, f"{CASE} train.steps=2", 5)):
        for tensor in end.params.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@dataclass(frozen=True)
class OwnRate:
    """Descent whose weight decay follows the rate before any schedule."""

    lr: float

    def init(self, params):
        return {}

    def update(self, params, grads, state, lr):
        return {n: p * (1 - self.lr * 0.1) - lr * grads[n] for n, p in params.items()}, state


def test_an_optimizer_that_reads_its_own_rate_reads_its_own_cells(cell_config):
    stack = members(cell_config, f"{CASE} train.steps=3 train.dtype=float64", 3)
    stack = [with_optimizer(member, OwnRate(member.cell.optim.lr)) for member in stack]
    for stacked, serial in zip(together(stack), map(alone, stack), strict=True):
        assert stacked.train_loss == pytest.approx(serial.train_loss, rel=1e-12)


def with_optimizer(member: TrainSpec, optim) -> TrainSpec:
    step: StepConfig = replace(member.step, optim=optim)
    return replace(member, step=step, cell=replace(member.cell, optim=optim))


# --- the monitor ------------------------------------------------------------------------------


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
    monitor = DivergenceMonitor()
    assert monitor.read(StandInMarks(ALIVE, ALIVE)) is None  # sent off
    assert monitor.read(StandInMarks(3, ALIVE)) is None  # the first are still on their way
    StandInEvent.happened = True
    assert monitor.read(StandInMarks(3, ALIVE)) == [ALIVE, ALIVE]  # those of the first call
    assert monitor.read(StandInMarks(3, 7)) == [3, ALIVE]
    monitor.reset()
    assert monitor.read(StandInMarks(7)) is None  # what was on its way has other places


def test_marks_on_the_cpu_are_read_at_once():
    assert DivergenceMonitor().read(torch.tensor([ALIVE, 4])) == [ALIVE, 4]
