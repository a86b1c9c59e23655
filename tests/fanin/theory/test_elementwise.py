"""Detection of elementwise functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fanin.theory.certificate import certify
from fanin.theory.elementwise import elementwise
from fanin.theory.layer_kind import UnpredictableLayer


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.abs().max(),
        lambda x: x / x.abs().min(),
        lambda x: x - x.min(),
        lambda x: x - x.median(),
        lambda x: x / x.square().mean().sqrt(),
        lambda x: (x - x.mean()) / x.std(),
        lambda x: x * (x > 0).double().mean(),
    ],
)
def test_functions_with_statistics_of_the_batch_are_not_elementwise(function) -> None:
    assert elementwise(Function(function)) is None
    model = nn.Sequential(nn.Linear(4, 8), Function(function), nn.Linear(8, 2))
    with pytest.raises(UnpredictableLayer, match="layer 1: "):
        certify(model, torch.rand(2, 4), init="he_normal", theories=("field",), quiet=True)


@pytest.mark.parametrize("module", [nn.GELU(), nn.Threshold(0.1, 20.0), nn.Hardshrink(), nn.SELU()])
def test_activations_are_elementwise(module: nn.Module) -> None:
    assert elementwise(module) is not None


def test_a_function_may_be_undefined_somewhere() -> None:
    assert elementwise(Function(torch.log), equal_nan=True) is not None
