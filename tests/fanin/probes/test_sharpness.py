"""Tests of the sharpness against eigenvalues of the full Hessian."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian

from fanin.probes.sharpness import sharpness


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ).double()


def eigenvalues(model: nn.Module, loss, x: Tensor, y: Tensor) -> Tensor:
    params = {name: p.detach() for name, p in model.named_parameters()}
    shapes = [p.shape for p in params.values()]

    def loss_of(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        named = {n: q.view(s) for n, q, s in zip(params, parts, shapes, strict=True)}
        return loss(functional_call(model, named, (x,)), y)

    return torch.linalg.eigvalsh(
        hessian(loss_of)(torch.cat([p.flatten() for p in params.values()]))
    )


def mse(z: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(z, F.one_hot(y, 3).to(z.dtype))


@pytest.mark.parametrize("loss", [F.cross_entropy, mse], ids=["cross_entropy", "mse"])
@pytest.mark.parametrize("seed", range(5))
def test_sharpness_is_the_largest_hessian_eigenvalue(loss, seed):
    model = network(seed)
    x, y = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    largest = eigenvalues(model, loss, x, y)[-1].item()
    assert sharpness(model, loss, x, y, tolerance=1e-9) == pytest.approx(largest, rel=1e-9)
    assert sharpness(model, loss, x, y) == pytest.approx(largest, rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_layer_sharpness_uses_the_block_of_its_weight(seed):
    model = network(seed)
    x, y = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    for name in ("0.weight", "4.weight"):
        weight = dict(model.named_parameters())[name].detach()

        def loss_of(weight: Tensor, name: str = name) -> Tensor:
            return F.cross_entropy(functional_call(model, {name: weight}, (x,)), y)

        block = hessian(loss_of)(weight).reshape(weight.numel(), weight.numel())
        largest = torch.linalg.eigvalsh(block.detach())[-1].item()
        value = sharpness(model, F.cross_entropy, x, y, parameters={name}, tolerance=1e-9)
        assert value == pytest.approx(largest, rel=1e-9)
        assert value <= sharpness(model, F.cross_entropy, x, y, tolerance=1e-9)


def test_sharpness_is_not_the_largest_absolute_eigenvalue():
    model, x, y = network(), torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    exact = eigenvalues(model, lambda z, t: -F.cross_entropy(z, t), x, y)
    assert -exact[0] > exact[-1] > 0
    value = sharpness(model, lambda z, t: -F.cross_entropy(z, t), x, y)
    assert value == pytest.approx(exact[-1].item(), rel=0.01)


def test_a_concave_loss_has_negative_sharpness():
    torch.manual_seed(0)
    model, x, y = nn.Linear(2, 3).double(), torch.randn(12, 2).double(), torch.arange(12) % 3
    exact = eigenvalues(model, lambda z, t: -mse(z, t), x, y)
    assert exact[-1] < 0
    value = sharpness(model, lambda z, t: -mse(z, t), x, y)
    assert value == pytest.approx(exact[-1].item(), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sharpness_equals_float32(dtype):
    x, y = torch.randn(12, 1, 5, 5).to(dtype), torch.arange(12) % 3
    model = network().to(dtype)
    half = sharpness(model, F.cross_entropy, x, y)
    assert half == sharpness(model.float(), F.cross_entropy, x.float(), y)


def test_sharpness_of_a_non_finite_loss_is_nan():
    x, y = torch.full((4, 1, 5, 5), torch.nan).double(), torch.arange(4) % 3
    assert math.isnan(sharpness(network(), F.cross_entropy, x, y))


def test_a_flat_loss_has_sharpness_0():
    model, x = network(), torch.randn(4, 1, 5, 5).double()
    assert sharpness(model, lambda z, y: 0 * z.sum(), x, torch.zeros(4)) == 0


def test_sharpness_with_batch_norm():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 3), norm, nn.Tanh(), nn.Linear(3, 3)).double()
    x, y = torch.randn(12, 4).double(), torch.arange(12) % 3
    largest = eigenvalues(model, F.cross_entropy, x, y)[-1].item()
    assert sharpness(model, F.cross_entropy, x, y) == pytest.approx(largest, rel=0.01)
