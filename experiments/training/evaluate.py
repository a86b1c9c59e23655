"""Loss and accuracy on a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.data import Split
from experiments.scaling import FittedScaling
from experiments.training.cpu_performance import memory_format, swap_relu_maxpool
from fanin.losses import Objective

# Images in one forward pass, at most: about a batch, whose maps stay in a CPU's cache. It is also
# what batch normalization takes its statistics from.
CHUNK = 128


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over a set, and the share of correct answers (NaN for regression)."""

    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    params: dict[str, Tensor],
    split: Split,
    scaling: FittedScaling,
    objective: Objective,
    dtype: torch.dtype,
) -> Evaluation:
    """Evaluate parameters on a split, dropout off, sums in float64."""
    training = model.training
    model.eval()
    format_, fast = memory_format(model, dtype, split.x.device), swap_relu_maxpool(model)
    losses: list[Tensor] = []
    right: list[Tensor] = []
    # Even parts: batch normalization can do nothing with a last batch of one image.
    parts = math.ceil(len(split) / CHUNK)
    for x, y in zip(split.x.tensor_split(parts), split.y.tensor_split(parts), strict=True):
        images = scaling.apply(x, dtype).to(memory_format=format_)
        logits = functional_call(fast, params, (images,))
        losses.append(objective.per_example(logits, y).double())
        correct = objective.correct(logits, y)
        if correct is not None:
            right.append(correct)
    model.train(training)
    accuracy = float(torch.cat(right).double().mean()) if right else float("nan")
    return Evaluation(float(torch.cat(losses).mean()), accuracy)
