"""What follows from several of a layer's numbers: overflow, and how deep such layers reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, log, nan

import torch

from fanin.theory.certificate.record import DepthScales, LayerCertificate, Predicted
from fanin.theory.depth_scales import critical_weight_var, depth_scales
from fanin.theory.elementwise import Function, elementwise
from fanin.theory.layers import unchanged
from fanin.theory.moments import LayerMoments, scalar_moments
from fanin.theory.overflow import FLOATING, first_overflow, overflow_chance
from fanin.theory.walk import Stage


def overflow_chances(
    numbers: Mapping[str, Predicted], units: int, positions: int, images: int
) -> dict[str, float]:
    """By dtype, the chance that one of a layer's pre-activations is too large for it.

    Parameters
    ----------
    numbers
        A layer's, by quantity: `preact_m2`, and `preact_var` where it is known.
    units, positions, images
        How many pre-activations there are is their product.
    """
    found = numbers.get("preact_m2")
    if found is None:
        return {}
    value = found.value
    level = nan if value < 0 else -inf if value == 0 else log(value) if isfinite(value) else value
    spread = found.log_sd if isfinite(found.log_sd) else 0.0
    between = share_between(numbers, positions)
    count = units * positions * images
    return {
        str(dtype).removeprefix("torch."): overflow_chance(
            level, count, dtype, spread, between=between
        )
        for dtype in FLOATING
    }


def share_between(numbers: Mapping[str, Predicted], positions: int) -> float:
    """Of E[y^2], the share that is not a mean common to units and positions; 1 where unknown.

    Mean-field theory takes the positions of a map as alike, and knows nothing of their share.
    """
    m2, var = numbers.get("preact_m2"), numbers.get("preact_var")
    if m2 is None or var is None or not (m2.value > 0 and isfinite(m2.value)):
        return 1.0
    if positions > 1 and var.rung == "mean_field":
        return 1.0
    share = var.value / m2.value
    return min(max(share, 0.0), 1.0) if isfinite(share) else 1.0


def overflows_at(layers: Sequence[LayerCertificate]) -> dict[str, str | None]:
    """By dtype, the first layer where overflow is likelier than not."""
    dtypes = layers[0].overflow if layers else {}
    first = {dtype: first_overflow([each.overflow[dtype] for each in layers]) for dtype in dtypes}
    return {
        dtype: None if place is None else layers[place - 1].name for dtype, place in first.items()
    }


def depth_of(stage: Stage, moments: Mapping[str, LayerMoments], q: float) -> DepthScales:
    """Depth scales of a deep dense net of layers like this one, its weights' mean left out.

    Padding and pooling are left out too: they are statements about the activation and the
    variances at hand.
    """
    weights = scalar_moments(moments, [stage.name])[stage.name]
    sigma_w2, sigma_b2 = stage.fan_in * weights.weight_var, weights.bias_var
    function = _activation(stage)
    if function is None or not (isfinite(q) and q > 0):
        return DepthScales(sigma_w2, sigma_b2)
    found = depth_scales(function, sigma_w2, sigma_b2, start=min(max(q, 1e-19), 1e19))
    try:
        critical = critical_weight_var(function, sigma_b2)
    except ValueError:
        critical = nan
    return DepthScales(
        *(sigma_w2, sigma_b2, found.chi_1, found.q_star, found.xi_q, found.xi_c, found.phase),
        critical_sigma_w2=critical,
    )


def _activation(stage: Stage) -> Function | None:
    """The elementwise modules that follow, as one function; None where there is none."""
    layers = [layer for layer in stage.after if layer.kind.scalar is not unchanged]
    found = [function for layer in layers if (function := elementwise(layer.module))]
    if not found:
        return None

    def composed(x: torch.Tensor) -> torch.Tensor:
        for function in found:
            x = function(x)
        return x

    return composed
