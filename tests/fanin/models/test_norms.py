"""Norms: what they make of a batch, and that they stay functions of it."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fanin.models import MeanOnly, Mlp, TwoLayer

EPS = torch.finfo(torch.float64).eps


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mean_only_centres_each_channel_and_keeps_its_spread():
    maps = 5 + images(8, 3, 6, 6)
    centred = MeanOnly()(maps)
    # Rounding of a sum of n numbers of size 6, divided by n.
    assert centred.mean(dim=(0, 2, 3)).abs().max() < 8 * 6 * 6 * 6 * EPS
    torch.testing.assert_close(centred.var(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3)))


@pytest.mark.parametrize("norm", ["batch", "mean_only"])
def test_evaluation_uses_its_own_batch_too(norm: str):
    network = TwoLayer(norm=norm).build((1, 14, 14), 10, nn.ReLU).double()
    batch = images(16, 1, 14, 14)
    trained = network.train()(batch)
    assert torch.equal(network.eval()(batch), trained)
    assert not torch.allclose(network(batch[:2]), trained[:2])


def test_layer_norm_knows_one_image_only():
    network = TwoLayer(norm="layer").build((1, 14, 14), 10, nn.ReLU).double()
    batch = images(16, 1, 14, 14)
    torch.testing.assert_close(network(batch[:2]), network(batch)[:2])


@pytest.mark.parametrize("norm", ["batch", "layer", "mean_only"])
@pytest.mark.parametrize("model", [TwoLayer, Mlp])
def test_a_stack_of_networks_gives_each_one_its_own_gradient(model, norm: str):
    network = model(norm=norm).build((1, 7, 7), 4, nn.Tanh).double()
    assert not list(network.buffers())
    batch = images(6, 1, 7, 7)

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(network, params, (batch,)).square().sum()

    cells = [
        {name: p.detach() * scale for name, p in network.named_parameters()}
        for scale in (0.5, 1, 2)
    ]
    stacked = {name: torch.stack([cell[name] for cell in cells]) for name in cells[0]}
    together = vmap(grad(loss))(stacked)
    for index, cell in enumerate(cells):
        for name, alone in grad(loss)(cell).items():
            torch.testing.assert_close(together[name][index], alone, rtol=1e-9, atol=1e-9)
