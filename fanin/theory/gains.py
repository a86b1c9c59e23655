"""Gains that keep a network's second moments level: theory walked the other way round."""

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
from fanin.theory.field import Sampling, predict_field, walk_field
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.moments import LayerMoments

Direction = Literal["forward", "backward", "both"]
MOST_WALKS = 30
CLOSE = 1e-4  # of log E[d^2], far below any network's scatter


def find_gains(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    target: float = 1.0,
    direction: Direction = "forward",
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> dict[str, float]:
    """Per layer, the gain on its weights that levels the second moments.

    Forward: E[y^2] is `target` in each layer, found in a single walk of the field: at each weight
    layer E[y^2] is quadratic in its gain. Backward: E[d^2] of the cotangent is everywhere what it
    is at the logits, found by walking again with the gains of the last walk (once is enough for
    rectifiers, whose slopes know no scale); the first layer's gain, which no cotangent passes
    through, levels the forward pass. Both: the geometric mean, as Glorot & Bengio (2010) took
    theirs between eq. 10 and 11 for the variance.

    Parameters
    ----------
    model, moments, images, layer_kinds
        As for `predict_field`.
    target
        E[y^2] that the forward gains aim at.

    Raises
    ------
    UnpredictableLayer
        A layer without a formula, or one that no gain can bring to the target.
    """
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction={direction}: expected forward, backward or both")

    def find() -> dict[str, float]:
        forward = _forward(model, moments, images, target, seed, layer_kinds)
        if direction == "forward":
            return forward
        backward = _backward(model, moments, images, forward, seed, layer_kinds)
        if direction == "backward":
            return backward
        return {name: (forward[name] * backward[name]) ** 0.5 for name in forward}

    known = (model, dict(moments), images, target, direction, seed, tuple(layer_kinds))
    return memoized("level gains", find, *known)


def scale_moments(
    moments: Mapping[str, LayerMoments], gains: Mapping[str, float]
) -> dict[str, LayerMoments]:
    """Moments of the same layers with their weights multiplied.

    Examples
    --------
    >>> from fanin.inits import Moments
    >>> one = {"fc": LayerMoments(Moments(0.0, 1.0), Moments(0.0, 0.0))}
    >>> scale_moments(one, {"fc": 3.0})["fc"].weight.var
    9.0
    """
    return {
        name: replace(layer, weight=layer.weight.scaled(gains[name]))
        for name, layer in moments.items()
    }


def _forward(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    target: float,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)

    def choose_gain(name: str, in_gain: tuple[float, float, float]) -> float:
        gain = _solved(name, in_gain, target)
        found[name].append(gain)
        return gain

    sampling = Sampling(seed=seed)
    walk_field(model, moments, images, sampling=sampling, choose_gain=choose_gain, layer_kinds=layer_kinds)
    # Repeats of a walk that samples find slightly different ones.
    return {name: float(np.exp(np.log(gains).mean())) for name, gains in found.items()}


def _solved(name: str, in_gain: tuple[float, float, float], target: float) -> float:
    """The positive g with a g^2 + b g + c = target."""
    a, b, c = in_gain
    if not a > 0 or not isfinite(a):
        raise UnpredictableLayer(
            name, "what it is fed, or its weights, are all zero: no gain helps"
        )
    if not c < target:
        raise UnpredictableLayer(
            name, f"its biases alone have second moment {c:.3g}, beyond the target {target:.3g}"
        )
    half = b / (2 * a)
    return (half**2 + (target - c) / a) ** 0.5 - half


def _backward(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    start: Mapping[str, float],
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> dict[str, float]:
    gains, names = dict(start), list(start)
    sampling = Sampling(seed=seed, repeats=1)  # one walk's own noise, so that it has a fixed point
    for _ in range(MOST_WALKS):
        known = scale_moments(moments, gains)
        walked = predict_field(model, known, images, sampling=sampling, layer_kinds=layer_kinds)
        level = walked.value("vjp_m2").mean(0)
        if not (level > 0).all() or not np.isfinite(level).all():
            stuck = names[int(np.argmin(np.where(np.isfinite(level), level, 0.0)))]
            raise UnpredictableLayer(stuck, "no cotangent reaches it, so no gain can level it")
        steps = np.log(level[1:]) - np.log(level[:-1])  # of a layer's own weights, from 2 on
        if np.abs(steps).max(initial=0.0) < CLOSE:
            break
        for name, step in zip(names[1:], steps.tolist(), strict=True):
            gains[name] *= exp(step / 2)
    return gains
