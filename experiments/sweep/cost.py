"""How much work a cell is, before any has been timed: to run the longest first, no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.schema import Cell, build_cell
from fanin.probes.trace import forward_hooks

FORWARD_AND_BACKWARD = 3  # a training step against a forward pass, as is usual to count
FLOPS = 5e9  # a second, of one CPU core on small networks; only how cells compare matters
IMAGES = 2  # that are passed through a network: batch normalization refuses one
LEAST = 2e-3  # seconds that a cell takes which computes nothing

# What the work depends on.
DECIDES = ("data", "model", "activation", "head", "loss", "probe", "train")


class Costs:
    """Estimates seconds of cells, each network counted once."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def seconds(self, config: Mapping[str, Any]) -> float:
        """Return the estimate for a coerced config."""
        key = json.dumps([config[group] for group in DECIDES], sort_keys=True)
        if key not in self._known:
            self._known[key] = estimated_seconds(build_cell(config))
        return self._known[key]


def estimated_seconds(cell: Cell) -> float:
    """Count the multiplications and additions of a cell's forward and backward passes."""
    n_train = cell.data.n_train or cell.data.source.train_size
    n_test = cell.data.n_test or cell.data.source.test_size
    steps, size = cell.train.total_steps(n_train), cell.train.batch_of(n_train)
    tested = 1 + (steps // cell.train.evaluate_every if cell.train.evaluate_every else 0)
    probed = cell.probe.size * (cell.probe.draws + len(cell.probe.steps))
    images = FORWARD_AND_BACKWARD * (steps * size + probed) + (n_test * tested if steps else 0)
    return LEAST + images * _forward_flops(cell) / FLOPS


def _forward_flops(cell: Cell) -> float:
    """Two for each weight that a unit at a position reads: what convolutions and products take."""
    flops = 0.0

    def count(_name: str, module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal flops
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            flops += 2 * output.numel() * weight[0].numel() / IMAGES

    # On real, if few, images: torch's `meta` device, which computes nothing, loads its compiler
    # first, and takes longer than all of planning.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = cell.network().eval()
        with forward_hooks(dict(network.named_modules()), count):
            network(torch.zeros(IMAGES, *cell.data.shape))
    return flops
