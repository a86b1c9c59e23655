"""A loss, a head and a number of classes, joined: what a network is trained and judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fanin.losses.table import Head, Loss, LossImplementation, find_implementation


@dataclass(frozen=True)
class Objective:
    """Made by `make_objective`.

    Labels `y` are class indices (int64), or real targets in a regression.
    """

    row: LossImplementation
    head: Head
    n_classes: int | None
    n_outputs: int

    def loss(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean loss over the batch, in the logits' dtype."""
        return self.per_example(logits, y).mean()

    def per_example(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image."""
        return self.row.per_example(logits, self._target(logits, y))

    def output(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Apply the head to the logits."""
        return self.head(logits)

    def correct(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"] | None:
        """Return True where the predicted class is right; None in a regression.

        Heads grow with the logit, so the largest logit, or with one output its sign, decides.
        """
        if self.n_classes is None:
            return None
        if self.n_outputs == 1:
            return (logits[:, 0] > 0) == (y == 1)
        return logits.argmax(dim=-1) == y

    def _target(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.row.target_encoding == "label":
            return y
        if self.n_outputs == 1:
            return y.unsqueeze(-1).to(logits.dtype)
        classes = torch.arange(self.n_outputs, device=y.device)
        one_hot = (y.unsqueeze(-1) == classes).to(logits.dtype)
        return 2 * one_hot - 1 if self.row.target_encoding == "plus_minus_one" else one_hot


def make_objective(loss: Loss, head: Head, n_classes: int | None) -> Objective:
    """Join a loss and a head for data with `n_classes` classes (None: real-valued targets).

    A regression has one output; so has `bce` with two classes, where it says how probable class 1
    is. With more classes `bce` is one-against-the-rest, one output per class.

    Raises
    ------
    ConfigError
        The combination is not in the table of docs/losses.md.

    Examples
    --------
    >>> objective = make_objective(Loss("cross_entropy"), Head("softmax"), 10)
    >>> objective.loss(torch.zeros(1, 10), torch.tensor([3])).item()  # log 10
    2.3025851249694824
    """
    row = find_implementation(loss, head, regression=n_classes is None)
    binary = loss.name == "bce" and n_classes == 2
    n_outputs = 1 if n_classes is None or binary else n_classes
    return Objective(row, head, n_classes, n_outputs)
