"""The cache key includes everything that the result depends on, and nothing else."""

from __future__ import annotations

import sys
from itertools import count

import pytest
import torch
from torch import nn

from fanin.theory.cache import memoized

KEYS = count()  # a new key for every call of a helper


class Power(nn.Module):
    """A user-defined activation with a number, and a function that may not be hashable."""

    def __init__(self, exponent: float, function: object = None) -> None:
        super().__init__()
        self.exponent = exponent
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() ** self.exponent


def is_cached(*depends_on: object) -> bool:
    """Return True if a second call uses the cache."""
    calls: list[int] = []
    name = f"test {next(KEYS)}"
    for _ in range(2):
        memoized(name, lambda: calls.append(1), *depends_on)
    return len(calls) < 2


def have_equal_keys(first: object, second: object) -> bool:
    """Return True if the second argument gets the cached result of the first."""
    calls: list[int] = []
    name = f"test {next(KEYS)}"
    for argument in (first, second):
        memoized(name, lambda: calls.append(1), argument)
    return len(calls) == 1


def make_network(activation: nn.Module, width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), activation, nn.Linear(width, 2))


def test_cache_key_ignores_weights_but_not_structure() -> None:
    assert have_equal_keys(make_network(nn.ReLU()), make_network(nn.ReLU()))
    assert not have_equal_keys(make_network(nn.ReLU()), make_network(nn.Tanh()))
    assert not have_equal_keys(make_network(nn.ReLU()), make_network(nn.ReLU(), width=5))
    assert not have_equal_keys(nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, padding=1))
    zeros, circular = (nn.Conv2d(1, 2, 3, 1, 1, padding_mode=m) for m in ("zeros", "circular"))
    assert not have_equal_keys(zeros, circular)
    assert not have_equal_keys(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))


def test_cache_key_includes_activation_state() -> None:
    assert have_equal_keys(make_network(Power(2.0)), make_network(Power(2.0)))
    assert not have_equal_keys(make_network(Power(2.0)), make_network(Power(3.0)))
    assert not have_equal_keys(make_network(nn.LeakyReLU(0.1)), make_network(nn.LeakyReLU(0.2)))
    assert not have_equal_keys(make_network(nn.PReLU(init=0.1)), make_network(nn.PReLU(init=0.2)))


def test_cache_key_includes_mode_and_layer_sharing() -> None:
    assert not have_equal_keys(nn.Dropout(0.5).train(), nn.Dropout(0.5).eval())
    layer = nn.Linear(3, 3)
    assert not have_equal_keys(nn.Sequential(layer, layer), nn.Sequential(layer, nn.Linear(3, 3)))


def test_cache_key_includes_tensor_value_shape_and_dtype() -> None:
    x = torch.arange(4.0)
    assert have_equal_keys(x, x.clone())
    assert have_equal_keys(x.bfloat16(), x.bfloat16())
    for changed in (x + 1, x.double(), x.reshape(2, 2)):
        assert not have_equal_keys(x, changed)


def test_unhashable_arguments_disable_the_cache() -> None:
    assert is_cached(make_network(nn.ReLU()))
    assert not is_cached(make_network(Power(2.0, function=object())))
    hooked = make_network(nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    assert not is_cached(hooked)


FACTOR = 2.0


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


class Scaled(nn.Module):
    power = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return FACTOR * halved(x) ** self.power


def redefined_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


def redefined_function(x: torch.Tensor) -> torch.Tensor:
    return x / 3


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (Scaled, "forward", redefined_forward),
        (Scaled, "power", 2),
        (sys.modules[__name__], "FACTOR", 3.0),
        (sys.modules[__name__], "halved", redefined_function),
    ],
)
def test_a_redefined_class_has_another_key(monkeypatch, owner, name, value) -> None:
    calls: list[int] = []

    def compute() -> None:
        memoized(f"test redefined {name}", lambda: calls.append(1), make_network(Scaled()))

    compute()
    compute()
    assert len(calls) == 1
    monkeypatch.setattr(owner, name, value)
    compute()
    assert len(calls) == 2
