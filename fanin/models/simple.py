"""Simple networks: linear, fully connected, two-layer and plain convolutional."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt
from torch import nn

from fanin.models.base import Activation, ImageShape, NetworkBuilder, PaddingMode, same_padding
from fanin.models.layers import Norm


@dataclass(frozen=True)
class Linear:
    """One linear layer from pixels to outputs, without activation."""

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> print(Linear().build((1, 28, 28), 10, nn.ReLU).fc1)
        Linear(in_features=784, out_features=10, bias=True)
        """
        return NetworkBuilder(shape, activation).readout(n_outputs).network()


@dataclass(frozen=True)
class Mlp:
    """Multi-layer perceptron of `depth` linear layers.

    Parameters
    ----------
    depth
        Number of weight layers, including the last one.
    width
        Features of each hidden layer.
    norm
        See `NetworkBuilder`.
    """

    depth: PositiveInt = 3
    width: PositiveInt = 128
    norm: Norm = "none"

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> list(dict(Mlp(depth=2).build((1, 28, 28), 10, nn.ReLU).named_children()))
        ['flatten', 'fc1', 'act1', 'fc2']
        """
        builder = NetworkBuilder(shape, activation, self.norm)
        for _ in range(self.depth - 1):
            builder.dense(self.width)
        return builder.readout(n_outputs).network()


@dataclass(frozen=True)
class TwoLayer:
    """Convolution, activation, optional 2x2 max-pool and linear layer.

    With `channels=1` and the default 3x3 kernel, the convolution has only ten parameters.

    Parameters
    ----------
    channels
        Channels of the convolution.
    kernel_size
        Side of the convolution's kernel, an odd number.
    pool
        Add a 2x2 max-pool after the activation.
    padding_mode, norm
        See `NetworkBuilder`.

    Raises
    ------
    ValueError
        `kernel_size` is even.
    """

    channels: PositiveInt = 16
    kernel_size: PositiveInt = 3
    pool: bool = True
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def __post_init__(self) -> None:
        same_padding(self.kernel_size)

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> network = TwoLayer(channels=1, pool=False).build((1, 28, 28), 10, nn.ReLU)
        >>> sum(p.numel() for p in network.conv1.parameters())
        10
        """
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        builder.conv(self.channels, self.kernel_size)
        if self.pool:
            builder.max_pool(2, stride=2)
        return builder.readout(n_outputs).network()


@dataclass(frozen=True)
class Plain:
    """Plain network: `depth - 1` convolutions of 3x3 with equal width, and a linear layer.

    It has no pooling and no skip connections, like the 22- and 30-layer networks of He et al.
    (2015, section 2.2). Reduce the image size (`data.side`) to make deep networks faster.

    Parameters
    ----------
    depth
        Number of weight layers, including the linear one.
    width
        Channels of each convolution.
    padding_mode, norm
        See `NetworkBuilder`.
    """

    depth: PositiveInt = 10
    width: PositiveInt = 16
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> list(dict(Plain(depth=3).build((1, 7, 7), 10, nn.ReLU).named_children()))
        ['conv1', 'act1', 'conv2', 'act2', 'flatten', 'fc1']
        """
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        for _ in range(self.depth - 1):
            builder.conv(self.width, kernel_size=3)
        return builder.readout(n_outputs).network()
