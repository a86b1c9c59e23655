"""Theory 3 agrees with draws of networks that nobody chose: layers, init, activation, image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from field_networks import Weights, image, rejected, z_scores_of_the_limit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

SIDE = 7
WIDTHS = (32, 64)


class MadeUp(nn.Module):
    """An activation that no library has."""

    def __init__(self, wave: float, kink: float, slope: float) -> None:
        super().__init__()
        self.wave, self.kink, self.slope = wave, kink, slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wave * torch.sin(2 * x) + self.kink * torch.relu(x) + self.slope * x

    def extra_repr(self) -> str:
        return f"{self.wave}, {self.kink}, {self.slope}"


tenths = st.integers(-10, 10).map(lambda n: n / 10)
activations = st.one_of(
    st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.GELU]).map(
        lambda kind: kind()
    ),
    st.builds(MadeUp, tenths, tenths, tenths),
)
pools = st.sampled_from(
    [
        lambda: None,
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d(3, 2),
        lambda: nn.AvgPool2d(2),
        lambda: nn.AvgPool2d(3, 1, padding=1),
    ]
).map(lambda make: make())


@dataclass(frozen=True)
class Block:
    """A convolution and what follows it."""

    kernel: int
    stride: int
    padding_mode: str
    groups: int
    activation: nn.Module
    pool: nn.Module | None

    def modules(self, inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(
            inputs,
            outputs,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            padding_mode=self.padding_mode,
            groups=self.groups,
        )
        return [conv, self.activation, *([self.pool] if self.pool else [])]


@dataclass(frozen=True)
class Plan:
    """A network of any width."""

    blocks: tuple[Block, ...]
    gap: bool
    dense: nn.Module | None

    def build(self, width: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for number, block in enumerate(self.blocks):
            modules += block.modules(2 if number == 0 else width, width)
        modules += [*([nn.AdaptiveAvgPool2d(1)] if self.gap else []), nn.Flatten()]
        features = nn.Sequential(*modules)(torch.zeros(1, 2, SIDE, SIDE)).shape[1]
        if self.dense is not None:
            modules += [nn.Linear(features, width), self.dense]
            features = width
        return nn.Sequential(*modules, nn.Linear(features, 10))


blocks = st.builds(
    Block,
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 1, 2]),
    padding_mode=st.sampled_from(["zeros", "zeros", "circular"]),
    groups=st.sampled_from([1, 1, 2]),
    activation=activations,
    pool=pools,
)


@st.composite
def plans(draw) -> Plan:
    side, kept = SIDE, []
    for block in draw(st.lists(blocks, min_size=1, max_size=3)):
        # Maps shrink; what has no room left is left out.
        block = block if side > 3 else replace(block, stride=1)
        side = (side - 1) // block.stride + 1
        block = block if side >= 3 else replace(block, pool=None)
        if block.pool is not None:
            side = block.pool(torch.zeros(1, 1, side, side)).shape[-1]
        kept.append(block)
    dense = draw(st.one_of(st.none(), activations))
    return Plan(tuple(kept), draw(st.booleans()), dense)


weights = st.builds(
    Weights, gain=st.sampled_from([1.0, 2**0.5]), tilt=st.sampled_from([0.0, 0.0, 0.5, 1.5])
)


@pytest.mark.slow
def test_random_networks_forward_and_backward():
    scores: dict = {}
    told: dict = {}

    @settings(
        max_examples=16,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(), weights, st.booleans(), st.integers(0, 3))
    def collect(plan, weights, zero_sum, seed):
        x = image(seed=seed)
        x = x - x.mean() if zero_sum else x
        number = len(told)
        told[number] = f"{weights} zero_sum={zero_sum} {plan.build(WIDTHS[0])}"
        found = z_scores_of_the_limit(plan.build, WIDTHS, weights, x, draws=200, seed=seed)
        scores.update({(number, *key): z for key, z in found.items()})

    collect()
    off = rejected(scores)
    print({k: round(z, 1) for k, z in off.items()})
    assert not off, "\n".join(f"{key}: z={z:.1f} {told[key[0]]}" for key, z in off.items())
