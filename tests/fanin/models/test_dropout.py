"""Dropout: the same masks for the same seed, whatever else runs."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fanin.models import AlexNet, Mlp, dropout_masks

BATCH = 64


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return AlexNet(dropout=0.25).build((1, 28, 28), 10, nn.ReLU)


def masks(network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32):
    return dropout_masks(network, BATCH, torch.Generator().manual_seed(seed), dtype)


def test_masks_depend_on_their_generator_alone(network: nn.Sequential):
    first = masks(network)
    torch.manual_seed(123)
    again, other = masks(network), masks(network, seed=1)
    assert list(first) == ["drop5.mask", "drop6.mask"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    double = masks(network, dtype=torch.float64)
    assert all(torch.equal(first[name] == 0, double[name] == 0) for name in first)


def test_masks_drop_a_share_p_and_keep_the_mean(network: nn.Sequential):
    for mask in masks(network, dtype=torch.float64).values():
        assert set(mask.unique().tolist()) == {0.0, 1 / 0.75}
        standard_error = math.sqrt(0.25 / 0.75 / mask.numel())
        assert abs(mask.mean().item() - 1) < 4 * standard_error


def test_a_network_without_dropout_has_no_masks():
    assert masks(Mlp().build((1, 7, 7), 10, nn.ReLU)) == {}


def test_evaluation_drops_nothing(network: nn.Sequential):
    batch = torch.rand(BATCH, 1, 28, 28)
    whole = AlexNet().build((1, 28, 28), 10, nn.ReLU)
    whole.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(batch), whole(batch))


def test_training_without_masks_is_refused(network: nn.Sequential):
    with pytest.raises(RuntimeError, match="dropout_masks"):
        network.train()(torch.rand(BATCH, 1, 28, 28))


def test_masks_go_through_vmap_with_one_set_per_cell(network: nn.Sequential):
    network.train()
    batch = torch.rand(BATCH, 1, 28, 28)
    cells = [masks(network, seed) for seed in range(3)]
    alone = [functional_call(network, cell, (batch,)) for cell in cells]
    stacked = {name: torch.stack([cell[name] for cell in cells]) for name in cells[0]}
    together = vmap(lambda cell: functional_call(network, cell, (batch,)))(stacked)
    torch.testing.assert_close(together, torch.stack(alone))
    assert not torch.allclose(alone[0], alone[1])
