"""The counts of FLOPs and bytes of a training step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cells import config, image_shape, models
from benchmarks.limit import StepCost, bandwidth, gemm_rate, step_cost
from experiments.schema import build_cell


@pytest.mark.parametrize("model", models())
def test_the_flops_are_those_that_torch_counts_in_a_step(model):
    shape = image_shape(model)
    data = "cifar10" if shape[0] == 3 else "mnist"
    network = build_cell(config(f"model={model}", f"data={data}")).network()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(torch.zeros(4, *shape)), torch.zeros(4).long()).backward()
    assert step_cost(network, shape, 4).flops == counter.get_total_flops()


def test_the_bytes_of_two_linear_layers_are_those_counted_by_hand():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    first = 5 * 6 + 5 * 4 + 6 * 4  # input, output, weight: in two products
    second = 5 * 4 + 5 * 2 + 4 * 2  # in three products
    parameters = 6 * 4 + 4 + 4 * 2 + 2  # the update reads two and writes one
    expected = 4 * (2 * first + 3 * second + 3 * parameters)
    assert step_cost(network, (6,), 5) == StepCost(2 * 5 * (2 * 24 + 3 * 8), expected, parameters)


def test_every_model_has_images():
    assert {"alexnet", "linear", "mlp", "plain", "two_layer"} <= set(models())
    assert image_shape("alexnet") == (3, 32, 32)
    assert image_shape("linear") == (1, 28, 28)


def test_the_rates_are_positive():
    assert gemm_rate() > 0
    assert bandwidth(1000) > 0
