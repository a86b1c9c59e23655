"""A deep plain convolutional network: the one whose signal lives or dies by its initialization."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt
from torch import nn

from fanin.models.norms import Norm
from fanin.models.sequence import Activation, ImageShape, PaddingMode, Stack


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
        As in every model, see `Stack`.
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
        stack = Stack(shape, activation, self.norm, self.padding_mode)
        for _ in range(self.depth - 1):
            stack.conv(self.width, kernel_size=3)
        return stack.readout(n_outputs).network()
