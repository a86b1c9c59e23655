"""The training loop. Probing and saving are callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.training.checkpoint import TrainState
from experiments.training.divergence import (
    Divergence,
    DivergenceMonitor,
    diagnose,
    forward_fault,
)
from experiments.training.engines import Engine, SerialEngine, StackedEngine, TrainSpec
from experiments.training.evaluate import evaluate
from experiments.training.loader import BatchLoader
from experiments.training.step import ALIVE, NetworkState, Params

# Steps between two reads from the device; until then a diverged network stays in the stack, frozen.
SYNC_INTERVAL = 16

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainResult:
    """Outcome of training one network.

    Parameters
    ----------
    params
        Parameters after the last step, or before the step that diverged.
    divergence
        Step and tensor of divergence; None if the network did not diverge.
    train_loss
        Mean loss over the last epoch (or over all steps, if fewer). For a network that diverged,
        its last loss. NaN if there were no steps.
    seconds
        Training time; the networks of a stack get equal shares.
    curves
        Columns of the `curves` table.
    """

    params: Params
    divergence: Divergence | None
    train_loss: float
    seconds: float
    curves: dict[str, list[Any]]


def train(spec: TrainSpec, on_progress: OnProgress) -> TrainResult:
    """Train one network, from its model's weights or from the state to resume.

    Parameters
    ----------
    spec
        The network. Its model and data are on the same device.
    on_progress
        Called regularly with (steps done, total steps).

    Raises
    ------
    Stopped
        `stop` of the spec's checkpointer returned True.
    """
    ((_, result),) = _train([spec], SerialEngine([spec]), on_progress)
    return result


def train_stacked(
    specs: Sequence[TrainSpec], on_progress: OnProgress
) -> Iterator[tuple[int, TrainResult]]:
    """Train a stack of networks. Diverged networks are removed from the stack.

    Parameters
    ----------
    specs
        Networks at the same step. Their cells may differ only in scaling, init, seeds and the
        optimizer's numerical settings. All are saved when the first checkpointer saves.
    on_progress
        As for `train`.

    Yields
    ------
    tuple
        Index in `specs` and the network's result, when its training ends.

    Raises
    ------
    Stopped
        As for `train`.
    """
    yield from _train(specs, StackedEngine(specs), on_progress)


def _train(
    specs: Sequence[TrainSpec], engine: Engine, on_progress: OnProgress
) -> Iterator[tuple[int, TrainResult]]:
    settings, n_steps = specs[0].cell.train, engine.loaders[0].n_steps
    every = settings.evaluate_every
    evaluate_at = set(range(every, n_steps, every)) if every else set()
    probe_at = set(specs[0].cell.probe.steps)
    sync_at = {*range(SYNC_INTERVAL, n_steps, SYNC_INTERVAL), n_steps, *evaluate_at, *probe_at}

    networks = [
        _Network(index, spec, loader)
        for index, (spec, loader) in enumerate(zip(specs, engine.loaders, strict=True))
    ]
    running = networks  # in the engine's order
    device = engine.loaders[0].device
    losses = torch.zeros(n_steps, len(specs), dtype=torch.float64, device=device)
    first_step = 0
    for network in networks:
        if network.spec.resume is not None:
            first_step = network.spec.resume.step
            losses[:first_step, network.index] = network.spec.resume.losses
    columns: Tensor | slice = slice(None)  # of the running networks
    monitor, last_time = DivergenceMonitor(), time.perf_counter()
    if first_step:
        on_progress(first_step, n_steps)

    for step in range(first_step, n_steps):
        if step in probe_at:
            for slot, network in enumerate(running):
                network.spec.on_probe(step, engine.state(slot)["params"])
        losses[step, columns] = engine.step(step).double()
        done = step + 1
        if done in sync_at:
            on_progress(done, n_steps)
            # Diverged networks must be removed before an evaluation or probe.
            wait = done in evaluate_at | probe_at | {n_steps}
            failed_at = monitor.read(engine.failed_at(), wait)
            last_time = _share_time(running, last_time)
            if failed_at is not None and any(at != ALIVE for at in failed_at):
                for slot, network in enumerate(running):
                    if failed_at[slot] != ALIVE:
                        state = engine.state(slot)
                        divergence = network.diagnose(failed_at[slot], state)
                        yield network.index, network.result(state, losses, divergence)
                alive = [slot for slot, at in enumerate(failed_at) if at == ALIVE]
                running = [running[slot] for slot in alive]
                if not running:
                    return
                engine.keep(alive)
                columns = torch.tensor([network.index for network in running], device=device)
                monitor.reset()
            if done in evaluate_at:
                for slot, network in enumerate(running):
                    network.evaluate(engine.state(slot)["params"], done)
        checkpointer = running[0].spec.checkpointer
        if checkpointer is not None and checkpointer.should_save():
            last_time = _share_time(running, last_time)
            for slot, network in enumerate(running):
                network.save(engine.state(slot), losses[:done, network.index])
            checkpointer.raise_if_stopped()

    for slot, network in enumerate(running):
        state = engine.state(slot)
        fault = network.last_fault(state["params"])
        if n_steps in probe_at:
            network.spec.on_probe(n_steps, state["params"])
        yield network.index, network.result(state, losses, fault)


class _Network:
    """A network in training, its curves and its training time so far."""

    def __init__(self, index: int, spec: TrainSpec, loader: BatchLoader) -> None:
        self.index = index  # in the specs, and its column of the losses
        self.spec = spec
        self.loader = loader
        self.curves: dict[str, list[Any]] = {"step": [], "metric": [], "value": []}
        self.seconds = 0.0
        if spec.resume is not None:
            self.curves = {name: list(column) for name, column in spec.resume.curves.items()}
            self.seconds = spec.resume.seconds

    def evaluate(self, params: Params, step: int) -> None:
        """Add the loss and accuracy on the test set after a step to the curves."""
        spec, config = self.spec, self.spec.step
        dtype = spec.cell.train.torch_dtype
        evaluation = evaluate(
            config.model, params, spec.data.test, spec.scaling, config.objective, dtype
        )
        self._add_point(step, "test_loss", evaluation.loss)
        self._add_point(step, "test_accuracy", evaluation.accuracy)

    def diagnose(self, failed_at: int, state: NetworkState) -> Divergence:
        """Return the first non-finite tensor of the step that diverged."""
        with self.loader.seeded(failed_at):
            return diagnose(self.spec.step, state, self.loader.at(failed_at))

    def last_fault(self, params: Params) -> Divergence | None:
        """Return the divergence in a forward pass after the last update; None if there is none."""
        n_steps = self.loader.n_steps
        with self.loader.seeded(n_steps):
            fault = forward_fault(self.spec.step, params, self.loader.at(n_steps))
        return None if fault is None else Divergence(n_steps, *fault)

    def save(self, state: NetworkState, losses: Tensor) -> None:
        """Pass the training state to the spec's `on_save`."""
        buffers = dict(self.spec.step.model.named_buffers())
        self.spec.on_save(
            TrainState(len(losses), state, buffers, losses, self.curves, self.seconds)
        )

    def result(
        self, state: NetworkState, losses: Tensor, divergence: Divergence | None
    ) -> TrainResult:
        """Return the outcome of training, with the loss of each step in the curves."""
        # Copy, because a view would keep the tensors of the whole stack in memory.
        params = {name: tensor.clone() for name, tensor in state["params"].items()}
        n_steps, train_loss = self.loader.n_steps, float("nan")
        count = n_steps if divergence is None else min(divergence.step + 1, n_steps)
        values = losses[:count, self.index].tolist()
        for step, value in enumerate(values):
            self._add_point(step, "train_loss", value)
        if values and divergence is None:
            last_epoch = values[-self.loader.steps_per_epoch :]
            train_loss = sum(last_epoch) / len(last_epoch)
        elif values:
            train_loss = values[-1]
        return TrainResult(params, divergence, train_loss, self.seconds, self.curves)

    def _add_point(self, step: int, metric: str, value: float) -> None:
        for column, entry in zip(self.curves.values(), (step, metric, value), strict=True):
            column.append(entry)


def _share_time(running: Sequence[_Network], last_time: float) -> float:
    """Divide the time since the last call among the running networks; return the time now."""
    now = time.perf_counter()
    for network in running:
        network.seconds += (now - last_time) / len(running)
    return now
