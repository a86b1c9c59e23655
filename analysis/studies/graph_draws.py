"""Moments of all reported tensors of a graph, measured over draws of the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student_t
from torch import Tensor, nn

from fanin.graph import Node
from fanin.inits import Init, initialize
from fanin.seeds import make_generator
from fanin.statistics.draw_distribution import log_interval, predicted_mean_log
from fanin.theory.finite_width.fit import fit_distribution
from fanin.theory.graph.plan import WEIGHT_OPERATIONS, GraphPlan
from fanin.theory.prediction import Prediction

QUANTITIES = ("preact_m2", "vjp_m2", "weight_vjp_m2")
BACKWARD = QUANTITIES[1:]
ROUNDING = 1e-5  # of float32 in the drawn networks
Draws = dict[str, Float[np.ndarray, "draw image tensor"]]


def measure_graph(
    model: nn.Module,
    plan: GraphPlan,
    images: Float[Tensor, "image channel *position"],
    init: Init | str,
    draws: int,
    seed: int = 0,
) -> Draws:
    """Return preact_m2, vjp_m2 and weight_vjp_m2 of each draw.

    `weight_vjp_m2` is NaN if the images share one field, because a gradient is that of all images.
    """
    parts = [images] if plan.joint else list(images.split(1))
    results = defaultdict(list)
    for draw in range(draws):
        initialize(model, init, partial(make_generator, "weights", seed, draw))
        rows = [_measure(plan, part, make_generator("cotangent", seed, draw)) for part in parts]
        for quantity in QUANTITIES:
            results[quantity].append(np.concatenate([row[quantity] for row in rows]))
    return {quantity: np.stack(values) for quantity, values in results.items()}


def _measure(plan: GraphPlan, images: Tensor, stream: torch.Generator) -> dict[str, np.ndarray]:
    values = {
        node: value
        for node, value in plan.graph.run(images)
        if node in plan.reported or node is plan.graph.output
    }
    output = values[plan.graph.output]
    u = torch.randn(output.shape, generator=stream)
    u = u * (u[0].numel() ** 0.5 / u.flatten(1).norm(dim=1)).reshape(-1, *[1] * (u.ndim - 1))
    tensors = [values[node] for node in plan.reported]
    weights = [_weight(node) for node in plan.reported]
    wanted = [t for t in tensors if t.requires_grad]
    wanted += [w for w in weights if w is not None]
    gradients = torch.autograd.grad((output * u).sum(), wanted)
    gradient_of = dict(zip(map(id, wanted), gradients, strict=True))

    def per_image(x: Tensor | None) -> np.ndarray:
        if x is None:
            return np.full(len(images), np.nan)
        return np.asarray(x.detach().double().square().flatten(1).mean(1).numpy())

    def of_weight(weight: Tensor | None) -> np.ndarray:
        known = weight is not None and not plan.joint
        m2 = gradient_of[id(weight)].double().square().mean() if known else np.nan
        return np.full(len(images), float(m2))

    return {
        "preact_m2": np.stack([per_image(tensor) for tensor in tensors], -1),
        "vjp_m2": np.stack([per_image(gradient_of.get(id(tensor))) for tensor in tensors], -1),
        "weight_vjp_m2": np.stack([of_weight(weight) for weight in weights], -1),
    }


def _weight(node: Node) -> Tensor | None:
    if node.operation not in WEIGHT_OPERATIONS:
        return None
    if isinstance(node.target, nn.Module):
        weight: Tensor = node.target.get_parameter("weight")
    else:
        weight = node.arguments["weight"].target
    return weight


@dataclass(frozen=True)
class Ratio:
    """Measured / predicted of one quantity of one tensor, with its standard error.

    Attributes
    ----------
    value
        Mean over images of the mean over draws, divided by the prediction.
    se
        Standard error over draws and over the repeats of the prediction.
    dof
        Its degrees of freedom (Welch-Satterthwaite), which are few if the repeats determine it.
    """

    value: float
    se: float
    dof: float = np.inf

    @property
    def z(self) -> float:
        """The difference from 1, as a normal deviate with the p-value of the t-test."""
        t = (self.value - 1) / self.se
        return float(-np.sign(t) * norm.ppf(student_t.sf(abs(t), self.dof)))


def ratios(prediction: Prediction, measured: Draws) -> dict[tuple[str, str], Ratio]:
    """Return measured / predicted by quantity and tensor, mean over images.

    A moment whose prediction and measurements are 0 has no ratio.
    """
    result = {}
    for quantity in QUANTITIES:
        predicted = prediction.repeats[quantity].mean(1)  # repeat, tensor
        value, sampling_se = predicted.mean(0), _standard_error(predicted)
        draws = measured[quantity].mean(1)
        mean, se = draws.mean(0), _standard_error(draws)
        for i, name in enumerate(prediction.layer_names):
            if np.isnan(mean[i]) or np.isnan(value[i]) or value[i] == mean[i] == 0:
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = mean[i] / value[i]
                parts = [(se[i] / value[i], len(draws) - 1)]
                parts += [(sampling_se[i] * ratio / value[i], len(predicted) - 1)]
            result[quantity, name] = Ratio(ratio, *_combined(parts))
    return result


def interval_hits(names: Sequence[str], measured: Draws) -> dict[tuple[str, str], int]:
    """Return how many draws are inside a 95 % interval, by quantity and tensor.

    The interval is the one of theory `finite_width` for a graph, fitted to draws. Here each half of
    the draws is compared with the interval fitted to the other half.
    """
    result: dict[tuple[str, str], int] = {}
    for quantity, values in measured.items():
        draws = values.mean(1)  # over the images
        (known,) = np.nonzero(np.isfinite(draws).all(0))
        halves = draws[::2, known], draws[1::2, known]
        hits = _hits(*halves) + _hits(*halves[::-1])
        result |= {(quantity, names[int(i)]): int(n) for i, n in zip(known, hits, strict=True)}
    return result


def _hits(fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Return how many draws of each tensor are inside the interval fitted to others."""
    fit = fit_distribution(fitted)
    p, skew = np.asarray(fit.zero_probability), np.asarray(fit.log_skew)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_log = predicted_mean_log(np.log(fit.value), fit.log_sd, p, skew)
        low, high = np.exp(log_interval(mean_log, fit.log_sd, p, skew))
    tiny = ROUNDING * high
    return np.asarray(((tested >= low - tiny) & (tested <= high + tiny)).sum(0))


