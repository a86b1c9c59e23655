"""Time of a cell: the median of similar finished cells, or an estimate from its operations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.config.groups import SHAPE_GROUPS
from experiments.schema import Cell, build_cell
from fanin.errors import FaninError
from fanin.probes.trace import forward_hooks

PASSES_PER_STEP = 3  # cost of a training step in forward passes, by convention
FLOPS_PER_SECOND = 5e9  # of one CPU core on small networks
DUMMY_IMAGES = 2  # batch normalization needs at least two
MIN_CELL_SECONDS = 2e-3  # time of a cell that computes nothing


@dataclass(frozen=True)
class CellTimes:
    """Seconds of a cell of each group of similar cells, by `pack_key`.

    Attributes
    ----------
    seconds
        Seconds of a cell.
    measured
        Groups whose time is the median of finished cells.
    scale
        Factor of the estimates of the other groups: measured / estimated time, the median over
        the groups with finished cells. None: no group has any.
    """

    seconds: Mapping[str, float]
    measured: frozenset[str] = frozenset()
    scale: float | None = None

    @property
    def all_measured(self) -> bool:
        """True if every group has finished cells."""
        return self.measured >= self.seconds.keys()


def cell_times(
    configs: Mapping[str, Mapping[str, Any]], finished: Mapping[str, Sequence[float]]
) -> CellTimes:
    """Return the times of cells, in comparable units.

    Parameters
    ----------
    configs
        Coerced config of a cell of each group, by `pack_key`.
    finished
        Times of the finished cells of some of these groups (seconds).
    """
    seconds = {key: statistics.median(times) for key, times in finished.items()}
    if seconds.keys() >= configs.keys():
        return CellTimes(seconds, frozenset(seconds))
    estimator, scale = CostEstimator(), None
    if seconds:  # without this factor, measured and estimated times would not be comparable
        ratios = []
        for key, time in seconds.items():
            with suppress(FaninError):  # a finished cell's class may have been deleted since
                ratios.append(time / estimator.seconds(configs[key]))
        scale = statistics.median(ratios) if ratios else None
    estimated = {
        key: estimator.seconds(config) * (scale or 1.0)
        for key, config in configs.items()
        if key not in seconds
    }
    return CellTimes(seconds | estimated, frozenset(seconds), scale)


class CostEstimator:
    """Estimator of the seconds that cells take; cells of the same sizes share an estimate."""

    def __init__(self) -> None:
        self._cached: dict[str, float] = {}

    def seconds(self, config: Mapping[str, Any]) -> float:
        """Return the estimate for a coerced config."""
        key = json.dumps([config[group] for group in SHAPE_GROUPS], sort_keys=True)
        if key not in self._cached:
            self._cached[key] = estimate_seconds(build_cell(config))
        return self._cached[key]


def estimate_seconds(cell: Cell) -> float:
    """Estimate a cell's seconds from the operations of its forward and backward passes."""
    n_train = cell.data.n_train or cell.data.source.train_size
    n_test = cell.data.n_test or cell.data.source.test_size
    steps, size = cell.train.total_steps(n_train), cell.train.batch_of(n_train)
    n_evaluations = 1 + (steps // cell.train.evaluate_every if cell.train.evaluate_every else 0)
    n_probed = cell.probe.size * (cell.probe.draws + len(cell.probe.steps))
    images = PASSES_PER_STEP * (steps * size + n_probed) + (n_test * n_evaluations if steps else 0)
    return MIN_CELL_SECONDS + images * _forward_flops(cell) / FLOPS_PER_SECOND


def _forward_flops(cell: Cell) -> float:
    """Return the operations of one image's forward pass: two per input of a unit and position."""
    flops = 0.0

    def count(_name: str, module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal flops
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and isinstance(output, Tensor) and weight.ndim > 1:
            flops += 2 * output.numel() * weight[0].numel() / DUMMY_IMAGES

    # Run real tensors: torch's `meta` device imports the compiler, which takes longer than all of
    # planning.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = cell.network().eval()
        with forward_hooks(dict(network.named_modules()), count):
            network(torch.zeros(DUMMY_IMAGES, *cell.data.shape))
    return flops
