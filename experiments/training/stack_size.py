"""Sizes of a stack: the number of networks that pad it, and the memory of each network."""

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
# A network's result must not depend on the other networks of its stack, to the last bit. But
# kernels may use another algorithm for two networks than for three, and another formula for the
# last values of a tensor than for the values before. So a stack is padded with copies of one of
# its networks if it has too few networks, or if tensors end in the middle of a vector. The results
# of the copies are discarded. Matrix products also need MKL_CBWR (`experiments/__init__.py`).
# These are rules for the kernels of a CPU. A stack on a GPU is not padded; `engine=auto` and the
# GPU check compare stacks of different sizes (`is_batch_invariant` in
# `experiments/sweep/engines.py`).

# Minimum numbers of networks, of input channels over all networks, and of feature maps over all
# networks and images. With fewer, oneDNN uses other convolution algorithms (measured over 44,800
# convolutions each with the kernels of AVX2 and AVX-512). Each network is a group of a convolution.
# The cases that determine these numbers: two groups of three channels; eight channels over all
# groups, with a multiple of eight outputs; six maps of few pixels over groups and images.
MIN_NETWORKS, MIN_CHANNELS, MIN_MAPS = 3, 8, 6
# Maximum number of values that a vectorized loop processes at once (AVX-512: two vectors of 16
# float32). A scalar formula processes the values after the last whole vector; it may round
# differently.
VECTOR = 32


@dataclass(frozen=True)
class StackPadding:
    """Padding of a stack of networks of one architecture.

    Parameters
    ----------
    min_networks
        Minimum number of networks of a stack, including copies.
    n_copies
        Minimum number of copies at the end of a stack.
    """

    min_networks: int
    n_copies: int

    def pad(self, slots: Sequence[int]) -> list[int]:
        """Return the slots, followed by copies of the first one as padding.

        Examples
        --------
        >>> StackPadding(min_networks=3, n_copies=0).pad([4, 7])
        [4, 7, 4]
        """
        n_copies = max(self.n_copies, self.min_networks - len(slots))
        return [*slots, *[slots[0]] * n_copies]


def stack_padding(cell: Cell, batch_size: int, device: torch.device) -> StackPadding:
    """Return the padding that a stack of this cell's networks needs on a device.

    The last values of each tensor, for which a kernel may use another formula, must belong to
    copies. In memory, feature maps are ordered by image and then by network, and so are the
    features before a batch normalization (under `vmap` it normalizes the features of all networks
    at once). All other tensors are ordered by network.
    If the batch size is a multiple of `VECTOR`, then so are the sizes of all tensors except the
    features before a batch normalization.
    """
    if device.type != "cpu":
        return StackPadding(min_networks=1, n_copies=0)
    min_networks = MIN_NETWORKS
    lengths = []  # values of one network at the end of each tensor
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

# Copies of a parameter that are in memory during a functional step: the parameter and Adam's two
# means before and after the update and after selecting one of them; gradient, update and
# intermediate results; and fragmentation (`keep_freed_memory` returns nothing to the system).
COPIES_OF_PARAMETERS = 16
# Copies of a layer's output: the output, its gradient, intermediate results of the layer (local
# response normalization), rearranged inputs of batched convolutions, and fragmentation.
COPIES_OF_OUTPUTS = 7


def training_bytes(cell: Cell) -> int:
    """Return an upper estimate of the memory in bytes that each network of a stack needs.

    Counts the parameters and all layers' outputs for a batch, times the number of their copies
    that are in memory at once. The data set is not included; all networks share it.
    """
    batch_size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    outputs = batch_size * math.prod(cell.data.shape)
    outputs += sum(math.prod(shape) for _, shape in layer_outputs(cell, batch_size))
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in cell.network().parameters())
    n_values = COPIES_OF_PARAMETERS * parameters + COPIES_OF_OUTPUTS * outputs
    return cell.train.torch_dtype.itemsize * n_values


def layer_outputs(cell: Cell, batch_size: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Return each leaf module and the shape of its output for a batch."""
    outputs: list[tuple[nn.Module, tuple[int, ...]]] = []

    def record(_name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        outputs.extend((layer, tuple(tensor.shape)) for tensor in tensors)

    with torch.device("meta"), torch.no_grad():  # allocates nothing
        model = cell.network().to(cell.train.torch_dtype).eval()
        with forward_hooks(leaf_modules(model), record):
            model(torch.empty(batch_size, *cell.data.shape, dtype=cell.train.torch_dtype))
    return outputs


# --- number of networks -----------------------------------------------------------------------

MAX_ON_CPU, MAX_ON_GPU = 64, 1024  # more networks make no stack faster


def max_stacked_cells(device: str) -> int:
    """Return the maximum size of a stack on a device (`auto`: a GPU, if there is one)."""
    on_gpu = torch.cuda.is_available() if device == "auto" else device != "cpu"
    return MAX_ON_GPU if on_gpu else MAX_ON_CPU


def stack_size(n_cells: int, n_workers: int, pack_cells: int | None, limit: int) -> int:
    """Return the size of stacks of similar cells: an equal share for each worker.

    Parameters
    ----------
    n_cells, n_workers
        Numbers of cells and of workers that share them.
    pack_cells
        Maximum size that the user has set. None: `limit`.
    limit
        Result of `max_stacked_cells`.

    Examples
    --------
    >>> stack_size(20, n_workers=2, pack_cells=None, limit=64)
    10
    """
    return min(pack_cells or limit, max(-(-n_cells // n_workers), 2))
