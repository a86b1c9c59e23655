"""The stacked step as a graph: a recording of its kernels, repeated, gives the same training.

A CPU has no CUDA graphs. The tests record a step's operations and repeat them on the same tensors,
as a graph does: no Python code of the step runs again.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stacks import stack_specs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from experiments.training.cuda_graph import WARM_UP, GraphedFunction, copy_tree
from experiments.training.engines import StackedEngine

STEPS = 12
CASES = (
    "model=mlp optim=adam schedule=cosine",
    "model=two_layer model.channels=3 optim=sgd clip=norm",
    "model=alexnet model.width=4 model.dense=7 model.dropout=0.5 data.image_side=15",
)
pytestmark = pytest.mark.usefixtures("worker_settings")


class Recording(TorchDispatchMode):
    """A list of operations with their inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, outputs))
        return outputs

    def replay(self) -> None:
        """Repeat all operations on the recorded tensors."""
        for func, args, kwargs, outputs in self.operations:
            results = tree_leaves(func(*args, **kwargs))
            for output, result in zip(tree_leaves(outputs), results, strict=True):
                if isinstance(output, Tensor) and output.data_ptr() != result.data_ptr():
                    output.copy_(result)


def record(function: Callable[[], None]) -> Callable[[], None]:
    """Record a step of an engine, and undo it, because a capture does not run the step."""
    engine: Any = function.__self__  # type: ignore[attr-defined]
    before = tree_map(torch.clone, engine._state)
    recording = Recording()
    with recording:
        function()
    copy_tree(engine._state, before)
    return recording.replay


def losses_and_states(engine: StackedEngine, keep_at: int, slots: list[int]):
    losses = []
    for number in range(STEPS):
        if number == keep_at:
            engine.keep(slots)
        losses.append(engine.step(number).clone())
    return losses, [tree_map(torch.clone, engine.state(slot)) for slot in range(len(slots))]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slots", [[4, 0, 2], [1]], ids=["most", "few"])
def test_a_graph_gives_the_same_training(cell_config, case, slots):
    case += f" train.steps={STEPS}"
    count = 5
    graphed = StackedEngine(stack_specs(cell_config, case, count), capture=record)
    usual = StackedEngine(stack_specs(cell_config, case, count))
    keep_at = WARM_UP + 4
    losses, states = losses_and_states(graphed, keep_at, slots)
    expected_losses, expected_states = losses_and_states(usual, keep_at, slots)
    for loss, expected in zip(losses, expected_losses, strict=True):
        assert torch.equal(loss, expected)
    for state, expected in zip(states, expected_states, strict=True):
        pairs = zip(tree_leaves(state), tree_leaves(expected), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_step_is_captured_once_until_half_of_the_stack_is_gone(cell_config):
    captures = []

    def counting(function):
        captures.append(len(engine.loaders))
        return record(function)

    case = f"model=mlp train.steps={STEPS}"
    engine = StackedEngine(stack_specs(cell_config, case, 6), capture=counting)
    for kept in ([0, 1, 2, 3, 4, 5], [0, 2, 3, 5], [1, 2]):
        engine.keep(kept)
        for number in range(WARM_UP + 2):
            engine.step(number)
    assert captures == [6, 2]


def test_a_failed_capture_is_reported_once_and_does_not_stop_training(capsys, monkeypatch):
    monkeypatch.setattr("experiments.training.cuda_graph._reported", False)
    calls = []

    def failing(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    for _ in range(2):
        function = GraphedFunction(lambda: calls.append(1), failing)
        for _ in range(WARM_UP + 3):
            function()
    assert len(calls) == 2 * (WARM_UP + 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "operation not permitted" in line
