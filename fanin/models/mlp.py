"""A multilayer perceptron: the network for which the theory is oldest and sharpest."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt
from torch import nn

from fanin.models.norms import Norm
from fanin.models.sequence import Activation, ImageShape, Stack


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
        As in every model, see `Stack`.
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
        stack = Stack(shape, activation, self.norm)
        for _ in range(self.depth - 1):
            stack.dense(self.width)
        return stack.readout(n_outputs).network()
