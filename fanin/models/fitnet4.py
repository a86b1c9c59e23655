"""FitNet-4 (Romero et al. 2015), as Mishkin & Matas (2016) train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from fanin.models.base import Activation, ImageShape, NetworkBuilder, PaddingMode
from fanin.models.layers import Norm

# Channels of the convolutions in the paper, block by block.
BLOCKS = ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6)


@dataclass(frozen=True)
class FitNet4:
    """Deep, narrow network: 17 convolutions of 3x3 in three blocks, and a linear layer.

    A max-pool follows each block. The first two are 2x2 and the last covers the whole map, so
    images need a side of 4 or more. Channels are counted after the activation: with maxout the
    convolutions have twice as many.

    Parameters
    ----------
    width
        Channels of the first convolution (32 in the paper).
    dropout
        Dropout probability before the linear layer.
    padding_mode, norm
        See `NetworkBuilder`.
    """

    width: PositiveInt = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
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
        >>> network = FitNet4(width=32).build((3, 32, 32), 10, nn.ReLU)
        >>> sorted({m.out_channels for m in network if isinstance(m, nn.Conv2d)})
        [32, 48, 80, 128]
        """
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        for block, channels in enumerate(BLOCKS):
            for c in channels:
                builder.conv(max(1, round(c / BLOCKS[0][0] * self.width)), kernel_size=3)
            if block < len(BLOCKS) - 1:
                builder.max_pool(2, stride=2)
        return builder.global_max_pool().dropout(self.dropout).readout(n_outputs).network()
