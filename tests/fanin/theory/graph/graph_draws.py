"""Compare predictions on graphs with networks drawn at random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fanin.inits import initialize, to_init
from fanin.seeds import make_generator
from fanin.statistics.holm import holm
from fanin.theory.field import Sampling
from fanin.theory.graph.plan import GraphPlan, plan_graph
from fanin.theory.graph.predict import predict_graph
from fanin.theory.moments import declared_moments

QUANTITIES = ("preact_m2", "vjp_m2", "weight_vjp_m2")
ROUNDING = 1e-5  # of float32 in the drawn networks
Scores = dict[tuple[str, str, int], float]


def digits(count: int = 1) -> Tensor:
    """Return standardized images of handwritten digits, [image, 1, 8, 8]."""
    x = torch.tensor(load_digits().images[:count, None], dtype=torch.float32)
    return (x - x.mean()) / x.std()


def extrapolated_scores(
    build: Callable[[int], nn.Module],
    widths: tuple[int, int],
    images: Tensor,
    draws: int,
    init: str = "he_normal",
) -> Scores:
    """Return z-scores of measured / predicted, extrapolated to infinite width, by quantity.

    At finite width the ratio differs from 1 by c / width. Two widths determine c.
    """
    narrow, wide = (_ratios(build(width), images, draws, init) for width in widths)
    weight = widths[1] / (widths[1] - widths[0])
    scores = {}
    for key, (ratio, se) in wide.items():
        limit = weight * ratio - (weight - 1) * narrow[key][0]
        scores[key] = float((limit - 1) / np.hypot(weight * se, (weight - 1) * narrow[key][1]))
    return scores


def _ratios(
    model: nn.Module, images: Tensor, draws: int, init: str
) -> dict[tuple[str, str, int], tuple[float, float]]:
    moments = declared_moments(model, to_init(init))
    plan = plan_graph(model, moments, images, Sampling())
    predicted = predict_graph(model, moments, images)
    measured = measure_graph(model, plan, images, init, draws)
    ratios = {}
    for quantity in QUANTITIES:
        repeats = predicted.repeats[quantity]
        value = repeats.mean(0)
        sampling_se = repeats.std(0, ddof=1) / len(repeats) ** 0.5 if len(repeats) > 1 else 0.0
        x = measured[quantity]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = x.mean(0) / value
            se = np.hypot(x.std(0, ddof=1) / draws**0.5, sampling_se) / value
        for image, tensor in np.argwhere(np.isfinite(ratio)):
            entry = ratio[image, tensor], max(se[image, tensor], ROUNDING)
            ratios[quantity, plan.names[tensor], int(image)] = entry
    return ratios


def measure_graph(
    model: nn.Module, plan: GraphPlan, images: Tensor, init: str, draws: int
) -> dict[str, np.ndarray]:
    """Return arrays [draw, image, tensor] of preact_m2, vjp_m2 and weight_vjp_m2."""
    parts = [images] if plan.joint else list(images.split(1))
    results = defaultdict(list)
    for draw in range(draws):
        initialize(model, init, lambda name, draw=draw: make_generator("weights", draw, name))
        rows = [_measure(model, plan, part, draw) for part in parts]
        for quantity in rows[0]:
            results[quantity].append(np.concatenate([row[quantity] for row in rows]))
    return {quantity: np.stack(values) for quantity, values in results.items()}


def _measure(model: nn.Module, plan: GraphPlan, images: Tensor, draw: int) -> dict[str, np.ndarray]:
    values = {node: value for node, value in plan.graph.run(images) if node in plan.reported}
    output = values.get(plan.graph.output)
    assert output is not None, "the models end with a linear layer"
    generator = make_generator("cotangent", draw)
    u = torch.randn(output.shape, generator=generator)
    u = u * (u[0].numel() ** 0.5 / u.flatten(1).norm(dim=1)).reshape(-1, *[1] * (u.ndim - 1))
    tensors = [values[node] for node in plan.reported]
    weights = [getattr(node.target, "weight", None) for node in plan.reported]
    is_layer = [isinstance(node.target, nn.Linear | nn.Conv2d) for node in plan.reported]
    wanted = [t for t in tensors if t.requires_grad]
    wanted += [w for w, layer in zip(weights, is_layer, strict=True) if layer]
    gradients = torch.autograd.grad((output * u).sum(), wanted)
    gradient_of = dict(zip(map(id, wanted), gradients, strict=True))

    def per_image(x: Tensor | None) -> np.ndarray:
        if x is None:
            return np.full(len(images), np.nan)
        return x.detach().double().square().flatten(1).mean(1).numpy()

    def of_weight(weight: Tensor | None, layer: bool) -> np.ndarray:
        known = layer and not plan.joint  # a joint gradient is that of all images
        m2 = gradient_of[id(weight)].double().square().mean() if known else np.nan
        return np.full(len(images), float(m2))

    pairs = zip(weights, is_layer, strict=True)
    return {
        "preact_m2": np.stack([per_image(tensor) for tensor in tensors], -1),
        "vjp_m2": np.stack([per_image(gradient_of.get(id(tensor))) for tensor in tensors], -1),
        "weight_vjp_m2": np.stack([of_weight(*pair) for pair in pairs], -1),
    }


def rejected(scores: Scores, level: float = 0.01) -> Scores:
    """Return the scores that Holm's method rejects at a level over all of them."""
    p = holm(2 * norm.sf(np.abs(list(scores.values()))))
    return {key: z for (key, z), value in zip(scores.items(), p, strict=True) if value < level}
