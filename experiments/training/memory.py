"""How much memory a network in training takes."""

from __future__ import annotations

import math

from experiments.schema import Cell
from experiments.training.outputs import layer_outputs, parameter_count

# Copies of a parameter that a functional step holds at once: of itself and of Adam's two means
# those before, those after and what is kept of either; gradient, direction, and parts of formulas;
# and what was freed and lies about in pieces (`heap.py` gives nothing back).
COPIES = 16
# Copies of what a layer puts out: the output, the gradient that comes back, what it holds within
# itself (local response normalization), what batched convolutions rearrange, and the pieces.
PASSES = 7


def training_bytes(cell: Cell) -> int:
    """An estimate, meant to be too large, of what one network of a stack takes while it trains.

    Parameters and what every layer puts out for a batch, times the copies that are held of them;
    the data set, which all share, is left out.
    """
    size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    numbers = size * math.prod(cell.data.shape)
    numbers += sum(math.prod(shape) for _, shape in layer_outputs(cell, size))
    return cell.train.torch_dtype.itemsize * (COPIES * parameter_count(cell) + PASSES * numbers)
