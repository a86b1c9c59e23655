"""The plainest networks: linear layers, and convolutions without tricks."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt
from torch import nn

from fanin.models.base import Activation, ImageShape, PaddingMode, NetworkBuilder, same_padding
from fanin.models.layers import Norm


@dataclass(frozen=True)
class Linear:
    """One linear layer from pixels to outputs; the activation is not used."""

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Make the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> print(Linear().build((1, 28, 28), 10, nn.ReLU).fc1)
        Linear(in_features=784, out_features=10, bias=True)
        """
        return NetworkBuilder(shape, activation).readout(n_outputs).network()


@dataclass(frozen=True)
class Mlp:
    """`depth` linear layers, the hidden ones all of one width.

    Parameters
    ----------
    depth
        Weight layers, the last one included.
    width
        Features of each hidden layer.
    norm
        As in every model, see `NetworkBuilder`.
    """

    depth: PositiveInt = 3
    width: PositiveInt = 128
    norm: Norm = "none"

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Make the network for images of `shape` (channels, height, width).

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
    """Convolution, activation, 2x2 max-pool or none, linear.

    With `channels=1`, `pool=False` and the default 3x3 kernel it is the smallest possible image
    classifier: ten weights look at the image, the linear layer reads the result.

    Parameters
    ----------
    channels
        Channels of the convolution.
    kernel_size
        Side of its kernel, odd.
    pool
        Whether a 2x2 max-pool follows the activation.
    padding_mode, norm
        As in every model, see `NetworkBuilder`.
    """

    channels: PositiveInt = 16
    kernel_size: PositiveInt = 3
    pool: bool = True
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def __post_init__(self) -> None:
        same_padding(self.kernel_size)

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Make the network for images of `shape` (channels, height, width).

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
    """`depth - 1` convolutions of 3x3, all of one width and full size, and a linear layer.

    No pooling, no shortcuts: the 22- and 30-layer networks of He et al. (2015, section 2.2) at
    the size of small images. Smaller images (`data.side`) make great depth affordable.

    Parameters
    ----------
    depth
        Weight layers, the linear one included.
    width
        Channels of each convolution.
    padding_mode, norm
        As in every model, see `NetworkBuilder`.
    """

    depth: PositiveInt = 10
    width: PositiveInt = 16
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Make the network for images of `shape` (channels, height, width).

        Examples
        --------
        >>> list(dict(Plain(depth=3).build((1, 7, 7), 10, nn.ReLU).named_children()))
        ['conv1', 'act1', 'conv2', 'act2', 'flatten', 'fc1']
        """
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        for _ in range(self.depth - 1):
            builder.conv(self.width, kernel_size=3)
        return builder.readout(n_outputs).network()
