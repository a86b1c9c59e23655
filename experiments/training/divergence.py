"""Divergence: detect diverged networks without waiting for the device, and name the bad tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.training.loader import Batch
from experiments.training.step import NetworkState, Params, StepConfig, loss_and_gradients
from fanin.probes.trace import forward_hooks, leaf_modules


@dataclass(frozen=True)
class Divergence:
    """The step and tensor at which a network diverged.

    `tensor` is the first bad one in the order in which a step computes them: `input`, the output of
    each layer (its name), `loss`, `grad of NAME` from the last layer back, then the updated
    parameter `NAME`. `reason` is `inf`, `nan` or `loss above bound`. A network that the last update
    spoils diverges at the step after it, which is one more than there are.
    """

    step: int
    tensor: str
    reason: str


class DivergenceMonitor:
    """Reads `failed_at` of all networks back while the device goes on.

    On a GPU a read-back makes the host wait until the device has done all its queued work. So the
    marks are copied asynchronously and read at a later call, once the copy has arrived; a network
    that has diverged is frozen meanwhile. (Written for CUDA, not yet run on it.)
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def read(self, failed_at: Tensor, wait: bool = False) -> list[int] | None:
        """Return the marks, possibly of an earlier call; None if no copy has arrived yet.

        Parameters
        ----------
        failed_at
            The step at which each network failed, or `ALIVE` [network].
        wait
            Return the marks of this call, even if the host has to wait for the device.
        """
        if wait or failed_at.device.type != "cuda":
            return failed_at.tolist()
        answer = None
        if self._copy is not None and self._arrived is not None and self._arrived.query():
            answer = self._copy.tolist()
        if self._copy is None or answer is not None:
            self._copy = failed_at.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(failed_at.device))
        return answer

    def reset(self) -> None:
        """Drop the copy on its way: the networks have been renumbered."""
        self._copy = None


def diagnose(config: StepConfig, state: NetworkState, batch: Batch) -> Divergence:
    """Run the step that diverged again, tensor by tensor, and name the first bad one."""
    x, y, lr, masks = batch
    params = state["params"]
    bad = forward_fault(config, params, batch)
    if bad is None:
        _, gradients = loss_and_gradients(config, params, x, y, masks)
        updated, _ = config.optim.update(params, gradients, state["optimizer"], lr)
        backward = [(f"grad of {name}", g) for name, g in reversed(gradients.items())]
        bad = _first_bad([*backward, *updated.items()])
    return Divergence(int(state["failed_at"]), *(bad or ("unknown", "not reproduced")))


@torch.no_grad()
def forward_fault(config: StepConfig, params: Params, batch: Batch) -> tuple[str, str] | None:
    """Return the first bad tensor up to the loss and the reason; None if all are good."""
    tensors: list[tuple[str, Tensor]] = [("input", batch.x)]

    def note(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        tensors.append((name, output))

    with forward_hooks(leaf_modules(config.model), note):
        logits = functional_call(config.model, params | batch.masks, (batch.x,))
        loss = config.objective.loss(logits, batch.y)
    bad = _first_bad([*tensors, ("loss", loss)])
    if bad is None and bool(loss > config.loss_bound):
        return "loss", "loss above bound"
    return bad


def _first_bad(tensors: list[tuple[str, Tensor]]) -> tuple[str, str] | None:
    for name, tensor in tensors:
        if not bool(tensor.isfinite().all()):
            return name, "nan" if bool(tensor.isnan().any()) else "inf"
    return None
