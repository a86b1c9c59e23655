"""The formulas: from logits and coded targets to one loss per image.

None of them looks at a value to decide what to do, so `torch.func.grad` and `vmap` go through
them, and each works in the logits' own dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fanin.losses.options import HEADS, HeadName, softmax

PerExample = Callable[[Tensor, Tensor], Tensor]
"""(logits [batch, output], coded targets) to losses [batch]."""


def cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """log sum exp(z) - z[label]: finite as long as the logits are."""
    return torch.logsumexp(logits, dim=-1) - _at_label(logits, label)


def naive_cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """-log(softmax(z)[label]): inf once the softmax has underflowed to 0."""
    return -_at_label(softmax(logits), label).log()


def cross_entropy_twice(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The cross entropy of probabilities taken for logits: a softmax of a softmax."""
    return cross_entropy(softmax(logits), label)


def binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """softplus(z) - t z, without overflow; the mean over outputs."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)


def naive_binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """-(t log p + (1 - t) log(1 - p)), p = sigmoid(z): NaN from 0 * log 0 once p is 0 or 1."""
    p = torch.sigmoid(logits)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean(-1)


def squared_error(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"], head: HeadName
) -> Float[Tensor, " batch"]:
    """(head(z) - t)^2, the mean over outputs."""
    return (HEADS[head](logits) - target).square().mean(-1)


def _at_label(scores: Tensor, label: Tensor) -> Tensor:
    return scores.gather(-1, label.unsqueeze(-1)).squeeze(-1)
