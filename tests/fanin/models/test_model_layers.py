"""Layers of our own: norms, local response normalization, dropout, flattening."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fanin.models import AlexNet, MeanOnly, Mlp, TwoLayer, dropout_masks
from fanin.models.layers import Flatten, LocalResponseNorm, norm_layer

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


def test_is_torchs_with_alpha_summed_instead_of_averaged():
    maps = 30 * torch.randn(2, 7, 4, 4, dtype=torch.float64)
    torchs = nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(maps), torchs(maps))


def test_a_channel_is_quieted_by_its_two_neighbours_on_each_side():
    maps = torch.zeros(1, 7, 1, 1, dtype=torch.float64)
    maps[0, 3] = 100.0
    probed = maps.expand(7, 7, 1, 1) + torch.eye(7, dtype=torch.float64)[:, :, None, None]
    small = LocalResponseNorm()(probed)[torch.arange(7), torch.arange(7), 0, 0]
    quiet = small < 0.5
    assert quiet.tolist() == [False, True, True, False, True, True, False]


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


def gradient_of_map(flatten: nn.Module, x: Tensor) -> Tensor:
    """What the layer before is given."""
    given: list[Tensor] = []
    x = x.clone().requires_grad_()
    made = x * 1
    rows = flatten(made)
    made.register_hook(given.append)
    (rows * torch.arange(rows.numel()).view_as(rows)).sum().backward()
    return given[0]


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"]
)
def test_a_gradient_comes_back_in_the_format_of_the_map(memory_format):
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    ours = gradient_of_map(Flatten(), x)
    assert ours.is_contiguous(memory_format=memory_format)
    assert torch.equal(ours, gradient_of_map(nn.Flatten(), x))


def test_models_flatten_so():
    assert isinstance(TwoLayer().build((1, 8, 8), 3, nn.ReLU).flatten, Flatten)


def test_layer_norm_keeps_the_difference_between_channels():
    maps = images(1, 2, 4, 4) + torch.tensor([0.0, 10.0], dtype=torch.float64)[:, None, None]
    norm = norm_layer("layer", 2, after_linear=False).double()
    first, second = norm(maps)[0]
    assert second.min() > first.max()
    torch.testing.assert_close(norm(maps).square().mean().item(), 1.0, rtol=1e-6, atol=0)
