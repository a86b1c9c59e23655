"""Settings of training: its length, batch size and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from experiments.config.instantiate import validate


@dataclass(frozen=True)
class Train:
    """Settings of training.

    Parameters
    ----------
    steps
        Number of updates. 0 probes the network at initialization without training. None computes
        the number from `epochs`.
    epochs
        Passes over the training images; used if `steps` is None.
    batch_size
        Images per step. The images after the last whole batch of an epoch are dropped.
    dtype
        Type of weights, activations and gradients. `tf32` is float32 with the factors of matrix
        products and convolutions rounded to TF32, on NVIDIA GPUs only.
    evaluate_every
        Steps between evaluations on the test set for the `curves` table. 0 evaluates only at the
        end.
    loss_bound
        A loss above this bound counts as divergence, like inf and NaN.
    """

    steps: NonNegativeInt | None = None
    epochs: PositiveFloat | None = 3.0
    batch_size: PositiveInt = 64
    dtype: Literal["float32", "float64", "bfloat16", "float16", "tf32"] = "float32"
    evaluate_every: NonNegativeInt = 0
    loss_bound: Annotated[float, Field(gt=0)] = 1e12

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("train.steps and train.epochs can't both be null")

    @classmethod
    def coerce_config(cls, node: Mapping[str, Any], key_path: str = "train") -> dict[str, Any]:
        """Return type-checked plain data; `epochs` is None if `steps` is given."""
        values = validate(node, key_path)
        return values if values["steps"] is None else values | {"epochs": None}

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as a torch.dtype."""
        dtype: torch.dtype = getattr(torch, "float32" if self.dtype == "tf32" else self.dtype)
        return dtype

    def batch_of(self, n_images: int) -> int:
        """Return the number of images per step: `batch_size`, but at most `n_images`."""
        return min(self.batch_size, n_images)

    def total_steps(self, n_images: int) -> int:
        """Return the number of updates on a training set of `n_images`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # checked in __post_init__
        return max(1, round(self.epochs * (n_images // self.batch_of(n_images))))
