"""Exact finite-width law of a net of linear layers: what many drawn nets do, without their weights.

Given a layer's inputs its units are independent Gaussians, so a draw takes n normals a layer and no
matrix, for any activation and weights of any mean (THEORY.md, section 5.2); so does the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.models.norms import MeanOnly
from fanin.seeds import generator
from fanin.theory.elementwise import Function, elementwise
from fanin.theory.field.standardizing import looks_at_the_batch
from fanin.theory.finite.summary import Samples, joined, moments_of_draws
from fanin.theory.finite.weights import Applied, DenseWeights, Vectors, apply
from fanin.theory.moments import LayerMoments, moments_of
from fanin.theory.walk import DROPOUTS, Named, UnpredictableLayer, Walk

HELD = 2**26  # numbers that the draws of one batch may hold: 512 MB


def is_dense(model: nn.Module, net: Walk) -> bool:
    """Whether all weight layers are linear."""
    modules = dict(model.named_modules())
    return all(isinstance(modules[stage.name], nn.Linear) for stage in net.stages)


def dense_chain(
    model: nn.Module,
    net: Walk,
    moments: Mapping[str, LayerMoments],
    fed: Float[Tensor, "image pixel"],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Samples:
    """Draw what fresh networks make of some images, and send back, layer by layer.

    Exact for Gaussian weights and biases, and for orthogonal weights; weights of another law are
    taken as Gaussians of the same moments. All images meet the same network, each with a random
    cotangent of its own at the logits.

    Parameters
    ----------
    model, net, moments
        Whose layers; weights are not read.
    fed
        What enters the first weight layer.
    draws
        Networks.

    Returns
    -------
    Samples
        Of preact_m2, preact_mean, preact_var, vjp_m2 and weight_vjp_m2.

    Raises
    ------
    UnpredictableLayer
        A module that is neither elementwise nor dropout nor a normalization.
    """
    modules = dict(model.named_modules())
    layers = []
    for stage in net.stages:
        module = modules[stage.name]
        assert isinstance(module, nn.Linear)
        layers.append(DenseWeights.of(module, moments_of(moments, stage.name)))
    if fed.ndim != 2 or fed.shape[1] != layers[0].inputs:
        raise UnpredictableLayer(
            net.stages[0].name, "a linear layer on the last axis of a map; put nn.Flatten() first"
        )
    between = [_Between.of(stage.after) for stage in net.stages[:-1]]
    for name, module in (named for stage in net.stages for named in stage.after):
        if looks_at_the_batch(module) and len(fed) == 1:
            raise UnpredictableLayer(name, "batch normalization of one image alone")
    units = layers[0].inputs + sum(5 * layer.outputs for layer in layers)
    size = max(1, HELD // (units * len(fed)))
    batches = []
    for start in range(0, draws, size):
        stream = generator("dense chain", seed, start)
        batches.append(_run(layers, between, fed, min(size, draws - start), stream))
    return joined(batches)


@dataclass(frozen=True)
class _Between:
    """What stands between two linear layers."""

    steps: tuple[Function | float | None, ...]
    """Functions, dropout shares, and None for subtracting the mean over the images."""

    @classmethod
    def of(cls, modules: Sequence[Named]) -> _Between:
        return cls(tuple(step for named in modules for step in _steps(*named)))

    def __call__(self, y: Vectors, stream: torch.Generator) -> Vectors:
        for step in self.steps:
            if step is None:
                y = y - y.mean(1, keepdim=True)
            elif isinstance(step, float):
                kept = torch.rand(y.shape, generator=stream) >= step
                y = y * kept / (1 - step) if step < 1 else y * 0.0
            else:
                y = step(y)
        return y


def _steps(name: str, module: nn.Module) -> Sequence[Function | float | None]:
    if isinstance(module, (nn.Flatten, nn.Identity)):
        return []
    if isinstance(module, DROPOUTS):
        return [float(module.p)] if module.training and module.p > 0 else []
    if isinstance(module, MeanOnly):
        return [None]
    if looks_at_the_batch(module):
        return [partial(_standardized, module, 1)]
    if isinstance(module, nn.LayerNorm) or (
        isinstance(module, nn.GroupNorm) and module.num_groups == 1
    ):
        return [partial(_standardized, module, 2)]
    function = elementwise(module)
    if function is None:
        kind = type(module).__name__
        raise UnpredictableLayer(name, f"{kind} is neither elementwise nor of a kind known here")
    return [function]


def _standardized(module: Any, axis: int, y: Vectors) -> Vectors:
    """To mean 0 and variance 1 over the images (axis 1) or the units (2) of each draw."""
    spread = y.var(axis, correction=0, keepdim=True) + module.eps
    y = (y - y.mean(axis, keepdim=True)) * spread.rsqrt()
    if module.weight is None:
        return y
    made: Vectors = module.weight.detach() * y
    return made if module.bias is None else made + module.bias.detach()


def _run(
    layers: Sequence[DenseWeights],
    between: Sequence[_Between],
    fed: Tensor,
    draws: int,
    stream: torch.Generator,
) -> Samples:
    x, passed = fed[None], []
    forward: list[tuple[Tensor, Applied]] = []
    for number, layer in enumerate(layers):
        applied = apply(layer, x.detach(), draws, stream)
        forward.append((x, applied))
        if number < len(between):
            with torch.enable_grad():
                y = applied.made.requires_grad_()
                x = between[number](y, stream)
            passed.append((y, x))
    logits = forward[-1][1].made
    u = torch.randn(logits.shape, generator=stream, dtype=torch.float64)
    d = u * (logits.shape[-1] ** 0.5 / u.norm(dim=-1, keepdim=True))
    cotangents = [d]
    for (y, x), (_, above) in zip(passed[::-1], forward[:0:-1], strict=True):
        received = above.pull_back(cotangents[-1], stream)
        cotangents.append(_vjp(x, y, received))
    return moments_of_draws(
        preactivations=[applied.made.detach() for _, applied in forward],
        cotangents=cotangents[::-1],
        weight_gradients=[
            # A gradient is an outer product: its mean square is that of the factors.
            d.square().mean(-1) * x.detach().square().mean(-1)
            for (x, _), d in zip(forward, cotangents[::-1], strict=True)
        ],
    )


def _vjp(x: Tensor, y: Tensor, received: Tensor) -> Tensor:
    if not x.requires_grad:  # a constant
        return torch.zeros_like(y)
    found = torch.autograd.grad(x, y, received, allow_unused=True)[0]
    return torch.zeros_like(y) if found is None else found
