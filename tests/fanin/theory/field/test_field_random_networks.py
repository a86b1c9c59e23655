"""Theory `field` agrees with draws of random networks: layers, init, activation, image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from field_networks import Weights, extrapolated_z_scores, image, rejected_scores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

SIDE = 7
WIDTHS = (32, 64)


class ArbitraryActivation(nn.Module):
    """An activation that is in no library."""

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
    st.builds(ArbitraryActivation, tenths, tenths, tenths),
)
pools = st.sampled_from(
    [
        lambda: None,
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d(3, 2),
        lambda: nn.AvgPool2d(2),
        lambda: nn.AvgPool2d(3, 1, padding=1),
    ]
).map(lambda factory: factory())


@dataclass(frozen=True)
class Block:
    """A convolution, its activation and a pooling."""

    kernel: int
    stride: int
    padding_mode: str
    groups: int
    activation: nn.Module
    pool: nn.Module | None

    def modules(self, in_channels: int, out_channels: int) -> list[nn.Module]:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            padding_mode=self.padding_mode,
            groups=self.groups,
        )
        return [conv, self.activation, *([self.pool] if self.pool else [])]


@dataclass(frozen=True)
class RandomNetwork:
    """A random network, to build at any width."""

    blocks: tuple[Block, ...]
    global_pool: bool
    dense_activation: nn.Module | None

    def build(self, width: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for number, block in enumerate(self.blocks):
            modules += block.modules(2 if number == 0 else width, width)
        modules += [*([nn.AdaptiveAvgPool2d(1)] if self.global_pool else []), nn.Flatten()]
        features = nn.Sequential(*modules)(torch.zeros(1, 2, SIDE, SIDE)).shape[1]
        if self.dense_activation is not None:
            modules += [nn.Linear(features, width), self.dense_activation]
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
def random_networks(draw) -> RandomNetwork:
    side, valid_blocks = SIDE, []
    for block in draw(st.lists(blocks, min_size=1, max_size=3)):
        # Drop strides and poolings that do not fit the remaining map.
        block = block if side > 3 else replace(block, stride=1)
        side = (side - 1) // block.stride + 1
        block = block if side >= 3 else replace(block, pool=None)
        if block.pool is not None:
            side = block.pool(torch.zeros(1, 1, side, side)).shape[-1]
        valid_blocks.append(block)
    dense_activation = draw(st.one_of(st.none(), activations))
    return RandomNetwork(tuple(valid_blocks), draw(st.booleans()), dense_activation)


weights = st.builds(
    Weights, gain=st.sampled_from([1.0, 2**0.5]), mean_ratio=st.sampled_from([0.0, 0.0, 0.5, 1.5])
)


@pytest.mark.slow
def test_random_networks_agree_with_predictions():
    scores: dict = {}
    descriptions: dict = {}

    @settings(
        max_examples=16,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(random_networks(), weights, st.booleans(), st.integers(0, 3))
    def collect(network, weights, zero_sum, seed):
        x = image(seed=seed)
        x = x - x.mean() if zero_sum else x
        number = len(descriptions)
        descriptions[number] = f"{weights} zero_sum={zero_sum} {network.build(WIDTHS[0])}"
        z_scores = extrapolated_z_scores(network.build, WIDTHS, weights, x, draws=200, seed=seed)
        scores.update({(number, *key): z for key, z in z_scores.items()})

    collect()
    significant = rejected_scores(scores)
    print({k: round(z, 1) for k, z in significant.items()})
    assert not significant, "\n".join(
        f"{key}: z={z:.1f} {descriptions[key[0]]}" for key, z in significant.items()
    )
