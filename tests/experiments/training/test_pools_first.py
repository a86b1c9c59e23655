"""A pool before its ReLU gives the same bits, forward and back."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.training.pools_first import pools_first
from fanin.models import AlexNet, TwoLayer

POOLS = {"apart": (2, 2), "overlapping": (3, 2), "dense": (3, 1)}
SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan]


def maps(memory_format: torch.memory_format, *special: float) -> Tensor:
    """Maps of few values, so that windows hold ties, or nothing positive."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 2, (16, 8, 9, 9), generator=rng).float()
    for value in special:
        x[torch.rand(x.shape, generator=rng) < 0.05] = value
    return x.to(memory_format=memory_format)


def there_and_back(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    rng = torch.Generator().manual_seed(1)
    (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=rng))
    return y, gradient


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("special", [[], SPECIAL[:2], SPECIAL[2:4], SPECIAL], ids=str)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_values_and_gradients_are_the_same(pool, special, memory_format):
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(*pool))
    x = maps(memory_format, *special)
    for ours, theirs in zip(
        there_and_back(pools_first(model), x), there_and_back(model, x), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_it_takes_the_models_own_parameters():
    model = TwoLayer(channels=4).build((1, 8, 8), 3, nn.ReLU)
    quick = pools_first(model)
    assert [name for name, _ in quick.named_children()] == [
        *("conv1", "pool1", "act1", "flatten", "fc1")
    ]
    params = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(functional_call(quick, params, x), functional_call(model, params, x))


class Relu6(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=6)


@pytest.mark.parametrize(
    "model",
    [
        TwoLayer().build((1, 8, 8), 3, nn.GELU),
        TwoLayer().build((1, 8, 8), 3, Relu6),
        TwoLayer(pool=False).build((1, 8, 8), 3, nn.ReLU),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.MaxPool2d(2), nn.ReLU()),
        nn.Linear(3, 3),
    ],
)
def test_any_other_order_stays(model):
    assert [*pools_first(model).children()] == [*model.children()]


def test_every_pool_of_a_deep_network_goes_first():
    names = [
        name for name, _ in pools_first(AlexNet().build((3, 32, 32), 10, nn.ReLU)).named_children()
    ]
    for place in (1, 2, 5):
        assert names.index(f"pool{place}") == names.index(f"act{place}") - 1
