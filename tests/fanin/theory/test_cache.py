"""Results are kept by what they depend on, and by nothing less."""

from __future__ import annotations

from itertools import count

import torch
from torch import nn

from fanin.theory.cache import memoized

NUMBERS = count()  # each question of the tests is one of its own


class Power(nn.Module):
    """An activation from outside, with a number that counts and a function that may differ."""

    def __init__(self, exponent: float, function: object = None) -> None:
        super().__init__()
        self.exponent = exponent
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() ** self.exponent


def kept(*depends_on: object) -> bool:
    """Whether a second call is spared."""
    calls: list[int] = []
    what = f"test {next(NUMBERS)}"
    for _ in range(2):
        memoized(what, lambda: calls.append(1), *depends_on)
    return len(calls) < 2


def same(first: object, second: object) -> bool:
    """Whether the second is taken for the first."""
    calls: list[int] = []
    what = f"test {next(NUMBERS)}"
    for each in (first, second):
        memoized(what, lambda: calls.append(1), each)
    return len(calls) == 1


def net(activation: nn.Module, width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), activation, nn.Linear(width, 2))


def test_weights_do_not_count_and_structure_does() -> None:
    assert same(net(nn.ReLU()), net(nn.ReLU()))
    assert not same(net(nn.ReLU()), net(nn.Tanh()))
    assert not same(net(nn.ReLU()), net(nn.ReLU(), width=5))
    assert not same(nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, padding=1))
    zeros, circular = (nn.Conv2d(1, 2, 3, 1, 1, padding_mode=m) for m in ("zeros", "circular"))
    assert not same(zeros, circular)
    assert not same(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))


def test_what_an_activation_holds_counts() -> None:
    assert same(net(Power(2.0)), net(Power(2.0)))
    assert not same(net(Power(2.0)), net(Power(3.0)))
    assert not same(net(nn.LeakyReLU(0.1)), net(nn.LeakyReLU(0.2)))
    assert not same(net(nn.PReLU(init=0.1)), net(nn.PReLU(init=0.2)))


def test_the_mode_counts_and_so_does_sharing_a_layer() -> None:
    assert not same(nn.Dropout(0.5).train(), nn.Dropout(0.5).eval())
    layer = nn.Linear(3, 3)
    assert not same(nn.Sequential(layer, layer), nn.Sequential(layer, nn.Linear(3, 3)))


def test_tensors_count_by_value_shape_and_type() -> None:
    x = torch.arange(4.0)
    assert same(x, x.clone())
    assert same(x.bfloat16(), x.bfloat16())
    for other in (x + 1, x.double(), x.reshape(2, 2)):
        assert not same(x, other)


def test_what_no_key_can_stand_for_is_computed_each_time() -> None:
    assert kept(net(nn.ReLU()))
    assert not kept(net(Power(2.0, function=object())))
    hooked = net(nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    assert not kept(hooked)
