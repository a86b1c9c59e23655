"""VGG networks (Simonyan & Zisserman 2015), adapted to small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt
from torch import nn

from fanin.models.base import Activation, ImageShape, NetworkBuilder, PaddingMode
from fanin.models.layers import Norm

# Convolutions of each block (table 1: configurations A, B, D and E).
CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MULTIPLES = (1, 2, 4, 8, 8)  # channels of each block, in units of `width`


@dataclass(frozen=True)
class Vgg:
    """Convolutions of 3x3 in five blocks, and a linear layer.

    A 2x2 max-pool follows each block, so images need a side of 32 or more. The paper, for images
    of 224 pixels, has three linear layers with dropout after the last pool; as usual for CIFAR,
    this form has one. `depth` counts the paper's three.

    Parameters
    ----------
    depth
        Name of the configuration: 11, 13, 16 or 19.
    width
        Channels of the first convolution (64 in the paper).
    padding_mode, norm
        See `NetworkBuilder`; the paper has no normalization.
    """

    depth: Literal[11, 13, 16, 19] = 16
    width: PositiveInt = 64
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Raises
        ------
        ConfigError
            The images are too small for the pools.

        Examples
        --------
        >>> network = Vgg(depth=11).build((3, 32, 32), 10, nn.ReLU)
        >>> [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
        [64, 128, 256, 256, 512, 512, 512, 512]
        """
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        for convs, multiple in zip(CONVS[self.depth], MULTIPLES, strict=True):
            for _ in range(convs):
                builder.conv(self.width * multiple, kernel_size=3)
            builder.max_pool(2, stride=2)
        return builder.readout(n_outputs).network()
