"""torch's global flags that change the speed of a measurement."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Flags:
    """Flags of a measurement, which each process sets before it and reads back after it.

    Parameters
    ----------
    deterministic
        Only deterministic algorithms.
    tf32_convolutions, tf32_products
        Round the factors of float32 convolutions and matrix products to TF32.
    cudnn_benchmark
        Time the algorithms of a convolution in its first call.
    """

    deterministic: bool
    tf32_convolutions: bool
    tf32_products: bool
    cudnn_benchmark: bool

    def set(self) -> None:
        """Set the flags in this process."""
        torch.set_deterministic_debug_mode("error" if self.deterministic else "default")
        # As in sweeps: deterministic mode would also fill every new tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = self.tf32_convolutions
        torch.backends.cuda.matmul.allow_tf32 = self.tf32_products
        torch.backends.cudnn.benchmark = self.cudnn_benchmark

    @classmethod
    def current(cls) -> Flags:
        """Return the flags of this process."""
        return cls(
            deterministic=torch.are_deterministic_algorithms_enabled(),
            tf32_convolutions=torch.backends.cudnn.allow_tf32,
            tf32_products=torch.backends.cuda.matmul.allow_tf32,
            cudnn_benchmark=torch.backends.cudnn.benchmark,
        )


# Flags of a sweep's workers with `train.dtype=float32`, and those of a new process.
SUITE = Flags(
    deterministic=True, tf32_convolutions=False, tf32_products=False, cudnn_benchmark=False
)
TORCH_DEFAULTS = Flags(
    deterministic=False, tf32_convolutions=True, tf32_products=False, cudnn_benchmark=False
)
