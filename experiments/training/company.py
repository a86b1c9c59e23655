"""The company that networks of a stack need, so that none of their bits depends on the others.

A kernel may take another path over two networks than over three, and another formula for the last
numbers of a tensor than for those before. So a stack ends in copies of one of its networks, which
are thrown away, wherever it has too few networks or tensors that end in the middle of a vector.
The bits of matrix products need MKL_CBWR besides (`experiments/__init__.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from experiments.schema import Cell
from experiments.training.outputs import layer_outputs

# oneDNN convolves by other algorithms below these: measured over 44,800 convolutions each with the
# kernels of AVX2 and of AVX-512 (two groups of three channels; eight channels in all groups
# together, and their outputs a multiple of eight; six maps over groups and images, of few pixels).
LEAST, LEAST_CHANNELS, LEAST_MAPS = 3, 8, 6
# Numbers that a vectorized loop takes at once, at most (AVX-512: two vectors of 16 float32). Those
# left at the end of a tensor go through a scalar formula; the last bits of the two may differ.
VECTOR = 32


@dataclass(frozen=True)
class Company:
    """What the networks of one architecture need beside them.

    Parameters
    ----------
    least
        Networks that a stack has at least.
    fillers
        Copies at the end of a stack, however many networks it has.
    """

    least: int
    fillers: int

    def of(self, places: Sequence[int]) -> list[int]:
        """The places, and then as many copies of the first as they need.

        Examples
        --------
        >>> Company(least=3, fillers=0).of([4, 7])
        [4, 7, 4]
        """
        return [*places, *[places[0]] * max(self.fillers, self.least - len(places))]


def company(cell: Cell, batch_size: int) -> Company:
    """The company that a stack of this cell's networks needs.

    Every tensor's last numbers are the fillers'. Maps lie in memory image by image, within one the
    networks; so do features beside a batch normalization, which counts all networks' features as
    its own. Everything else lies network by network. Where the batch is a multiple of `VECTOR`, so
    is every tensor but the features in that normalization.
    """
    least = LEAST
    runs = []  # lengths of what belongs to one network at a tensor's end
    for layer, shape in layer_outputs(cell, batch_size):
        if isinstance(layer, nn.Conv2d):
            needed = math.ceil(LEAST_CHANNELS / layer.in_channels)
            least = max(least, needed, math.ceil(LEAST_MAPS / batch_size))
        joins_features = isinstance(layer, nn.BatchNorm1d)
        if batch_size % VECTOR or joins_features:
            images = 1 if joins_features or len(shape) > 2 else batch_size
            runs.append(images * math.prod(shape[1:]))
    return Company(least, math.ceil((VECTOR - 1) / min(runs)) if runs else 0)
