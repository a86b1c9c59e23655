"""Logistic regression: the network without a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fanin.models.sequence import Activation, ImageShape, Stack


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
        return Stack(shape, activation).readout(n_outputs).network()
