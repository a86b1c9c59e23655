"""Combination of a loss, a head and a number of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fanin.errors import ConfigError
from fanin.losses.custom import CustomLoss
from fanin.losses.table import TABLE, Head, Loss, LossImplementation, find_implementation


@dataclass(frozen=True)
class Objective:
    """Loss, output and accuracy of a network. Use `make_objective` to create it.

    Labels `y` are class indices (int64), or real targets in a regression.

    Attributes
    ----------
    implementation
        Formula of the loss.
    head
        Activation after the last layer.
    n_classes
        Number of classes; None in a regression.
    n_outputs
        Number of logits.
    """

    implementation: LossImplementation
    head: Head
    n_classes: int | None
    n_outputs: int

    @property
    def is_custom(self) -> bool:
        """True if the loss is not in the table of docs/losses.md."""
        return self.implementation not in TABLE.values()

    def loss(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the batch, in the logits' dtype."""
        return self.per_example(logits, y).mean()

    def per_example(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each image."""
        return self.implementation.per_example(logits, self._target(logits, y))

    def output(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Apply the head to the logits."""
        return self.head(logits)

    def correct(
        self, logits: Float[Tensor, "batch output"], y: Shaped[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"] | None:
        """Return True where the predicted class is correct; None in a regression.

        All heads increase with the logit, so the predicted class is that of the largest logit. A
        single logit predicts class 1 if it is positive.
        """
        if self.n_classes is None:
            return None
        if self.n_outputs == 1:
            return (logits[:, 0] > 0) == (y == 1)
        return logits.argmax(dim=-1) == y

    def _target(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.implementation.target_encoding == "label":
            return y
        if self.n_outputs == 1:
            return y.unsqueeze(-1).to(logits.dtype)
        classes = torch.arange(self.n_outputs, device=y.device)
        one_hot = (y.unsqueeze(-1) == classes).to(logits.dtype)
        if self.implementation.target_encoding == "plus_minus_one":
            return 2 * one_hot - 1
        return one_hot


def make_objective(loss: Loss | CustomLoss, head: Head, n_classes: int | None) -> Objective:
    """Combine a loss and a head.

    A regression has one output. `bce` with two classes also has one output, the logit of class 1.
    With more classes, `bce` is one-vs-rest and has one output per class. A custom loss has one
    output per class.

    Parameters
    ----------
    loss, head
        Loss and head.
    n_classes
        Number of classes; None for real-valued targets.

    Returns
    -------
    Objective
        The combination.

    Raises
    ------
    ConfigError
        The combination is not in the table of docs/losses.md, or a custom loss has a head.

    Examples
    --------
    >>> objective = make_objective(Loss("cross_entropy"), Head("softmax"), 10)
    >>> objective.loss(torch.zeros(1, 10), torch.tensor([3])).item()  # log 10
    2.3025851249694824
    """
    if isinstance(loss, CustomLoss):
        if head.name != "none":
            raise ConfigError(
                f"head={head.name}: loss {loss.name} gets the logits; use head=none, and apply the "
                "head in the loss"
            )
        n_outputs = 1 if n_classes is None else n_classes
        return Objective(loss.implementation(n_classes is None), head, n_classes, n_outputs)
    implementation = find_implementation(loss, head, regression=n_classes is None)
    binary = loss.name == "bce" and n_classes == 2
    n_outputs = 1 if n_classes is None or binary else n_classes
    return Objective(implementation, head, n_classes, n_outputs)
