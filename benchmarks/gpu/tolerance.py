"""Relative differences between two computations, and how large rounding alone can make them.

Every operation of a network rounds its result by at most the unit roundoff u of its arithmetic, in
relative terms. Roundings are independent, so those of n operations in sequence add up to sqrt(n) u.
A weight layer has at most `OPERATIONS` of them in one direction (input, weight, product, bias,
the four of a normalization, activation), and a step goes through each layer forward and backward.
A sum of K terms of random sign, added one after the other, is off by another sqrt(K / 2) u of the
type that sums are accumulated in (float32 for the half types). `SAFETY` standard deviations are
allowed. Differences are norms over whole networks, not over entries: a single entry may be the
rounding error of terms that cancel.

Where the derivative jumps (ReLU, max-pool), an input so close to the jump that rounding moves it
across changes its gradient entirely. If d is the relative rounding error, a share of about d of all
inputs is that close. They make a share d of the squared norm, so the gradient is off by sqrt(d).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from experiments.schema import Cell
from experiments.training.stack_size import layer_outputs
from fanin.activations import Maxout

TF32 = "tf32"
# Half a unit in the last place. TF32 keeps ten bits of a factor and may cut the rest off.
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
    """Bound the relative rounding error of one step's loss and gradients, jumps left out.

    Parameters
    ----------
    cell
        Its network decides how many operations and terms there are.
    arithmetic
        A key of `ROUNDOFF`.
    batch_size
        Images in the batch.
    """
    outputs = layer_outputs(cell, batch_size)
    weighted = [(each, s) for each, s in outputs if isinstance(each, nn.Conv2d | nn.Linear)]
    passes = 2 * len(weighted)
    # A weight's gradient is a sum over images and positions, an output one over the fan-in.
    terms = max(
        max(shape[0] * math.prod(shape[2:]), layer.weight[0].numel()) for layer, shape in weighted
    )
    accumulator = ROUNDOFF["float64" if arithmetic == "float64" else "float32"]
    each = math.sqrt(OPERATIONS) * ROUNDOFF[arithmetic] + math.sqrt(terms / 2) * accumulator
    return SAFETY * math.sqrt(passes) * each


def with_jumps(cell: Cell, bound: float) -> float:
    """Bound the relative rounding error of one step's gradients, given that of smooth functions."""
    jumps = any(isinstance(layer, JUMPS) for layer in cell.network().modules())
    return math.sqrt(bound) if jumps else bound


def default_arithmetic(dtype: str, device: torch.device) -> str:
    """Name the arithmetic of a dtype on a device: torch convolves float32 in TF32 on a GPU."""
    tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return TF32 if dtype == "float32" and tf32 else dtype


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Let torch use TF32 for float32 convolutions, or forbid it; matrix products never use it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def joined(tree: object) -> Tensor:
    """Join all tensors of nested containers into one vector, in float64 on the CPU."""
    return torch.cat([leaf.detach().cpu().double().flatten() for leaf in tree_leaves(tree)])


def relative(ours: object, reference: object) -> float:
    """Return |ours - reference| / |reference| over all tensors of two trees of one structure.

    Examples
    --------
    >>> relative({"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 4.0])})
    0.2
    """
    one, other = joined(ours), joined(reference)
    norm, difference = float(other.norm()), float((one - other).norm())
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm
