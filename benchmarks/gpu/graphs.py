"""Checks of the stacked engine on a GPU: CUDA graphs, and independence of the other cells.

On a CPU, which has no graphs, the step of the same stack runs as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.cases import (
    ALEXNET,
    Case,
    config_of,
    ignore_progress,
    option_cases,
    train_spec,
)
from benchmarks.gpu.check import Check, Comparison, Difference, equal, run_check
from benchmarks.gpu.runs import result_differences
from benchmarks.gpu.tolerance import relative
from experiments.sweep.engines import is_batch_invariant
from experiments.training.cuda_graph import CAPTURES, Capture
from experiments.training.engines import StackedEngine
from experiments.training.loop import train, train_stacked
from experiments.training.stackable import why_serial

STEPS = 12  # three as usual; then a graph is captured and replayed
REPLAYED = {
    "adam, warmup": ("optim=adam", "schedule=warmup", "schedule.warmup=0.5"),
    "sgd, clip, cosine": ("optim=sgd", "optim.momentum=0.9", "clip=norm", "schedule=cosine"),
    "dropout, cosine": ("model=alexnet", *ALEXNET, "model.dropout=0.5", "schedule=cosine"),
}
# The learning rate grows, and each cell diverges when it is too high for a linear model: the
# third cell after 11 steps, the last two after 20 and 24.
DIVERGING = (
    *("model=linear", "loss=mse", "train.loss_bound=1e3", "train.dtype=float64"),
    *("schedule=warmup", "schedule.warmup=0.9", "train.steps=48", "train.evaluate_every=16"),
)
LEARNING_RATES = (0.1, 0.4, 10, 4, 3)
N_DIVERGED, FIRST_DIVERGED = 3, 11
INVARIANT_CELLS = 6


def graph_checks(device: torch.device) -> Iterator[Check]:
    """Check replays of CUDA graphs against steps without a graph, and stacks that shrink."""
    for name, overrides in REPLAYED.items():
        yield run_check("CUDA graph", "replay", name, partial(compare_replay, overrides, device))
    yield run_check(
        *("CUDA graph", "recapture", "cells that diverge"), partial(compare_recapture, device)
    )


def invariance_checks(device: torch.device, every_option: bool) -> Iterator[Check]:
    """Check that the results of a cell don't depend on the other cells of its stack.

    Parameters
    ----------
    every_option
        Check all models and norms. If False, only the norms.
    """
    for case in option_cases():
        if case.group == "norm" or (every_option and case.group == "model"):
            yield run_check(
                *("batch invariance", case.group, f"{case.name} float32"),
                partial(compare_stacks, case, device),
            )


def compare_replay(overrides: tuple[str, ...], device: torch.device) -> Comparison:
    """Compare each step of a stack as a graph with the same step without a graph, bit for bit.

    Both launch the same kernels on the same shapes, and the kernels are deterministic.
    """
    configs = [config_of(*overrides, f"train.steps={STEPS}", f"seed={n}") for n in range(3)]
    specs = [train_spec(config, device) for config in configs]
    captured = CAPTURES.count
    capture: Capture | Literal["auto"] = "auto" if device.type == "cuda" else _as_usual
    losses, states = _steps(StackedEngine(specs, capture=capture))
    captured = CAPTURES.count - captured
    expected_losses, expected_states = _steps(StackedEngine(specs, capture=None))
    return Comparison(
        (
            Difference("losses", relative(losses, expected_losses), 0.0),
            Difference("state", relative(states, expected_states), 0.0),
            equal("captured graphs", captured, 1),
            equal("failed capture", CAPTURES.failure, None),
            equal("repeated losses", any(torch.equal(*pair) for pair in pairwise(losses)), False),
        ),
        f"{captured} CUDA graph captured" if device.type == "cuda" else "no CUDA graph on a CPU",
    )


def compare_recapture(device: torch.device) -> Comparison:
    """Compare a stack of which cells diverge during replays with the same cells one by one.

    After the first evaluation one of five cells is removed, which needs no new graph. After the
    second two more are removed, and the rest is captured again.
    """
    configs = [config_of(*DIVERGING, f"optim.lr={lr}") for lr in LEARNING_RATES]
    specs = [train_spec(config, device) for config in configs]
    serial = [train(spec, ignore_progress) for spec in specs]
    captured = CAPTURES.count
    stacked = dict(train_stacked(specs, ignore_progress))
    captured = CAPTURES.count - captured
    differences = [
        equal("captured graphs", captured, 2 if device.type == "cuda" else 0),
        equal("failed capture", CAPTURES.failure, None),
    ]
    diverged = []
    for index, (spec, result) in enumerate(zip(specs, serial, strict=True)):
        differences.append(
            equal(f"divergence of cell {index}", stacked[index].divergence, result.divergence)
        )
        if result.divergence is None:
            differences += result_differences(index, spec, stacked[index], result, "float64")
        else:
            diverged.append(result.divergence.step)
    differences += [
        equal("diverged cells", len(diverged), N_DIVERGED),
        equal("first divergence", min(diverged, default=None), FIRST_DIVERGED),
    ]
    return Comparison(tuple(differences), f"{captured} CUDA graph(s) captured")


def compare_stacks(case: Case, device: torch.device) -> Comparison:
    """Compare the cells of a stack with those of a reversed and a smaller stack, bit for bit."""
    configs = [config_of(*case.overrides, f"seed_weights={n}") for n in range(INVARIANT_CELLS)]
    if reason := why_serial(train_spec(configs[0], device).cell):
        return Comparison(refused=reason)
    specs = [train_spec(config, device) for config in configs]
    return Comparison((equal("bit-identical", is_batch_invariant(specs), True),))


def _steps(engine: StackedEngine) -> tuple[list[Tensor], list[object]]:
    """Take all steps; return the losses of each step, and the state of each network."""
    losses = [engine.step(number).clone() for number in range(STEPS)]
    return losses, [engine.state(slot) for slot in range(len(engine.loaders))]


def _as_usual(function: Callable[[], None]) -> Callable[[], None]:
    """Capture nothing: the replay is the function."""
    return function
