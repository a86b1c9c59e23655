"""Tests of the layers in fanin.models.layers."""

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
    # Rounding error of the mean of n numbers of size 6.
    assert centred.mean(dim=(0, 2, 3)).abs().max() < 8 * 6 * 6 * 6 * EPS
    torch.testing.assert_close(centred.var(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3)))


@pytest.mark.parametrize("norm", ["batch", "mean_only"])
def test_norms_use_batch_statistics_in_evaluation(norm: str):
    network = TwoLayer(norm=norm).build((1, 14, 14), 10, nn.ReLU).double()
    batch = images(16, 1, 14, 14)
    trained = network.train()(batch)
    assert torch.equal(network.eval()(batch), trained)
    assert not torch.allclose(network(batch[:2]), trained[:2])


def test_layer_norm_does_not_mix_images():
    network = TwoLayer(norm="layer").build((1, 14, 14), 10, nn.ReLU).double()
    batch = images(16, 1, 14, 14)
    torch.testing.assert_close(network(batch[:2]), network(batch)[:2])


@pytest.mark.parametrize("norm", ["batch", "layer", "mean_only"])
@pytest.mark.parametrize("model", [TwoLayer, Mlp])
def test_vmap_gives_each_network_its_gradient(model, norm: str):
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
    gradients = vmap(grad(loss))(stacked)
    for index, cell in enumerate(cells):
        for name, expected in grad(loss)(cell).items():
            torch.testing.assert_close(gradients[name][index], expected, rtol=1e-9, atol=1e-9)


def test_lrn_matches_torch_with_alpha_times_size():
    maps = 30 * torch.randn(2, 7, 4, 4, dtype=torch.float64)
    torch_lrn = nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(maps), torch_lrn(maps))


def test_lrn_uses_two_neighbours_on_each_side():
    maps = torch.zeros(1, 7, 1, 1, dtype=torch.float64)
    maps[0, 3] = 100.0
    inputs = maps.expand(7, 7, 1, 1) + torch.eye(7, dtype=torch.float64)[:, :, None, None]
    outputs = LocalResponseNorm()(inputs)[torch.arange(7), torch.arange(7), 0, 0]
    reduced = outputs < 0.5
    assert reduced.tolist() == [False, True, True, False, True, True, False]


BATCH = 64


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return AlexNet(dropout=0.25).build((1, 28, 28), 10, nn.ReLU)


def masks(network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32):
    return dropout_masks(network, BATCH, torch.Generator().manual_seed(seed), dtype)


def test_masks_depend_only_on_their_generator(network: nn.Sequential):
    first = masks(network)
    torch.manual_seed(123)
    same_seed, other_seed = masks(network), masks(network, seed=1)
    assert list(first) == ["drop5.mask", "drop6.mask"]
    assert all(torch.equal(first[name], same_seed[name]) for name in first)
    assert not any(torch.equal(first[name], other_seed[name]) for name in first)
    double = masks(network, dtype=torch.float64)
    assert all(torch.equal(first[name] == 0, double[name] == 0) for name in first)


def test_masks_drop_a_fraction_p_and_keep_the_mean(network: nn.Sequential):
    for mask in masks(network, dtype=torch.float64).values():
        assert set(mask.unique().tolist()) == {0.0, 1 / 0.75}
        standard_error = math.sqrt(0.25 / 0.75 / mask.numel())
        assert abs(mask.mean().item() - 1) < 4 * standard_error


def test_a_network_without_dropout_has_no_masks():
    assert masks(Mlp().build((1, 7, 7), 10, nn.ReLU)) == {}


def test_evaluation_ignores_dropout(network: nn.Sequential):
    batch = torch.rand(BATCH, 1, 28, 28)
    without_dropout = AlexNet().build((1, 28, 28), 10, nn.ReLU)
    without_dropout.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(batch), without_dropout(batch))


def test_training_needs_masks(network: nn.Sequential):
    with pytest.raises(RuntimeError, match="dropout_masks"):
        network.train()(torch.rand(BATCH, 1, 28, 28))


def test_vmap_uses_separate_masks_per_cell(network: nn.Sequential):
    network.train()
    batch = torch.rand(BATCH, 1, 28, 28)
    cells = [masks(network, seed) for seed in range(3)]
    expected = [functional_call(network, cell, (batch,)) for cell in cells]
    stacked = {name: torch.stack([cell[name] for cell in cells]) for name in cells[0]}
    outputs = vmap(lambda cell: functional_call(network, cell, (batch,)))(stacked)
    torch.testing.assert_close(outputs, torch.stack(expected))
    assert not torch.allclose(expected[0], expected[1])


def gradient_of_map(flatten: nn.Module, x: Tensor) -> Tensor:
    """Return the gradient with respect to the input of `flatten`."""
    gradients: list[Tensor] = []
    x = x.clone().requires_grad_()
    flatten_input = x * 1
    rows = flatten(flatten_input)
    flatten_input.register_hook(gradients.append)
    (rows * torch.arange(rows.numel()).view_as(rows)).sum().backward()
    return gradients[0]


@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
def test_flatten_keeps_the_memory_format_of_the_gradient(memory_format):
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    gradient = gradient_of_map(Flatten(), x)
    assert gradient.is_contiguous(memory_format=memory_format)
    assert torch.equal(gradient, gradient_of_map(nn.Flatten(), x))


def test_models_use_this_flatten():
    assert isinstance(TwoLayer().build((1, 8, 8), 3, nn.ReLU).flatten, Flatten)


def test_layer_norm_keeps_the_difference_between_channels():
    maps = images(1, 2, 4, 4) + torch.tensor([0.0, 10.0], dtype=torch.float64)[:, None, None]
    norm = norm_layer("layer", 2, after_linear=False).double()
    first, second = norm(maps)[0]
    assert second.min() > first.max()
    torch.testing.assert_close(norm(maps).square().mean().item(), 1.0, rtol=1e-6, atol=0)
