"""Builder of networks: sequences of named layers.

Weight layers are numbered by type (`conv1`, `conv2`, ..., `fc1`, ...). The layers after a weight
layer have its number among *all* weight layers (`norm3`, `act3` and `pool3` follow the third), as
in Caffe's AlexNet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from fanin.activations import channels_per_unit
from fanin.errors import ConfigError
from fanin.models.layers import Flatten, LocalResponseNorm, Norm, SeededDropout, norm_layer

Activation = Callable[[], nn.Module]
"""Function that returns a new activation module: a torch class such as `torch.nn.ReLU`."""

PaddingMode = Literal["zeros", "circular"]

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


@runtime_checkable
class Model(Protocol):
    """Interface of a model, an option of the config group `conf/model/`."""

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Module:
        """Build the network for images of `shape`."""


class NetworkBuilder:
    """Builder of an `nn.Sequential` that names the layers and tracks their shapes.

    Every method adds a layer and returns the builder; `network` returns the result.

    Parameters
    ----------
    shape
        Channels, height and width of the images.
    activation
        Function that returns the activation module after each hidden weight layer.
    norm
        Normalization between each hidden weight layer and its activation, see `norm_layer`.
    padding_mode
        Padding of the convolutions: `zeros` or `circular`.

    Examples
    --------
    >>> builder = NetworkBuilder((1, 28, 28), nn.ReLU).conv(16, kernel_size=3).max_pool(2, stride=2)
    >>> list(dict(builder.readout(10).network().named_children()))
    ['conv1', 'act1', 'pool1', 'flatten', 'fc1']
    """

    def __init__(
        self,
        shape: ImageShape,
        activation: Activation,
        norm: Norm = "none",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        self._channels, *self._sides = shape
        self._flat = False
        self._activation = activation
        self._pieces = channels_per_unit(activation())
        self._norm: Norm = norm
        self._padding_mode = padding_mode
        self._n_conv = 0
        self._n_linear = 0
        self._pools: list[tuple[int, int]] = []
        self._pool_error: str | None = None
        self._layers = nn.Sequential()

    def conv(self, channels: int, kernel_size: int, groups: int = 1) -> NetworkBuilder:
        """Add a convolution that keeps height and width, its norm and its activation.

        `channels` is the number of channels after the activation (see `channels_per_unit`).

        Raises
        ------
        ConfigError
            Circular padding would wrap around the map more than once.
        """
        padding = same_padding(kernel_size)
        if self._padding_mode == "circular" and padding > min(self._sides):
            raise ConfigError(
                f"model: conv{self._n_conv + 1}: circular padding by {padding} wraps around a "
                f"{self._map_size} map more than once; use a kernel_size of at most "
                f"{2 * min(self._sides) + 1}, larger images (data.side) or padding_mode=zeros"
            )
        self._n_conv += 1
        self._add(
            f"conv{self._n_conv}",
            nn.Conv2d(
                self._channels,
                channels * self._pieces,
                kernel_size,
                padding=padding,
                groups=groups,
                padding_mode=self._padding_mode,
            ),
        )
        self._channels = channels
        return self._hidden(channels)

    def dense(self, features: int) -> NetworkBuilder:
        """Add a linear layer, its norm and its activation, which has `features` outputs."""
        self._linear(features * self._pieces)
        self._channels = features
        return self._hidden(features)

    def readout(self, n_outputs: int) -> NetworkBuilder:
        """Add the last linear layer, without norm and activation."""
        return self._linear(n_outputs)

    def max_pool(self, kernel_size: int, stride: int) -> NetworkBuilder:
        """Add a max-pool without padding."""
        name = f"pool{self._n_weight_layers}"
        if min(self._sides) < kernel_size and self._pool_error is None:
            pool = f"{kernel_size}x{kernel_size} pool"
            self._pool_error = f"{name}: a {pool} does not fit on a {self._map_size} map"
        self._pools.append((kernel_size, stride))
        # If the pool does not fit, go on with one position: `network` raises the error.
        self._sides = [max((side - kernel_size) // stride + 1, 1) for side in self._sides]
        self._add(name, nn.MaxPool2d(kernel_size, stride))
        return self

    def global_max_pool(self) -> NetworkBuilder:
        """Add a max-pool over the whole map."""
        height, width = self._sides
        self._add(f"pool{self._n_weight_layers}", nn.MaxPool2d((height, width)))
        self._sides = [1, 1]
        return self

    def local_response_norm(self) -> NetworkBuilder:
        """Add local response normalization."""
        self._add(f"lrn{self._n_weight_layers}", LocalResponseNorm())
        return self

    def dropout(self, p: float) -> NetworkBuilder:
        """Add dropout of probability `p`; if `p` is 0, add nothing."""
        if p > 0:
            self._flatten()
            self._add(f"drop{self._n_weight_layers}", SeededDropout(p, (self._channels,)))
        return self

    def network(self) -> nn.Sequential:
        """Return the network.

        Raises
        ------
        ConfigError
            A pool does not fit on its map.
        """
        if self._pool_error:
            raise ConfigError(
                f"model: {self._pool_error}; set data.side to {self._smallest_side()} or more"
            )
        return self._layers

    @property
    def _n_weight_layers(self) -> int:
        return self._n_conv + self._n_linear

    @property
    def _map_size(self) -> str:
        return "x".join(map(str, self._sides))

    def _add(self, name: str, layer: nn.Module) -> None:
        self._layers.add_module(name, layer)

    def _hidden(self, channels: int) -> NetworkBuilder:
        norm = norm_layer(self._norm, channels * self._pieces, after_linear=self._flat)
        if norm is not None:
            self._add(f"norm{self._n_weight_layers}", norm)
        self._add(f"act{self._n_weight_layers}", self._activation())
        return self

    def _linear(self, features: int) -> NetworkBuilder:
        self._flatten()
        self._n_linear += 1
        self._add(f"fc{self._n_linear}", nn.Linear(self._channels, features))
        self._channels = features
        return self

    def _flatten(self) -> None:
        if not self._flat:
            self._add("flatten", Flatten())
            self._channels *= self._sides[0] * self._sides[1]
            self._flat = True

    def _smallest_side(self) -> int:
        side = 1
        for kernel_size, stride in reversed(self._pools):
            side = (side - 1) * stride + kernel_size
        return side


def same_padding(kernel_size: int) -> int:
    """Return the padding that keeps the size of a map.

    Raises
    ------
    ValueError
        The kernel size is even.

    Examples
    --------
    >>> same_padding(5)
    2
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}: must be odd")
    return kernel_size // 2
