"""Blocks of random graphs: modules as users write them, with functions in `forward`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def _wave(x: Tensor) -> Tensor:
    return 0.7 * torch.sin(2 * x) + 0.5 * torch.relu(x) - 0.2 * x


def _own_swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.5 * x)


def _own_leaky_relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def _softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


def _larger_of_two(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.3 * x - 0.1)


def _clipped(x: Tensor) -> Tensor:
    return x.clamp(-1.0, 1.5)


def _root(x: Tensor) -> Tensor:
    return torch.sqrt(1 + x * x) - 1 + 0.5 * x


ACTIVATIONS: dict[str, Function] = {
    **{"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "elu": F.elu},
    **{"sigmoid": torch.sigmoid, "softplus": F.softplus, "wave": _wave, "own swish": _own_swish},
    **{"own leaky relu": _own_leaky_relu, "softsign": _softsign, "larger": _larger_of_two},
    **{"clipped": _clipped, "root": _root},
}
"""Functions that the blocks call: of torch, and made up."""

NORMS = ("none", "none", "batch", "group", "groups of 8", "layer", "instance")
KINDS = (
    *("plain", "residual", "residual", "padded shortcut", "dense", "squeeze-excite", "gate"),
    *("inception", "three terms", "channels last"),
)


@dataclass(frozen=True)
class BlockSpec:
    """Random choices of one block, at any width.

    Attributes
    ----------
    kind
        One of `KINDS`.
    norm
        One of `NORMS`.
    activation
        Key of `ACTIVATIONS`.
    kernel, stride, scale, pool
        Of the block's convolutions, of its branch, and the pooling at its end.
    before
        True for norm and activation before the convolution.
    """

    kind: str
    norm: str
    activation: str
    kernel: int
    stride: int
    scale: float
    pool: str
    before: bool

    @classmethod
    def draw(cls, rng: random.Random, side: int, norms: tuple[str, ...]) -> BlockSpec:
        """Draw a block for maps of a size."""
        return cls(
            rng.choice(KINDS),
            rng.choice(norms),
            rng.choice(sorted(ACTIVATIONS)),
            rng.choice([1, 3, 3, 3]),
            rng.choice([1, 1, 2]) if side >= 4 else 1,
            rng.choice([1.0, 0.5, 0.3]),
            rng.choice(["", "", "", "max", "mean"]) if side >= 6 else "",
            rng.random() < 0.5,
        )

    def build(self, n_in: int, width: int) -> Block:
        """Build the block for maps of `n_in` channels."""
        return BLOCKS[self.kind](self, n_in, width)

    def __str__(self) -> str:
        words = [self.kind, self.activation, f"{self.kernel}x{self.kernel}"]
        words += [self.norm] if self.norm != "none" else []
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [f"scale {self.scale}"] if self.scale != 1 else []
        words += [f"{self.pool}-pool"] if self.pool else []
        return ", ".join(words) + (", norm first" if self.before else "")


class Block(nn.Module):
    """A block with `n_out` output channels."""

    def __init__(self, spec: BlockSpec, n_in: int, n_out: int) -> None:
        super().__init__()
        self.spec, self.n_in, self.n_out = spec, n_in, n_out
        self.act = ACTIVATIONS[spec.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, after its pooling."""
        x = self.run(x)
        if self.spec.pool == "max":
            return F.max_pool2d(x, 2)
        return F.avg_pool2d(x, 2) if self.spec.pool == "mean" else x

    def run(self, x: Tensor) -> Tensor:
        """Return the output before the pooling."""
        raise NotImplementedError

    def unit(self, n_in: int, n_out: int, stride: int = 1) -> ConvUnit:
        """Build a convolution with the norm and the activation of the block."""
        return ConvUnit(self.spec, n_in, n_out, stride)


class ConvUnit(nn.Module):
    """A convolution, a norm and an activation, in one of two orders."""

    def __init__(self, spec: BlockSpec, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.before, self.act = spec.before, ACTIVATIONS[spec.activation]
        kernel = spec.kernel
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2)
        self.norm = make_norm(spec.norm, n_in if spec.before else n_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            return self.conv(self.act(self.norm(x)))
        return self.act(self.norm(self.conv(x)))


def make_norm(kind: str, channels: int) -> nn.Module:
    """Return a normalization of maps."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(4, channels)
        case "groups of 8":
            return nn.GroupNorm(channels // 8, channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "instance":
            return nn.InstanceNorm2d(channels)
    return nn.Identity()


class Plain(Block):
    """Two convolutions in a row, the second in two groups."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, width)
        self.first = self.unit(n_in, width, spec.stride)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)

    def run(self, x: Tensor) -> Tensor:
        return self.act(self.grouped(self.first(x)))


