"""The stacked step as a graph: a recording of its kernels, repeated, gives the same training.

A CPU has no CUDA graphs. The tests record a step's operations and repeat them on the same tensors,
as a graph does: no Python code of the step runs again.
"""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stacks import stack_specs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from experiments.training import cuda_graph
from experiments.training.cuda_graph import (
    WARM_UP,
    CaptureLog,
    GraphedFunction,
    capture_cuda,
    copy_tree,
)
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


def test_a_failed_capture_is_reported_and_the_process_captures_no_more(capsys, monkeypatch):
    log = CaptureLog()
    monkeypatch.setattr(cuda_graph, "CAPTURES", log)
    calls, captures = [], []

    def failing(function):
        captures.append(1)
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:  # as torch.cuda.graph
            raise RuntimeError("operation failed due to a previous error during capture")

    for _ in range(2):
        function = GraphedFunction(lambda: calls.append(1), failing)
        for _ in range(WARM_UP + 3):
            function()
    assert len(calls) == 2 * (WARM_UP + 3)
    assert len(captures) == 1
    assert log == CaptureLog(0, "operation not permitted when stream is capturing")
    (line,) = capsys.readouterr().err.splitlines()
    assert "operation not permitted" in line


def test_captures_are_counted(monkeypatch):
    log = CaptureLog()
    monkeypatch.setattr(cuda_graph, "CAPTURES", log)
    for capture in (lambda function: function, None):
        function = GraphedFunction(lambda: None, capture)
        for _ in range(WARM_UP + 3):
            function()
    assert log == CaptureLog(1, None)


class FakeCuda:
    """The parts of torch.cuda that a capture uses, with the current device and stream of each.

    As in torch: `graph` ends the capture before it leaves its stream, and a stream without a device
    is one of the current device.
    """

    def __init__(self) -> None:
        self.current, self.streams = 0, {0: "default 0", 1: "default 1"}
        self.captured_on: list[tuple[int, str]] = []
        self.replayed_on: list[int] = []
        self.warning: str | None = None
        self.failure: str | None = None

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    def Stream(self, device=None):
        return SimpleNamespace(device=self.current if device is None else device.index)

    @contextmanager
    def stream(self, stream):
        before, self.streams[stream.device] = self.streams[stream.device], "capture"
        before_device, self.current = self.current, stream.device
        try:
            yield
        finally:
            self.streams[stream.device], self.current = before, before_device

    @contextmanager
    def graph(self, graph, stream=None):
        stream = stream or self.Stream()
        before, self.streams[stream.device] = self.streams[stream.device], "capture"
        self.captured_on.append((self.current, self.streams[self.current]))
        yield
        if self.warning:
            warnings.warn(self.warning, stacklevel=1)
        if self.failure:
            raise RuntimeError(self.failure)
        self.streams[stream.device] = before

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.replayed_on.append(self.current))


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    for name in ("device", "Stream", "stream", "graph", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    cuda_graph._capture_stream.cache_clear()
    yield fake
    cuda_graph._capture_stream.cache_clear()


def test_capture_and_replay_are_on_the_device_of_the_function(cuda):
    for index in (0, 1, 0):  # another device was used first
        capture_cuda(lambda: None, torch.device("cuda", index))()
    assert cuda.captured_on == [(0, "capture"), (1, "capture"), (0, "capture")]
    assert cuda.replayed_on == [0, 1, 0]
    assert (cuda.current, cuda.streams) == (0, {0: "default 0", 1: "default 1"})


def test_an_empty_capture_is_an_error(cuda):
    cuda.warning = "The CUDA Graph is empty. This usually means that the graph was attempted ..."
    with pytest.raises(RuntimeError, match="The CUDA Graph is empty"):
        capture_cuda(lambda: None, torch.device("cuda", 1))


def test_a_failed_capture_leaves_its_stream_and_device(cuda):
    cuda.failure = "operation failed due to a previous error during capture"
    with pytest.raises(RuntimeError, match="previous error"):
        capture_cuda(lambda: None, torch.device("cuda", 1))
    assert (cuda.current, cuda.streams) == (0, {0: "default 0", 1: "default 1"})
