"""Training of a single network on a CPU, in place.

Takes the steps of `training/step.py` with less work: the optimizers are torch's fused ones, and
divergence is looked for only every `CHECK_INTERVAL` steps. If one of these steps has diverged, they
are repeated one by one from the last state without divergence.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from experiments.clip import Clip, NoClip
from experiments.training.cpu_performance import has_only_known_layers, overwrite_in_relus
from experiments.training.in_place_optim import in_place_optimizer
from experiments.training.loader import BatchLoader
from experiments.training.step import ALIVE, NetworkState, Params, StepConfig
from fanin.models import SeededDropout

CHECK_INTERVAL = 16


class InPlaceNetwork:
    """A network whose parameters each step updates in place.

    Parameters
    ----------
    config
        The step. Its model `can_be_copied`; training changes the model's buffers only.
    state
        The state to start from.
    loader
        Loader of the batches.
    """

    def __init__(self, config: StepConfig, state: NetworkState, loader: BatchLoader) -> None:
        self._config, self._loader = config, loader
        self._failed_at, self._n_steps = int(state["failed_at"]), int(state["step"])
        # Convolutions convert weights in another memory format than their images in every step.
        memory_format = loader.memory_format
        params = {
            name: p.clone(memory_format=memory_format if p.ndim == 4 else torch.contiguous_format)
            for name, p in state["params"].items()
        }
        self._params: Params = params
        self._optimizer = in_place_optimizer(
            config.optim, params, state["optimizer"], self._n_steps
        )
        leaves = {name: nn.Parameter(tensor) for name, tensor in params.items()}
        self._leaves = list(leaves.values())
        # deepcopy uses the leaves in place of the parameters, and the model's own buffers.
        originals = config.model.named_parameters()
        buffers = list(config.model.buffers())
        memo: dict[int, Any] = {id(buffer): buffer for buffer in buffers}
        memo |= {id(p): leaves[name] for name, p in originals if name in leaves}
        self._model = copy.deepcopy(config.model, memo)
        overwrite_in_relus(self._model)
        self._dropout = {
            f"{name}.mask": layer
            for name, layer in self._model.named_modules()
            if isinstance(layer, SeededDropout)
        }
        self._clips = config.clip != Clip(NoClip())
        self._tensors = [*params.values(), *self._optimizer.tensors(), *buffers]
        self._saved = [tensor.clone() for tensor in self._tensors]
        self._unchecked: list[Tensor] = []  # losses of the steps since `_saved`

    def step(self, number: int) -> Tensor:
        """Take one step; return the loss (after divergence, any number)."""
        if self._failed_at != ALIVE:
            self._n_steps += 1
            return torch.tensor(math.nan)
        loss = self._advance(number)
        self._unchecked.append(loss)
        if len(self._unchecked) == CHECK_INTERVAL:
            self._check()
        return loss

    def failed_at(self) -> Tensor:
        """Return the step at which the network diverged, or `ALIVE`."""
        self._check()
        return torch.tensor(self._failed_at)

    def state(self) -> NetworkState:
        """Return the state, whose tensors the next step may change."""
        failed_at = self.failed_at()
        n_updates = self._n_steps if self._failed_at == ALIVE else self._failed_at
        params = {name: tensor.contiguous() for name, tensor in self._params.items()}
        return {
            "params": params,
            "optimizer": tree_map(Tensor.contiguous, self._optimizer.state(n_updates)),
            "step": torch.tensor(self._n_steps),
            "failed_at": failed_at,
        }

    def _advance(self, number: int) -> Tensor:
        """Update the parameters; return the loss before the update."""
        with self._loader.seeded(number):
            batch = self._loader.at(number)
            for name, mask in batch.masks.items():
                self._dropout[name].mask = mask
            loss = self._config.objective.loss(self._model(batch.x), batch.y)
        # Like `torch.func`, return gradient 0 for parameters that the loss does not depend on.
        gradients = torch.autograd.grad(loss, self._leaves, materialize_grads=True)
        if self._clips:
            by_name = dict(zip(self._params, gradients, strict=True))
            gradients = tuple(self._config.clip.apply(by_name).values())
        self._optimizer.update(gradients, float(batch.lr))
        self._n_steps += 1
        return loss.detach()

    def _check(self) -> None:
        """Find the first step since the last check that diverged, if any."""
        losses = [float(loss) for loss in self._unchecked]
        self._unchecked.clear()
        # A parameter that is not finite stays so in later steps.
        if all(map(self._is_valid, losses)) and self._has_finite_params():
            torch._foreach_copy_(self._saved, self._tensors)
            return
        end = self._n_steps
        self._restore(end - len(losses))
        for number in range(end - len(losses), end):
            loss = float(self._advance(number))
            if not (self._is_valid(loss) and self._has_finite_params()):
                self._restore(end)
                self._failed_at = number
                return
            torch._foreach_copy_(self._saved, self._tensors)

    def _restore(self, n_steps: int) -> None:
        torch._foreach_copy_(self._tensors, self._saved)
        self._n_steps = n_steps

    def _is_valid(self, loss: float) -> bool:
        return math.isfinite(loss) and loss <= self._config.loss_bound

    def _has_finite_params(self) -> bool:
        # A sum is finite only if all terms are, and takes a tenth of the time of `isfinite`. It may
        # overflow although all terms are finite.
        return all(
            math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())
            for tensor in self._params.values()
        )


def can_be_copied(model: nn.Module) -> bool:
    """Return True if a copy with the same buffers computes the same."""
    return has_only_known_layers(model)
