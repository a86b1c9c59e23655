"""Estimated seconds of cells, which order packs before anything is timed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.schema import build_cell
from experiments.sweep.cell_times import (
    FLOPS_PER_SECOND,
    MIN_CELL_SECONDS,
    CostEstimator,
    estimate_seconds,
)

ONE_STEP = (
    "train.steps=1",
    "train.batch_size=1",
    "probe=none",
    "data.n_test=10",
    "data.n_train=10",
)
IMAGES = 3 + 10  # a step forward and backward, and the test set


@pytest.mark.parametrize("model", ["linear", "mlp", "two_layer", "plain", "alexnet"])
def test_estimate_counts_the_operations_that_torch_counts(cell_config, model):
    cell = build_cell(cell_config(*ONE_STEP, f"model={model}"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cell.network().eval()(torch.zeros(1, *cell.data.shape))
    counted = (estimate_seconds(cell) - MIN_CELL_SECONDS) * FLOPS_PER_SECOND
    assert counted == pytest.approx(IMAGES * counter.get_total_flops(), rel=1e-9)


def test_estimate_grows_with_steps_draws_and_width(cell_config):
    def seconds(*overrides: str) -> float:
        return CostEstimator().seconds(cell_config(*overrides))

    assert seconds("train.steps=20") > seconds("train.steps=10") > seconds("train.steps=0")
    assert seconds("probe.draws=9") > seconds("probe.draws=8")
    assert seconds("model=plain", "model.width=32") > seconds("model=plain", "model.width=16")


def test_estimate_leaves_the_global_generator_alone(cell_config):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    CostEstimator().seconds(cell_config())
    assert torch.equal(torch.rand(3), expected)