def _combined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the standard error of a sum and its degrees of freedom, given those of its terms."""
    variances = [(se**2, dof) for se, dof in parts if se > 0]
    total = sum(var for var, _ in variances)
    if total <= ROUNDING**2:
        return ROUNDING, np.inf
    inverse_dof = sum((var / total) ** 2 / dof for var, dof in variances)
    return total**0.5, 1 / inverse_dof if inverse_dof else np.inf


def _standard_error(x: np.ndarray) -> np.ndarray:
    if len(x) == 1:
        return np.zeros(x.shape[1])
    return np.asarray(x.std(0, ddof=1) / len(x) ** 0.5)


def extrapolate(ratio: Sequence[Ratio], widths: Sequence[int]) -> Ratio:
    """Extrapolate a ratio at two widths to infinite width, where it is 1 + c / width.

    Examples
    --------
    >>> round(extrapolate([Ratio(1.2, 0.0), Ratio(1.1, 0.0)], [10, 20]).value, 9)
    1.0
    """
    (narrow, wide), (first, second) = ratio, widths
    weight = second / (second - first)
    parts = [(weight * wide.se, wide.dof), ((weight - 1) * narrow.se, narrow.dof)]
    value = weight * wide.value - (weight - 1) * narrow.value
    return Ratio(value, *_combined(parts))
