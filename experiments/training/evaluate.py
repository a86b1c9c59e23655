"""Loss and accuracy on a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.data import Split
from experiments.scaling import FittedScaling
from experiments.training.cpu_performance import memory_format, optimized
from fanin.losses import Objective

# Maximum number of images in one forward pass, so that the feature maps fit a CPU's cache. Batch
# normalization computes its statistics over one chunk.
CHUNK = 128


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy on a set of images (the accuracy is NaN for regression)."""

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
    """Evaluate parameters on a split, without dropout; means are computed in float64."""
    training = model.training
    model.eval()
    format_, fast = memory_format(model, dtype, split.x.device), optimized(model)
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    # Chunks of equal size, because batch normalization fails for a last chunk of one image.
    n_chunks = math.ceil(len(split) / CHUNK)
    for x, y in zip(split.x.tensor_split(n_chunks), split.y.tensor_split(n_chunks), strict=True):
        images = scaling.apply(x, dtype).to(memory_format=format_)
        logits = functional_call(fast, params, (images,))
        losses.append(objective.per_example(logits, y).double())
        correct_in_chunk = objective.correct(logits, y)
        if correct_in_chunk is not None:
            correct.append(correct_in_chunk)
    model.train(training)
    accuracy = float(torch.cat(correct).double().mean()) if correct else float("nan")
    return Evaluation(float(torch.cat(losses).mean()), accuracy)
