"""Residual networks for small images (He et al. 2016a, section 4.2, and 2016b)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from fanin.activations import channels_per_unit
from fanin.errors import ConfigError
from fanin.models.base import Activation, ImageShape
from fanin.models.layers import Flatten, norm_layer
from fanin.models.scalars import Multiplier, ScalarBias

N_STAGES = 3


@dataclass(frozen=True)
class ResNet:
    """Convolution, three stages of residual blocks, global mean and linear layer.

    The second and third stage begin with a stride of 2 and have twice the channels of the stage
    before. Each block adds a branch of two 3x3 convolutions to its input. Convolutions have a bias
    only if neither `norm` nor `scalars` replaces it. The images may have any size.

    Parameters
    ----------
    depth
        Number of weight layers without those of shortcuts: 6n + 2 for n blocks per stage.
    width
        Channels of the first stage (16 in the paper).
    version
        `v1` has an activation after each sum (He et al. 2016a). `v2` has norm and activation before
        each convolution and none after the sum (He et al. 2016b). As in their code, the shortcuts
        of the first block and of projections start after the activation.
    norm
        `none`, `batch` or `group`, see `norm_layer`.
    shortcut
        Shortcut if the number of channels changes. `A` takes every second pixel and appends
        channels of zeros, `B` is a 1x1 convolution with stride 2 (in `v1` followed by `norm`).
    zero_init
        Start each branch at zero, whatever the init: the scale of the last norm (Goyal et al.
        2017), or, if the branch ends with a convolution (`v2`, or no norm), that convolution.
    scalars
        Learnable scalars. `multiplier` has one at the end of each branch (`Multiplier`), which
        the init `skipinit` needs. `fixup` also has a `ScalarBias` before each convolution, linear
        layer and activation (Zhang et al. 2019); use it with the init `fixup`.

    Raises
    ------
    ValueError
        `depth` is not 6n + 2, or `scalars=fixup` is combined with a norm.
    """

    depth: PositiveInt = 20
    width: PositiveInt = 16
    version: Literal["v1", "v2"] = "v1"
    norm: Literal["none", "batch", "group"] = "batch"
    shortcut: Literal["A", "B"] = "A"
    zero_init: bool = False
    scalars: Literal["none", "multiplier", "fixup"] = "none"

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            below = max(8, (self.depth - 2) // 6 * 6 + 2)
            raise ValueError(
                f"depth={self.depth}: must be 6n + 2 for n blocks in each of the three stages; "
                f"the nearest are {below} and {below + 6}"
            )
        if self.scalars == "fixup" and self.norm != "none":
            raise ValueError(
                f"scalars=fixup replaces the normalization: set norm=none (got norm={self.norm}),"
                " or scalars=multiplier"
            )

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Raises
        ------
        ConfigError
            The activation changes the number of channels (maxout).

        Examples
        --------
        >>> network = ResNet(depth=8, version="v2").build((3, 32, 32), 10, nn.ReLU)
        >>> list(dict(network.named_children()))  # doctest: +NORMALIZE_WHITESPACE
        ['conv1', 'norm1', 'act1', 'block1', 'block2', 'block3', 'norm7', 'act7',
         'pool7', 'flatten', 'fc1']
        >>> list(dict(network.block2.branch.named_children()))
        ['conv1', 'norm2', 'act2', 'conv2']
        >>> sum(p.numel() for p in ResNet().build((3, 32, 32), 10, nn.ReLU).parameters())
        269722
        """
        if channels_per_unit(activation()) > 1:
            raise ConfigError(
                f"model=resnet: activation={type(activation()).__name__.lower()} changes the number"
                " of channels, but residual sums need equal numbers; choose an elementwise"
                " activation, such as relu"
            )
        last = self.depth - 1  # number of the last convolution
        layers = _Layers()
        layers.add("conv1", self._conv(shape[0], self.width))
        self._activate(layers, "1", self.width, activation)
        channels, n_blocks = self.width, (self.depth - 2) // 6
        for number in range(N_STAGES * n_blocks):
            stage = number // n_blocks
            features = self.width * 2**stage
            layers.add(f"block{number + 1}", self._block(number, channels, features, activation))
            channels = features
        if self.version == "v2":
            self._activate(layers, str(last), channels, activation)
        layers.add(f"pool{last}", nn.AdaptiveAvgPool2d(1))
        layers.add("flatten", Flatten())
        layers.add("bias_fc1", self._bias())
        layers.add("fc1", nn.Linear(channels, n_outputs))
        return layers.network

    def _block(self, number: int, n_in: int, n_out: int, activation: Activation) -> ResidualBlock:
        before, branch, stride = _Layers(), _Layers(), 1 if n_in == n_out else 2
        if self.version == "v2" and number > 0:  # the first block follows an activation
            self._activate(branch if stride == 1 else before, "1", n_in, activation)
        branch.add("bias_conv1", self._bias())
        branch.add("conv1", self._conv(n_in, n_out, stride))
        second = "1" if self.version == "v1" else "2"
        self._activate(branch, second, n_out, activation)
        branch.add("bias_conv2", self._bias())
        ends_with_conv = self.version == "v2" or self.norm == "none"
        branch.add("conv2", self._conv(n_out, n_out, is_zero=self.zero_init and ends_with_conv))
        if not ends_with_conv:
            norm = self._norm(n_out)
            if self.zero_init and isinstance(norm, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.zeros_(norm.weight)
            branch.add("norm2", norm)
        branch.add("scale", None if self.scalars == "none" else Multiplier())
        if self.version == "v1":
            branch.add("bias_act2", self._bias())
        return ResidualBlock(
            branch.network,
            self._shortcut(n_in, n_out),
            before.network if len(before.network) else None,
            activation() if self.version == "v1" else None,
            self.zero_init,
        )

    def _shortcut(self, n_in: int, n_out: int) -> nn.Module | None:
        if n_in == n_out:
            return None
        if self.shortcut == "A":
            return PaddedShortcut(n_out - n_in)
        layers = _Layers()
        layers.add("bias_conv", self._bias())
        layers.add("conv", self._conv(n_in, n_out, stride=2, kernel_size=1))
        if self.version == "v1":
            layers.add("norm", self._norm(n_out))
        return layers.network

    def _activate(
        self, layers: _Layers, number: str, channels: int, activation: Activation
    ) -> None:
        """Add norm or scalar bias, and activation."""
        layers.add(f"norm{number}", self._norm(channels))
        layers.add(f"bias_act{number}", self._bias())
        layers.add(f"act{number}", activation())

    def _conv(
        self, n_in: int, n_out: int, stride: int = 1, kernel_size: int = 3, is_zero: bool = False
    ) -> nn.Conv2d:
        bias = self.norm == "none" and self.scalars != "fixup"
        kind = ZeroConv2d if is_zero else nn.Conv2d
        return kind(n_in, n_out, kernel_size, stride, padding=kernel_size // 2, bias=bias)

    def _norm(self, channels: int) -> nn.Module | None:
        return norm_layer(self.norm, channels, after_linear=False)

    def _bias(self) -> ScalarBias | None:
        return ScalarBias() if self.scalars == "fixup" else None


class ResidualBlock(nn.Module):
    """Sum of a branch and a shortcut.

    Parameters
    ----------
    branch
        Layers of the branch.
    shortcut
        Layers of the shortcut; None for the identity.
    before
        Layers before branch and shortcut separate.
    after
        Activation after the sum.
    zero_init
        True if the branch starts at zero; the init `skipinit` then raises an error.
    """

    residual_branch = ("branch",)
    """Children that form the branch, for the inits `fixup` and `skipinit`."""

    def __init__(
        self,
        branch: nn.Sequential,
        shortcut: nn.Module | None = None,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.zero_init = zero_init
        self.before = before
        self.branch = branch
        self.shortcut = shortcut
        self.after = after

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the sum, after the activation if there is one."""
        if self.before is not None:
            x = self.before(x)
        y = self.branch(x)
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return y if self.after is None else self.after(y)


class PaddedShortcut(nn.Module):
    """Every second pixel, with channels of zeros appended (He et al. 2016a, option A).

    Examples
    --------
    >>> import torch
    >>> PaddedShortcut(3)(torch.ones(1, 2, 5, 4)).shape
    torch.Size([1, 5, 3, 2])
    """

    def __init__(self, n_zeros: int) -> None:
        super().__init__()
        self.n_zeros = n_zeros

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the smaller map."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.n_zeros))

    def extra_repr(self) -> str:
        """Return the parameters that `print` shows."""
        return f"n_zeros={self.n_zeros}"


class ZeroConv2d(nn.Conv2d):
    """Convolution that starts at zero, whatever the init scheme of the model."""

    zero_init = True


class _Layers:
    """Sequence of named layers that leaves out None."""

    def __init__(self) -> None:
        self.network = nn.Sequential()

    def add(self, name: str, layer: nn.Module | None) -> None:
        if layer is not None:
            self.network.add_module(name, layer)
