"""Settings of training: its length, its batches, its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from experiments.config.instantiate import validate


@dataclass(frozen=True)
class Train:
    """The length and arithmetic of training.

    Parameters
    ----------
    steps
        Number of updates; 0 probes the network at initialization and trains nothing. None: as
        many as `epochs` makes.
    epochs
        Passes over the training images; used where `steps` is None.
    batch_size
        Images a step; the remainder of an epoch is dropped, so every batch is whole.
    dtype
        Of weights, activations and gradients alike.
    evaluate_every
        Steps between evaluations on the test set for the `curves` table; 0: only at the end.
    loss_bound
        A loss above it counts as divergence, like inf and NaN.
    """

    steps: NonNegativeInt | None = None
    epochs: PositiveFloat | None = 3.0
    batch_size: PositiveInt = 64
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    evaluate_every: NonNegativeInt = 0
    loss_bound: Annotated[float, Field(gt=0)] = 1e12

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("one of train.steps and train.epochs must be given")

    @classmethod
    def coerce_config(cls, node: Mapping[str, Any], where: str = "train") -> dict[str, Any]:
        """Plain typed data in which only the length that counts is named."""
        values = validate(node, where)
        return values if values["steps"] is None else values | {"epochs": None}

    @property
    def torch_dtype(self) -> torch.dtype:
        """The arithmetic as torch names it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def batch_of(self, n_images: int) -> int:
        """Images a step, where there are fewer than `batch_size` in all."""
        return min(self.batch_size, n_images)

    def total_steps(self, n_images: int) -> int:
        """Number of updates on a training set of `n_images`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # __post_init__ saw to it
        return max(1, round(self.epochs * (n_images // self.batch_of(n_images))))
