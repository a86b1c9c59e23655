"""A cell that diverges in a stack: same result as alone, no effect on the others, early removal."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from stacks import bit_identical, stack_specs, train_as_stack, train_serial
from torch import Tensor

from experiments.training.divergence import DivergenceMonitor
from experiments.training.engines import StackedEngine, TrainSpec
from experiments.training.loop import SYNC_INTERVAL, train_stacked
from experiments.training.step import ALIVE, StepConfig

CASE = "model=mlp model.width=9 activation=tanh"
DIVERGING = 2  # index of the cell that diverges, among five

pytestmark = pytest.mark.usefixtures("worker_settings")


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """Return a list that records the number of networks of each stacked step, without copies."""
    counts: list[int] = []
    step = StackedEngine.step

    def recording_step(self: StackedEngine, number: int) -> Tensor:
        losses = step(self, number)
        counts.append(len(losses))
        return losses

    monkeypatch.setattr(StackedEngine, "step", recording_step)
    return counts


def with_loss_bound(specs: list[TrainSpec], bound: float) -> list[TrainSpec]:
    return [replace(spec, step=replace(spec.step, loss_bound=bound)) for spec in specs]


def with_scaled_weights(specs: list[TrainSpec], factor: float) -> list[TrainSpec]:
    """Multiply the weights of one network."""
    with torch.no_grad():
        for parameter in specs[DIVERGING].step.model.parameters():
            parameter *= factor
    return specs


def with_lr(specs: list[TrainSpec], lr: float) -> list[TrainSpec]:
    """Change the learning rate of one cell."""
    cell = specs[DIVERGING].cell
    changed = replace(specs[DIVERGING], cell=replace(cell, optim=replace(cell.optim, lr=lr)))
    return [*specs[:DIVERGING], changed, *specs[DIVERGING + 1 :]]


def without_diverging(cells: list) -> list:
    return cells[:DIVERGING] + cells[DIVERGING + 1 :]


def assert_others_are_unaffected(stack: list[TrainSpec], *steps: int) -> None:
    results, others = train_as_stack(stack), train_as_stack(without_diverging(stack))
    serial = train_serial(stack[DIVERGING])
    assert serial.divergence is not None
    assert serial.divergence.step in steps
    assert results[DIVERGING].divergence == serial.divergence
    assert results[DIVERGING].curves["step"] == serial.curves["step"]
    assert all(result.divergence is None for result in others)
    assert all(map(bit_identical, without_diverging(results), others))


@pytest.mark.parametrize(
    ("cause", "dtype"), [("weights", "float32"), ("rate", "float64"), ("input", "float32")]
)
def test_immediate_divergence_does_not_affect_other_cells(cell_config, cause, dtype):
    stack = stack_specs(cell_config, f"{CASE} train.steps=20 train.dtype={dtype}", 5)
    if cause == "weights":
        stack = with_scaled_weights(stack, math.inf)
    elif cause == "rate":
        stack = with_lr(stack, 1e307)
    else:
        zero_spread = replace(stack[DIVERGING].scaling, spread=torch.zeros(1, 1, 1))
        stack[DIVERGING] = replace(stack[DIVERGING], scaling=zero_spread)
    assert_others_are_unaffected(stack, 0, 1)


def growing_loss(cell_config, steps: int) -> list[TrainSpec]:
    """Return linear regressions, one above the largest stable learning rate."""
    case = "model=linear data.task=regression loss=mse train.dtype=float64"
    return with_lr(stack_specs(cell_config, f"{case} train.steps={steps}", 5), 0.05)


def test_late_divergence_does_not_affect_other_cells(cell_config):
    divergence = train_serial(growing_loss(cell_config, 100)[DIVERGING]).divergence
    assert divergence is not None
    assert SYNC_INTERVAL < divergence.step < 100
    assert divergence.reason == "loss above bound"
    # Divergence in the middle of training, at its last step, and by its last update.
    for steps in (divergence.step + 20, divergence.step + 1, divergence.step):
        assert_others_are_unaffected(growing_loss(cell_config, steps), divergence.step)


def test_a_diverged_cell_leaves_and_is_yielded_at_the_next_sync(cell_config, sizes):
    stack = with_scaled_weights(stack_specs(cell_config, f"{CASE} train.steps=20", 5), math.inf)
    yielded = [(index, len(sizes)) for index, _ in train_stacked(stack, lambda done, total: None)]
    assert yielded == [(DIVERGING, SYNC_INTERVAL), (0, 20), (1, 20), (3, 20), (4, 20)]
    assert sizes == [5] * SYNC_INTERVAL + [4] * (20 - SYNC_INTERVAL)


def test_training_ends_when_all_cells_have_diverged(cell_config, sizes):
    stack = stack_specs(cell_config, f"{CASE} train.steps=20", 3)
    stack = with_loss_bound(stack, 1e-9)
    assert [result.divergence.step for result in train_as_stack(stack)] == [0, 0, 0]
    assert sizes == [3] * SYNC_INTERVAL


def test_the_last_running_cell_has_the_result_of_a_large_stack(cell_config):
    stack = growing_loss(cell_config, 60)
    results = train_as_stack([stack[DIVERGING], stack[0]])
    assert results[0].divergence is not None
    assert bit_identical(results[1], train_as_stack(stack)[0])


def test_a_result_does_not_share_the_memory_of_its_stack(cell_config):
    for result in train_as_stack(stack_specs(cell_config, f"{CASE} train.steps=2", 5)):
        for tensor in result.params.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@dataclass(frozen=True)
class DecayByOwnRate:
    """Gradient descent with weight decay by its own learning rate, before the schedule."""

    lr: float

    def init(self, params):
        return {}

    def update(self, params, grads, state, lr):
        return {n: p * (1 - self.lr * 0.1) - lr * grads[n] for n, p in params.items()}, state


def test_an_optimizer_can_read_its_own_learning_rate_in_a_stack(cell_config):
    stack = stack_specs(cell_config, f"{CASE} train.steps=3 train.dtype=float64", 3)
    stack = [with_optimizer(spec, DecayByOwnRate(spec.cell.optim.lr)) for spec in stack]
    for stacked, serial in zip(train_as_stack(stack), map(train_serial, stack), strict=True):
        assert stacked.train_loss == pytest.approx(serial.train_loss, rel=1e-12)


def with_optimizer(spec: TrainSpec, optim) -> TrainSpec:
    step: StepConfig = replace(spec.step, optim=optim)
    return replace(spec, step=step, cell=replace(spec.cell, optim=optim))


# --- the monitor ------------------------------------------------------------------------------


class FakeEvent:
    """Fake of torch.cuda.Event; a test sets `finished`."""

    finished = False

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        return FakeEvent.finished


class FakeGpuTensor:
    """Fake of `failed_at` on a GPU; its copy has the values at the time of the call."""

    def __init__(self, *steps: int) -> None:
        self.device = torch.device("cuda")
        self._steps = torch.tensor(steps)

    def to(self, device: str, non_blocking: bool) -> Tensor:
        assert (device, non_blocking) == ("cpu", True)
        return self._steps.clone()


def test_gpu_values_are_returned_after_their_copy_has_finished(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(FakeEvent, "finished", False)
    monitor = DivergenceMonitor()
    assert monitor.read(FakeGpuTensor(ALIVE, ALIVE)) is None  # starts a copy
    assert monitor.read(FakeGpuTensor(3, ALIVE)) is None  # the copy is pending
    FakeEvent.finished = True
    assert monitor.read(FakeGpuTensor(3, ALIVE)) == [ALIVE, ALIVE]  # values of the first call
    assert monitor.read(FakeGpuTensor(3, 7)) == [3, ALIVE]
    monitor.reset()
    assert monitor.read(FakeGpuTensor(7)) is None  # the pending copy was discarded


def test_cpu_values_are_returned_at_once():
    assert DivergenceMonitor().read(torch.tensor([ALIVE, 4])) == [ALIVE, 4]
