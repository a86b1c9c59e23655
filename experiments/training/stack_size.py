"""Sizes of a stack: how many copies pad it, and how much memory each of its networks takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from experiments.schema import Cell
from fanin.probes.trace import forward_hooks, leaf_modules

# --- padding ----------------------------------------------------------------------------------
#
# No bit of a network may depend on the networks beside it. But a kernel may take another path over
# two networks than over three, and another formula for the last numbers of a tensor than for those
# before. So a stack ends in copies of one of its networks, which are thrown away, wherever it has
# too few networks or tensors that end in the middle of a vector. The bits of matrix products need
# MKL_CBWR besides (`experiments/__init__.py`).

# oneDNN convolves by other algorithms below these: measured over 44,800 convolutions each with the
# kernels of AVX2 and of AVX-512 (two groups of three channels; eight channels in all groups
# together, and their outputs a multiple of eight; six maps over groups and images, of few pixels).
MIN_NETWORKS, MIN_CHANNELS, MIN_MAPS = 3, 8, 6
# Numbers that a vectorized loop takes at once, at most (AVX-512: two vectors of 16 float32). Those
# left at the end of a tensor go through a scalar formula; the last bits of the two may differ.
VECTOR = 32


@dataclass(frozen=True)
class StackPadding:
    """Padding of a stack of networks of one architecture.

    Parameters
    ----------
    min_networks
        Networks that a stack has at least, copies included.
    n_copies
        Copies at the end of a stack, however many networks it has.
    """

    min_networks: int
    n_copies: int

    def pad(self, places: Sequence[int]) -> list[int]:
        """Return the places, followed by as many copies of the first as they need.

        Examples
        --------
        >>> StackPadding(min_networks=3, n_copies=0).pad([4, 7])
        [4, 7, 4]
        """
        n_copies = max(self.n_copies, self.min_networks - len(places))
        return [*places, *[places[0]] * n_copies]


def stack_padding(cell: Cell, batch_size: int) -> StackPadding:
    """Return the padding that a stack of this cell's networks needs.

    The last numbers of every tensor belong to copies. Maps lie in memory image by image, and within
    an image network by network; so do features in front of a batch normalization, which counts all
    networks' features as its own. Everything else lies network by network. Where the batch size is
    a multiple of `VECTOR`, so is every tensor but the features in that normalization.
    """
    min_networks = MIN_NETWORKS
    lengths = []  # of the part at a tensor's end that belongs to one network
    for layer, shape in layer_outputs(cell, batch_size):
        if isinstance(layer, nn.Conv2d):
            for_channels = math.ceil(MIN_CHANNELS / layer.in_channels)
            min_networks = max(min_networks, for_channels, math.ceil(MIN_MAPS / batch_size))
        joins_features = isinstance(layer, nn.BatchNorm1d)
        if batch_size % VECTOR or joins_features:
            images = 1 if joins_features or len(shape) > 2 else batch_size
            lengths.append(images * math.prod(shape[1:]))
    n_copies = math.ceil((VECTOR - 1) / min(lengths)) if lengths else 0
    return StackPadding(min_networks, n_copies)


# --- memory -----------------------------------------------------------------------------------

# Copies of a parameter that a functional step holds at once: of itself and of Adam's two means
# those before, those after and what is kept of either; gradient, direction, and parts of formulas;
# and freed memory in fragments (`keep_freed_memory` gives nothing back).
COPIES_OF_PARAMETERS = 16
# Copies of a layer's output: the output, its gradient, what the layer holds within itself (local
# response normalization), what batched convolutions rearrange, and fragments.
COPIES_OF_OUTPUTS = 7


def training_bytes(cell: Cell) -> int:
    """Return an upper estimate of the memory that one network of a stack takes while it trains.

    Parameters and every layer's output for a batch, times the copies that are held of them; the
    data set, which all networks share, is left out.
    """
    batch_size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    outputs = batch_size * math.prod(cell.data.shape)
    outputs += sum(math.prod(shape) for _, shape in layer_outputs(cell, batch_size))
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in cell.network().parameters())
    numbers = COPIES_OF_PARAMETERS * parameters + COPIES_OF_OUTPUTS * outputs
    return cell.train.torch_dtype.itemsize * numbers


def layer_outputs(cell: Cell, batch_size: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Return each layer without layers of its own, and the shape of its output for a batch."""
    outputs: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(_name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        outputs.extend((layer, tuple(tensor.shape)) for tensor in tensors)

    with torch.device("meta"), torch.no_grad():  # allocates nothing
        model = cell.network().to(cell.train.torch_dtype).eval()
        with forward_hooks(leaf_modules(model), note):
            model(torch.empty(batch_size, *cell.data.shape, dtype=cell.train.torch_dtype))
    return outputs
