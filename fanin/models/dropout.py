"""Dropout whose masks are given from outside, so that a training step stays a pure function.

Torch's own dropout draws from a global generator: a cell's masks would depend on which cells run
beside it, and `torch.func.vmap` refuses it. Here one step draws the masks first, from the cell's
own generator, and hands them to the network along with the parameters:

    masks = dropout_masks(network, len(x), generator)
    functional_call(network, {**parameters, **masks}, (x,))
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Multiply by a given mask in training; do nothing in evaluation.

    Parameters
    ----------
    p
        Share of the features set to zero; the others are multiplied by 1 / (1 - p), which keeps
        the mean (Srivastava et al. 2014, section 10).
    features
        Shape of one image's features at this layer.
    """

    mask: Tensor | None

    def __init__(self, p: float, features: tuple[int, ...]) -> None:
        super().__init__()
        self.p = p
        self.features = features
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Tensor:
        """Return `x` with the masked features dropped.

        Raises
        ------
        RuntimeError
            In training, when no mask was given: to go on would silently train without dropout.
        """
        if not self.training:
            return x
        if self.mask is None:
            raise RuntimeError(
                "dropout in training needs masks: add dropout_masks(network, batch_size, "
                "generator) to the dictionary given to torch.func.functional_call, "
                "or call network.eval()"
            )
        return x * self.mask

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"p={self.p}"


def dropout_masks(
    network: nn.Module,
    batch_size: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Draw one step's masks, in forward order, by the names that `functional_call` wants.

    Parameters
    ----------
    network
        A network with any number of `SeededDropout` layers.
    batch_size
        Images in the step's batch.
    generator
        A CPU generator seeded for this cell's dropout and this step.
    dtype
        Of the masks; which features are dropped does not depend on it.

    Returns
    -------
    dict
        `NAME.mask` to a tensor of shape [batch, *features] on the CPU, entries 0 or 1 / (1 - p);
        empty for a network without dropout.

    Examples
    --------
    >>> network = nn.Sequential()
    >>> network.add_module("drop1", SeededDropout(0.5, (4,)))
    >>> dropout_masks(network, 2, torch.Generator().manual_seed(0))["drop1.mask"].unique()
    tensor([0., 2.])
    """
    masks = {}
    for name, layer in network.named_modules():
        if isinstance(layer, SeededDropout):
            uniform = torch.rand((batch_size, *layer.features), generator=generator)
            masks[f"{name}.mask"] = (uniform >= layer.p).to(dtype) / (1 - layer.p)
    return masks
