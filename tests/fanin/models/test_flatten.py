"""A flattened map, and the format in which its gradient comes back."""

import pytest
import torch
from torch import Tensor, nn

from fanin.models import TwoLayer
from fanin.models.flatten import Flatten


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
