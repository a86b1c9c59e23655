"""The user's own loss: a function of logits and targets, or a loss module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.losses.table import LossImplementation, TargetEncoding


@dataclass(frozen=True)
class CustomLoss:
    """Loss computed by a function of the user.

    Parameters
    ----------
    function
        Function of (logits, targets) that returns one loss per image, or the mean over the batch.
        Targets are class indices; in a regression, real numbers in the shape of the logits.
    name
        Name for messages.
    one_hot
        True if the function needs class targets as one-hot vectors.

    Examples
    --------
    >>> import torch
    >>> loss = CustomLoss(nn.CrossEntropyLoss(), "CrossEntropyLoss")
    >>> loss.per_example(torch.zeros(2, 10), torch.tensor([3, 4]))
    tensor([2.3026, 2.3026])
    """

    function: Callable[[Tensor, Tensor], Tensor]
    name: str
    one_hot: bool = False

    def per_example(
        self, logits: Float[Tensor, "batch output"], targets: Shaped[Tensor, "batch ..."]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each image; if the function returns the mean, that for each image.

        Raises
        ------
        ConfigError
            The function returned anything else.
        """
        if isinstance(self.function, nn.Module):
            self.function.to(logits.device)  # its buffers
        value = self.function(logits, targets)
        if not isinstance(value, Tensor) or (value.ndim and len(value) != len(logits)):
            shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value)
            raise ConfigError(
                f"loss: {self.name} must return one loss per image or their mean; for "
                f"{len(logits)} images it returned {shape}"
            )
        if value.ndim == 0:
            return value.expand(len(logits))
        return value.flatten(1).mean(1) if value.ndim > 1 else value

    def implementation(self, regression: bool) -> LossImplementation:
        """Return the loss as an entry for an `Objective`."""
        encoding: TargetEncoding = "one_hot" if self.one_hot or regression else "label"
        return LossImplementation(self.per_example, encoding, self.name, regression=True)
