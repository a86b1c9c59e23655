"""One convolution and one linear layer: the smallest network that can be called a CNN."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt
from torch import nn

from fanin.models.norms import Norm
from fanin.models.sequence import Activation, ImageShape, PaddingMode, Stack, same_padding


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
        As in every model, see `Stack`.
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
        stack = Stack(shape, activation, self.norm, self.padding_mode)
        stack.conv(self.channels, self.kernel_size)
        if self.pool:
            stack.max_pool(2, stride=2)
        return stack.readout(n_outputs).network()
