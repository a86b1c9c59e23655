"""Arithmetic of `train.dtype` on a device: TF32 or not, and what the device supports."""

from __future__ import annotations

import torch

from fanin.errors import ConfigError

TF32 = "tf32"
TF32_CAPABILITY = (8, 0)  # of the first NVIDIA GPUs with TF32 (Ampere)


def use_arithmetic(dtype: str, device: torch.device) -> None:
    """Set torch's global arithmetic for cells of this `train.dtype`.

    float32 is float32 on every device. (By default, torch rounds the factors of a GPU's float32
    convolutions to TF32.)

    Parameters
    ----------
    dtype
        Value of `train.dtype`.
    device
        Device that trains the cells.

    Raises
    ------
    ConfigError
        The device does not support the dtype.
    """
    if device.type != "cuda":
        if dtype == TF32:
            raise ConfigError(
                f"train.dtype=tf32: TF32 is the arithmetic of NVIDIA GPUs, and this cell runs on "
                f"{device.type}; use train.dtype=float32 or runner.device=cuda"
            )
        return
    capability = torch.cuda.get_device_capability(device)
    if dtype in (TF32, "bfloat16") and capability < TF32_CAPABILITY:
        raise ConfigError(
            f"train.dtype={dtype}: {torch.cuda.get_device_name(device)} does not support it "
            f"(compute capability {capability[0]}.{capability[1]}, needs 8.0); use "
            "train.dtype=float32"
        )
    torch.backends.cuda.matmul.allow_tf32 = dtype == TF32
    torch.backends.cudnn.allow_tf32 = dtype == TF32
