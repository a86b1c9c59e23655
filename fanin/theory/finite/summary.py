"""From draws of moments to the law of one draw: log m ~ N(log(value) - log_sd^2 / 2, log_sd^2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fanin.theory.prediction import DrawLaw

SIGNED = ("preact_mean",)
# A draw whose moment vanished or overflowed has no logarithm. Up to this share of them, half of
# what a 95 % interval leaves out anyway, the law of the others is kept.
LOST = 0.025
ROUNDING = 1e-12  # a smaller spread of logarithms is rounding's: of a cotangent of fixed length


@dataclass(frozen=True)
class Samples:
    """Moments of drawn networks, one draw's on each image."""

    values: Mapping[str, Float[Tensor, "draw image layer"]]

    def law(self) -> dict[str, DrawLaw]:
        """The law of one draw's moment, for every image and the mean over them."""
        return {name: _law(name, values) for name, values in self.values.items()}


def joined(batches: Sequence[Samples]) -> Samples:
    """Batches of draws as one."""
    names = batches[0].values
    return Samples({name: torch.cat([batch.values[name] for batch in batches]) for name in names})


def moments_of_draws(
    preactivations: Sequence[Float[Tensor, "draw image ..."]],
    cotangents: Sequence[Float[Tensor, "draw image ..."]],
    weight_gradients: Sequence[Float[Tensor, "draw image"]],
) -> Samples:
    """The quantities of the `layers` table, from what each layer of the draws made and received.

    Parameters
    ----------
    weight_gradients
        Mean squares over the weights.
    """
    made = [y.flatten(2) for y in preactivations]
    return Samples(
        {
            "preact_m2": _stacked([y.square().mean(-1) for y in made]),
            "preact_mean": torch.stack([y.mean(-1) for y in made], -1),
            "preact_var": _stacked([y.var(-1, correction=0) for y in made]),
            "vjp_m2": _stacked([d.flatten(2).square().mean(-1) for d in cotangents]),
            "weight_vjp_m2": _stacked(weight_gradients),
        }
    )


def _stacked(moments: Sequence[Tensor]) -> Tensor:
    """[draw, image, layer]; what came of inf - inf or 0 * inf overflowed."""
    return torch.stack(list(moments), -1).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _law(name: str, values: Tensor) -> DrawLaw:
    with np.errstate(over="ignore", invalid="ignore"):
        rows = torch.cat([values, values.mean(1, keepdim=True)], 1).numpy()
        if name in SIGNED:
            mean, se = rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
            return DrawLaw(mean, np.full_like(mean, np.nan), se)
        return log_normal(rows)


def log_normal(rows: Float64[np.ndarray, "draw row layer"]) -> DrawLaw:
    """The lognormal law of draws of a moment.

    Where all draws are 0 the moment is certain: value 0, spread 0. Where some overflowed the value
    is inf. Where more than one in forty vanished or overflowed there is no spread (NaN), and the
    value is the plain mean.

    Examples
    --------
    >>> draws = np.exp(np.array([-1.0, 0.0, 1.0]))[:, None, None]
    >>> law = log_normal(draws)
    >>> law.log_sd.item(), float(np.log(law.value.item()))
    (1.0, 0.5)
    """
    n = len(rows)
    lost = (rows == 0) | ~np.isfinite(rows)
    log = np.where(lost, np.nan, np.log(np.where(lost, 1.0, rows)))
    kept = n - lost.sum(0)
    centre = np.nansum(log, 0) / np.maximum(kept, 1)
    spread = np.sqrt(np.nansum(np.square(log - centre), 0) / np.maximum(kept - 1, 1))
    spread = np.where(spread < ROUNDING, 0.0, spread)
    value = np.exp(centre + spread**2 / 2) * (kept / n)
    relative = np.sqrt(spread**2 / n + spread**4 / (2 * (n - 1)))
    few = lost.mean(0) <= LOST
    plain = rows.mean(0), rows.std(0, ddof=1) / n**0.5
    overflowed = np.isinf(rows).any(0)
    return DrawLaw(
        value=np.where(overflowed, np.inf, np.where(few, value, plain[0])),
        log_sd=np.where((rows == 0).all(0), 0.0, np.where(few, spread, np.nan)),
        sampling_se=np.where(overflowed, np.inf, np.where(few, value * relative, plain[1])),
    )
