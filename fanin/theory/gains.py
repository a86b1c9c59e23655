"""Gains that keep a network's second moments constant from layer to layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.cache import memoized
from fanin.theory.field import Sampling, predict_field, propagate_field
from fanin.theory.graph.backward_gains import backward_gains
from fanin.theory.graph.cache_key import network_key
from fanin.theory.graph.gains import forward_gains, scale_norms
from fanin.theory.graph.network import parse_graph
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.network import is_sequence

Direction = Literal["forward", "backward", "both"]
MAX_ITERATIONS = 30
TOLERANCE = 1e-4  # of log E[d^2]; far below the variation between draws


def find_gains(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    target: float = 1.0,
    direction: Direction = "forward",
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> dict[str, float]:
    """Return the gain of each layer that keeps the second moments constant.

    `forward`: E[y^2] equals `target` in every layer. One pass of theory `field` is enough, because
    E[y^2] of a layer is a quadratic function of its gain. `backward`: E[d^2] of the cotangent in
    every layer equals its value at the logits. The solution is iterated (ReLU networks need one
    iteration, because their slopes do not depend on the scale). The weights of the first layer
    change no cotangent, so this layer gets its forward gain. `both`: the geometric mean of the two
    gains, similar to the compromise of Glorot & Bengio (2010) between eqs 10 and 11.

    In a graph, the last weight layers of the n residual branches have E[y^2] = `target` / n, so
    that all branches together add `target` to the second moment of the stream. Backward, a layer's
    cotangent counts as that which it sends to the tensor before its input's activations, pools and
    normalizations, and the first layers of the branches send 1 / n of that at the logits. A layer
    before a normalization has E[d^2] = 1 itself, because its gain does not change what it sends.

    Parameters
    ----------
    model, moments, images, layer_kinds
        Same as for `predict_field`.
    target
        E[y^2] that every layer has with forward gains.
    direction
        `forward`, `backward` or `both`.
    seed
        Seed of the theory's own sampling.

    Raises
    ------
    UnpredictableLayer
        A layer has no formula, or no gain can reach the target.
    """
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction={direction}: expected forward, backward or both")

    in_sequence = is_sequence(model, tuple(images.shape[1:]), layer_kinds)
    network = None if in_sequence else parse_graph(model, moments, images)

    def solve() -> dict[str, float]:
        if network:
            forward = forward_gains(network, target, seed, _solve_gain)
        else:
            forward = _sequence_forward(model, moments, images, target, seed, layer_kinds)
        if direction == "forward":
            return forward
        if network:
            backward = backward_gains(network, forward, seed)
        else:
            backward = _sequence_backward(model, moments, images, forward, seed, layer_kinds)
        if direction == "backward":
            return backward
        return {name: (forward[name] * backward[name]) ** 0.5 for name in forward}

    structure = network_key(network) if network else (model, dict(moments), images)
    cache_key = (structure, target, direction, seed, tuple(layer_kinds))
    return memoized("gains", solve, *cache_key)


def scale_moments(
    moments: Mapping[str, LayerMoments], gains: Mapping[str, float]
) -> dict[str, LayerMoments]:
    """Return the moments of the layers with their weights multiplied by gains.

    Examples
    --------
    >>> from fanin.inits import Moments
    >>> one = {"fc": LayerMoments(Moments(0.0, 1.0), Moments(0.0, 0.0))}
    >>> scale_moments(one, {"fc": 3.0})["fc"].weight.var
    9.0
    """
    return {
        name: replace(layer, weight=layer.weight.scaled(gains.get(name, 1.0)))
        for name, layer in moments.items()
    }


def scale_branch_norms(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    target: float,
) -> dict[str, float]:
    """Set the scales of the normalizations that end residual branches, in place.

    The branches then add `target` to the second moment of the stream together. Returns the scales
    by module path; empty for a sequence of modules.
    """
    if is_sequence(model, tuple(images.shape[1:])):
        return {}
    return scale_norms(parse_graph(model, moments, images), model, target)


def _sequence_forward(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    target: float,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, float]:
    gains_by_layer: dict[str, list[float]] = defaultdict(list)

    def choose_gain(name: str, coefficients: tuple[float, float, float]) -> float:
        gain = _solve_gain(name, coefficients, target)
        gains_by_layer[name].append(gain)
        return gain

    sampling = Sampling(seed=seed)
    propagate_field(
        model, moments, images, sampling=sampling, choose_gain=choose_gain, layer_kinds=layer_kinds
    )
    # If the theory samples, its repeats give slightly different gains.
    return {name: float(np.exp(np.log(gains).mean())) for name, gains in gains_by_layer.items()}


def _solve_gain(name: str, coefficients: tuple[float, float, float], target: float) -> float:
    """Return the positive solution g of a g^2 + b g + c = target."""
    a, b, c = coefficients
    if not a > 0 or not isfinite(a):
        raise UnpredictableLayer(
            name, "its inputs or weights are all zero or not finite, so no gain gives the target"
        )
    if not c < target:
        raise UnpredictableLayer(
            name,
            f"E[y^2] from its biases alone is {c:.3g}, not below target={target:.3g};"
            " use a larger target or smaller biases",
        )
    half = b / (2 * a)
    return (half**2 + (target - c) / a) ** 0.5 - half


def _sequence_backward(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    start: Mapping[str, float],
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, float]:
    gains, names = dict(start), list(start)
    # A single repeat has fixed random numbers, so that the iteration has a fixed point.
    sampling = Sampling(seed=seed, repeats=1)
    for _ in range(MAX_ITERATIONS):
        prediction = predict_field(
            model,
            scale_moments(moments, gains),
            images,
            sampling=sampling,
            layer_kinds=layer_kinds,
        )
        vjp_m2 = prediction.value("vjp_m2").mean(0)
        if not (vjp_m2 > 0).all() or not np.isfinite(vjp_m2).all():
            layer = names[int(np.argmin(np.where(np.isfinite(vjp_m2), vjp_m2, 0.0)))]
            raise UnpredictableLayer(
                layer, "its gradient is zero or overflows, so no gain keeps gradients constant"
            )
        steps = np.log(vjp_m2[1:]) - np.log(vjp_m2[:-1])  # step i: gain of names[i + 1]
        if np.abs(steps).max(initial=0.0) < TOLERANCE:
            break
        for name, step in zip(names[1:], steps.tolist(), strict=True):
            gains[name] *= exp(step / 2)
    return gains
