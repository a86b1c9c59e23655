"""AlexNet (Krizhevsky, Sutskever & Hinton 2012), adapted to small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import nn

from fanin.models.base import Activation, ImageShape, NetworkBuilder, PaddingMode
from fanin.models.layers import Norm

CHANNELS_2012 = (96, 256, 384, 384, 256)


@dataclass(frozen=True)
class AlexNet:
    """Five convolutions, three overlapping max-pools, three linear layers.

    The ratios of the channels are those of the paper. The first convolution is 5x5 with stride 1;
    in the paper, for images of 224 pixels, it is 11x11 with stride 4. Pools are 3x3 with stride 2
    as in the paper, so images need a side of 15 or more.

    Parameters
    ----------
    width
        Channels of the first convolution (96 in the paper).
    dense
        Features of the two hidden linear layers (4096 in the paper).
    groups
        Groups of the second, fourth and fifth convolution (2 in the paper, one per GPU).
    lrn
        Add local response normalization after the first two activations.
    dropout
        Dropout probability before each of the first two linear layers (0.5 in the paper).
    padding_mode, norm
        See `NetworkBuilder`.

    Raises
    ------
    ValueError
        `width` is not a multiple of `groups`.
    """

    width: PositiveInt = 24
    dense: PositiveInt = 256
    groups: Literal[1, 2] = 1
    lrn: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    padding_mode: PaddingMode = "zeros"
    norm: Norm = "none"

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ValueError(
                f"width={self.width}: must be a multiple of groups={self.groups}, because the "
                "channels are divided among the groups"
            )

    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        """Build the network for images of `shape` (channels, height, width).

        Raises
        ------
        ConfigError
            The images are too small for the pools.

        Examples
        --------
        >>> network = AlexNet().build((3, 32, 32), 10, nn.ReLU)
        >>> [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
        [24, 64, 96, 96, 64]
        """
        c1, c2, c3, c4, c5 = self._channels()
        builder = NetworkBuilder(shape, activation, self.norm, self.padding_mode)
        builder.conv(c1, kernel_size=5)
        self._maybe_lrn(builder).max_pool(3, stride=2)
        builder.conv(c2, kernel_size=5, groups=self.groups)
        self._maybe_lrn(builder).max_pool(3, stride=2)
        builder.conv(c3, kernel_size=3)
        builder.conv(c4, kernel_size=3, groups=self.groups)
        builder.conv(c5, kernel_size=3, groups=self.groups).max_pool(3, stride=2)
        builder.dropout(self.dropout).dense(self.dense)
        builder.dropout(self.dropout).dense(self.dense)
        return builder.readout(n_outputs).network()

    def _channels(self) -> list[int]:
        per_group = self.width / CHANNELS_2012[0] / self.groups
        return [self.groups * max(1, round(per_group * channels)) for channels in CHANNELS_2012]

    def _maybe_lrn(self, builder: NetworkBuilder) -> NetworkBuilder:
        return builder.local_response_norm() if self.lrn else builder
