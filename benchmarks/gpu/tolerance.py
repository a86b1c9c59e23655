"""Relative differences between two computations, and bounds on differences from rounding.

Each operation of a network has a relative rounding error of at most u, the unit roundoff of its
arithmetic. The errors are independent, so n operations in sequence have an error of sqrt(n) u. A
weight layer has at most `OPERATIONS` operations in one direction (input, weight, product, bias,
four in a normalization, activation), and a step passes each layer forward and backward. A
sequential sum of K terms of random sign has an additional error of sqrt(K / 2) u, with u of the
type of the accumulator (float32 for the half types). The tolerance is `SAFETY` standard deviations.
Differences are norms over whole networks, because a single entry may be the rounding error of terms
that cancel.

Where the derivative jumps (ReLU, max-pool), rounding may move an input across the jump, which
changes its gradient completely. If d is the relative rounding error, about a fraction d of all
inputs is so close to a jump that rounding moves them across. The gradients of these inputs make up
a fraction d of the squared norm, so the relative error of the gradient is sqrt(d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from experiments.schema import Cell
from experiments.training.stack_size import layer_outputs
from fanin.activations import Maxout

TF32 = "tf32"
# Half a unit in the last place. TF32 keeps ten bits of a factor and may truncate the others.
ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    TF32: 2.0**-10,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
OPERATIONS = 9
SAFETY = 4.0
JUMPS = (nn.MaxPool2d, nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.SELU, Maxout)


def rounding(cell: Cell, arithmetic: str, batch_size: int) -> float:
    """Return a bound on the relative rounding error of one step's loss and gradients.

    The bound is for networks with smooth functions (see `with_jumps`).

    Parameters
    ----------
    cell
        Cell with the network that determines the numbers of operations and terms.
    arithmetic
        A key of `ROUNDOFF`.
    batch_size
        Number of images in the batch.
    """
    outputs = layer_outputs(cell, batch_size)
    layers = [(layer, s) for layer, s in outputs if isinstance(layer, nn.Conv2d | nn.Linear)]
    passes = 2 * len(layers)
    # The gradient of a weight is a sum over images and positions; an output is a sum over fan_in
    # inputs.
    terms = max(
        max(shape[0] * math.prod(shape[2:]), layer.weight[0].numel()) for layer, shape in layers
    )
    accumulator = ROUNDOFF["float64" if arithmetic == "float64" else "float32"]
    per_pass = math.sqrt(OPERATIONS) * ROUNDOFF[arithmetic] + math.sqrt(terms / 2) * accumulator
    return SAFETY * math.sqrt(passes) * per_pass


def with_jumps(cell: Cell, bound: float) -> float:
    """Return the bound on the gradients' error for a network with or without jumps."""
    jumps = any(isinstance(layer, JUMPS) for layer in cell.network().modules())
    return math.sqrt(bound) if jumps else bound


def joined(tree: object) -> Tensor:
    """Concatenate all tensors of nested containers to one vector, in float64 on the CPU."""
    return torch.cat([leaf.detach().cpu().double().flatten() for leaf in tree_leaves(tree)])


def relative(actual: object, reference: object) -> float:
    """Return |actual - reference| / |reference| over all tensors of two trees.

    Examples
    --------
    >>> relative({"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 4.0])})
    0.2
    """
    expected = joined(reference)
    norm, difference = float(expected.norm()), float((joined(actual) - expected).norm())
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm
