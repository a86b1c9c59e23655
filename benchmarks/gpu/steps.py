"""Check of one training step on the device against the same step on the CPU in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map

from benchmarks.gpu.cases import Case, config_of, dtypes, option_cases, train_spec
from benchmarks.gpu.check import Check, Comparison, Difference, equal, run_check
from benchmarks.gpu.tolerance import (
    ROUNDOFF,
    TF32,
    joined,
    relative,
    rounding,
    with_jumps,
)
from experiments.schema import build_cell
from experiments.training.engines import SerialEngine
from experiments.training.loader import Batch
from experiments.training.step import ALIVE, NetworkState, StepConfig, make_step

CPU = torch.device("cpu")


def step_checks(device: torch.device, every_dtype: bool) -> Iterator[Check]:
    """Check one step of every option, and of the default cell, in every dtype and in TF32.

    Parameters
    ----------
    device
        Device to check against the CPU.
    every_dtype
        Check every option in every dtype and in TF32. False: options only in float32.
    """
    for arithmetic in arithmetics(device):
        case = Case("dtype", "default", ())
        yield _check(case, arithmetic, device)
    for case in option_cases():
        for arithmetic in arithmetics(device) if every_dtype else ("float32",):
            yield _check(case, arithmetic, device)


def arithmetics(device: torch.device) -> tuple[str, ...]:
    """Return all dtypes that the device supports."""
    return tuple(name for name in dtypes() if name != TF32 or device.type == "cuda")


def compare_step(case: Case, arithmetic: str, device: torch.device) -> Comparison:
    """Compare the state and loss after one step.

    Both steps start from the same state, in the device's dtype. The bound on the parameters
    includes rounding them to that dtype, because updates are much smaller than parameters.
    """
    dtype = "float32" if arithmetic == TF32 else arithmetic  # of the tensors
    cell = build_cell(config_of(*case.overrides, f"train.dtype={arithmetic}"))
    before, batch, (after, loss) = _device_step(case, arithmetic, device)
    reference, reference_loss = _reference_step(case, before, batch)
    bound = rounding(cell, arithmetic, len(batch.x))
    gradients = with_jumps(cell, bound)
    update = joined(reference["params"]) - joined(before["params"])
    drift = (joined(after["params"]) - joined(reference["params"])).norm()
    scale = joined(reference["params"]).norm()
    allowed = gradients * update.norm() + ROUNDOFF[dtype] * scale
    return Comparison(
        (
            Difference("loss", relative(loss, reference_loss), bound),
            *(
                # The relative error of a square is twice that of its root.
                Difference(
                    f"optimizer {key}", relative(tree, reference["optimizer"][key]), 2 * gradients
                )
                for key, tree in after["optimizer"].items()
            ),
            Difference("params", float(drift / scale), float(allowed / scale)),
            equal("diverged", int(after["failed_at"]), ALIVE),
            equal("steps", int(after["step"]), 1),
            equal("device", after["step"].device.type, device.type),
            *(
                equal(f"dtype of {name}", str(tensor.dtype), f"torch.{dtype}")
                for name, tensor in after["params"].items()
            ),
        )
    )


def _check(case: Case, arithmetic: str, device: torch.device) -> Check:
    return run_check(
        *("one step", case.group, f"{case.name} {arithmetic}"),
        partial(compare_step, case, arithmetic, device),
    )


def _device_step(
    case: Case, dtype: str, device: torch.device
) -> tuple[NetworkState, Batch, tuple[NetworkState, Any]]:
    """Take a step on the device; return the state before, the batch, and the state and loss."""
    engine = SerialEngine([train_spec(config_of(*case.overrides, f"train.dtype={dtype}"), device)])
    # Copies, because the step may change its state in place.
    before, batch = tree_map(torch.clone, engine.state(0)), engine.loaders[0].at(0)
    (loss,) = engine.step(0)
    return before, batch, (engine.state(0), loss)


def _reference_step(case: Case, before: NetworkState, batch: Batch) -> tuple[NetworkState, Any]:
    """Take the same step on the CPU in float64, from the same state."""
    cell = build_cell(config_of(*case.overrides, "train.dtype=float64"))
    model = cell.network().to(CPU, torch.float64).train()
    config = StepConfig(model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound)
    state, arguments = tree_map(_as_reference, (before, tuple(batch)))
    return make_step(config)(state, *arguments)


def _as_reference(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return value.double().contiguous() if value.is_floating_point() else value