class Residual(Block):
    """A branch of two convolutions and a shortcut, projected where needed."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, width)
        self.first = self.unit(n_in, width, spec.stride)
        self.second = self.unit(width, width)
        changes = spec.stride > 1 or n_in != width
        self.project = nn.Conv2d(n_in, width, 1, spec.stride) if changes else None

    def run(self, x: Tensor) -> Tensor:
        shortcut = x if self.project is None else self.project(x)
        y = self.second(self.first(x))
        y = y * self.spec.scale + shortcut
        return y if self.spec.before else self.act(y)


class PaddedShortcut(Block):
    """A residual block that takes every second pixel and appends channels of zeros."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, 2 * n_in)
        self.first = self.unit(n_in, 2 * n_in, spec.stride)

    def run(self, x: Tensor) -> Tensor:
        stride, added = self.spec.stride, self.n_out - self.n_in
        shortcut = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, added // 2, added - added // 2))
        out = self.first(x)
        out += shortcut
        return out if self.spec.before else self.act(out)


class Dense(Block):
    """A convolution's output appended to its input, then a 1x1 convolution."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, width)
        self.first = self.unit(n_in, width)
        self.second = self.unit(n_in + width, width)
        self.transition = nn.Conv2d(n_in + 2 * width, width, 1, spec.stride)

    def run(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.first(x)], 1)
        x = torch.cat([self.second(x), x], 1)
        return self.transition(self.act(x))


class SqueezeExcite(Block):
    """A branch times a gate per channel, which is computed from its mean over positions."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, n_in)
        self.branch = self.unit(n_in, n_in)
        self.squeeze = nn.Linear(n_in, width)
        self.excite = nn.Linear(width, n_in)

    def run(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        gate = self.excite(self.act(self.squeeze(y.mean(dim=(2, 3)))))
        y = y * gate.sigmoid()[:, :, None, None]
        return x + self.spec.scale * y


class Gate(Block):
    """Half of a convolution's channels, times a function of the other half."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, width)
        self.conv = nn.Conv2d(n_in, 2 * width, 3, spec.stride, padding=1)
        self.norm = make_norm(spec.norm, width)

    def run(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, dim=1)
        return self.act(self.norm(a)) * torch.sigmoid(b)


class Inception(Block):
    """Concatenation of a convolution, a max-pool and a mean-pool with convolutions."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, 2 * width)
        self.first = self.unit(n_in, width)
        self.of_max = nn.Conv2d(n_in, width // 2, 1)
        self.of_mean = nn.Conv2d(n_in, width // 2, 1)

    def run(self, x: Tensor) -> Tensor:
        of_max = self.act(self.of_max(F.max_pool2d(x, 3, 1, padding=1)))
        of_mean = self.of_mean(F.avg_pool2d(x, 3, 1, padding=1))
        return torch.cat((self.first(x), of_max, of_mean), dim=1)


class ThreeTerms(Block):
    """A sum of the input and two branches, one of which is subtracted."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, n_in)
        self.first = self.unit(n_in, n_in)
        self.second = nn.Conv2d(n_in, n_in, 1)

    def run(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.add(x, y, alpha=self.spec.scale)
        return y - 0.5 * self.second(self.act(x))


class ChannelsLast(Block):
    """A normalization over channels and two linear layers at each position."""

    def __init__(self, spec: BlockSpec, n_in: int, width: int) -> None:
        super().__init__(spec, n_in, n_in)
        self.norm = nn.LayerNorm(n_in) if spec.before else nn.RMSNorm(n_in)
        self.expand = nn.Linear(n_in, 2 * width)
        self.reduce = nn.Linear(2 * width, n_in)

    def run(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.reduce(self.act(self.expand(y))).permute(0, 3, 1, 2)
        return x + self.spec.scale * y


BLOCKS: dict[str, Callable[[BlockSpec, int, int], Block]] = {
    **{"plain": Plain, "residual": Residual, "padded shortcut": PaddedShortcut, "dense": Dense},
    **{"squeeze-excite": SqueezeExcite, "gate": Gate, "inception": Inception},
    **{"three terms": ThreeTerms, "channels last": ChannelsLast},
}


class Readout(nn.Module):
    """Mean over positions, maximum or flattening, an optional hidden layer, and ten outputs."""

    def __init__(self, kind: str, hidden: bool, n_in: int, side: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        features = n_in * side**2 if kind == "flat" else n_in
        self.hidden = nn.Linear(features, width) if hidden else None
        self.norm = nn.LayerNorm(width) if hidden else None
        self.out = nn.Linear(width if hidden else features, 10)

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "mean":
                x = x.mean([-2, -1])
            case "max":
                x = x.amax(dim=(2, 3))
            case _:
                x = x.view(x.size(0), -1)
        if self.hidden is not None and self.norm is not None:
            x = torch.tanh(self.norm(self.hidden(x)))
        return self.out(x)
