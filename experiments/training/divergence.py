"""Divergence: detect diverged networks without blocking, and name the first non-finite tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from experiments.optim import update
from experiments.training.loader import Batch
from experiments.training.step import NetworkState, Params, StepConfig, loss_and_gradients
from fanin.probes.trace import forward_hooks, leaf_modules


@dataclass(frozen=True)
class Divergence:
    """The step and tensor at which a network diverged.

    Parameters
    ----------
    step
        Step of divergence. It equals the number of steps if only the forward pass after the last
        update is non-finite or has a loss above the bound.
    tensor
        First non-finite tensor in the order of computation: `input`, the output of a layer (its
        name), `loss`, `grad of NAME` (from the last layer to the first), or the updated parameter
        `NAME`.
    reason
        `inf`, `nan` or `loss above bound`.
    """

    step: int
    tensor: str
    reason: str


class DivergenceMonitor:
    """Reader of the steps at which networks diverged that does not block the host.

    A synchronous read makes the host wait for all queued work of a GPU. So the values are copied
    asynchronously and returned by a later call, after the copy has finished. A diverged network is
    frozen in the meantime. (Written for CUDA, not yet run on it.)
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def read(self, failed_at: Tensor, wait: bool = False) -> list[int] | None:
        """Return `failed_at` as a list, or that of the last finished copy; None if there is none.

        Parameters
        ----------
        failed_at
            Step at which each network diverged, or `ALIVE`; one value per network.
        wait
            Wait for the device and return the values of this call.
        """
        if wait or failed_at.device.type != "cuda":
            return failed_at.tolist()
        steps = None
        if self._copy is not None and self._copied is not None and self._copied.query():
            steps = self._copy.tolist()
        if self._copy is None or steps is not None:
            self._copy = failed_at.to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(failed_at.device))
        return steps

    def reset(self) -> None:
        """Discard the pending copy, after networks have been renumbered."""
        self._copy = None


def diagnose(config: StepConfig, state: NetworkState, batch: Batch) -> Divergence:
    """Repeat the step that diverged and return the first non-finite tensor."""
    x, y, lr, masks = batch
    params = state["params"]
    fault = forward_fault(config, params, batch)
    if fault is None:
        _, gradients = loss_and_gradients(config, params, x, y, masks)
        updated, _ = update(config.optim, params, gradients, state["optimizer"], lr)
        backward = [(f"grad of {name}", g) for name, g in reversed(gradients.items())]
        fault = _first_nonfinite([*backward, *updated.items()])
    return Divergence(int(state["failed_at"]), *(fault or ("unknown", "not reproduced")))


@torch.no_grad()
def forward_fault(config: StepConfig, params: Params, batch: Batch) -> tuple[str, str] | None:
    """Return the first non-finite tensor (or too large loss) of the forward pass, and the reason.

    Return None if there is none.
    """
    tensors: list[tuple[str, Tensor]] = [("input", batch.x)]

    def record(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        tensors.extend((name, leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    with forward_hooks(leaf_modules(config.model), record):
        # Copies, so that a batch normalization does not update its running statistics.
        buffers = {name: buffer.clone() for name, buffer in config.model.named_buffers()}
        tensors_of = params | buffers | batch.masks
        logits = functional_call(config.model, tensors_of, (batch.x,))
        loss = config.objective.loss(logits, batch.y)
    fault = _first_nonfinite([*tensors, ("loss", loss)])
    if fault is None and bool(loss > config.loss_bound):
        return "loss", "loss above bound"
    return fault


def _first_nonfinite(tensors: list[tuple[str, Tensor]]) -> tuple[str, str] | None:
    for name, tensor in tensors:
        if not bool(tensor.isfinite().all()):
            return name, "nan" if bool(tensor.isnan().any()) else "inf"
    return None
