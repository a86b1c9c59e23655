"""Compare theory `field` with draws of small convolutional networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from theory_networks import measure_moments
from torch import Tensor, nn

from fanin.inits.weight_shape import Moments, WeightShape
from fanin.theory import LayerMoments
from fanin.theory.field import Sampling, predict_field

FORWARD = ("preact_m2", "preact_mean", "preact_var")
BACKWARD = ("vjp_m2", "weight_vjp_m2")
DRAWS_PER_CHUNK = 40


@dataclass(frozen=True)
class Weights:
    """Normal weights: std = gain / sqrt(fan_in), mean = mean_ratio * std / sqrt(fan_in)."""

    gain: float = 2**0.5
    mean_ratio: float = 0.0

    def std(self, shape: WeightShape) -> float:
        return self.gain / shape.fan_in**0.5

    def mean(self, shape: WeightShape) -> float:
        return self.mean_ratio * self.std(shape) / shape.fan_in**0.5

    def sample(self, shape: WeightShape, generator: torch.Generator, draws: int) -> Tensor:
        z = torch.randn((draws, *shape.shape), generator=generator, dtype=torch.float64)
        return self.mean(shape) + self.std(shape) * z

    def moments(self, model: nn.Module) -> dict[str, LayerMoments]:
        shapes = {
            name: WeightShape.of(layer)
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        }
        return {
            name: LayerMoments(Moments(self.mean(s), self.std(s) ** 2), Moments(0.0, 0.0))
            for name, s in shapes.items()
        }


def image(channels: int = 2, side: int = 7, seed: int = 0) -> Tensor:
    """Return a smooth image of values around 1/2; neighbouring pixels are correlated."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 3, 3, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=side, mode="bicubic")


def predict_image(model: nn.Sequential, weights: Weights, x: Tensor, seed: int) -> pd.DataFrame:
    """Predict one image with theory `field`."""
    model = model.double().eval()
    sampling = Sampling(seed=seed)
    frame = predict_field(model, weights.moments(model), x, sampling=sampling).to_frame()
    return frame.query("image == 0")


def measure_draws(
    model: nn.Sequential, weights: Weights, x: Tensor, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Measure every quantity of independent draws, [draw, layer]."""
    model = model.double().eval()
    chunks = [
        measure_moments(model, x, DRAWS_PER_CHUNK, weights.sample, seed=1000 * seed + chunk)
        for chunk in range(draws // DRAWS_PER_CHUNK)
    ]
    return {q: torch.cat([chunk[q] for chunk in chunks]).numpy() for q in chunks[0]}


def z_scores(
    model: nn.Sequential,
    weights: Weights,
    x: Tensor,
    draws: int,
    quantities: tuple[str, ...] = FORWARD + BACKWARD,
) -> dict[tuple[str, int], float]:
    """Return (mean over draws - prediction) / standard error, by quantity and layer."""
    frame = predict_image(model, weights, x, seed=0)
    values = measure_draws(model, weights, x, draws, seed=0)
    means = {q: (values[q].mean(0), standard_error(values[q])) for q in quantities}
    return _scores(frame, means)


def extrapolated_z_scores(
    build: Callable[[int], nn.Sequential],
    widths: tuple[int, int],
    weights: Weights,
    x: Tensor,
    draws: int,
    seed: int,
) -> dict[tuple[str, int], float]:
    """Return z-scores of the ratio measured / predicted, extrapolated to infinite width.

    At finite width the ratio r differs from 1 by c / width. Two widths determine c, and the
    remainder is of second order: r = (w2 r2 - w1 r1) / (w2 - w1).
    """
    narrow, wide = (_ratios(build(width), weights, x, draws, seed) for width in widths)
    weight = widths[1] / (widths[1] - widths[0])
    scores = {}
    for key, (ratio, se) in wide.items():
        limit = weight * ratio - (weight - 1) * narrow[key][0]
        scores[key] = (limit - 1) / np.hypot(weight * se, (weight - 1) * narrow[key][1])
    return scores


def _ratios(
    model: nn.Sequential, weights: Weights, x: Tensor, draws: int, seed: int
) -> dict[tuple[str, int], tuple[float, float]]:
    frame = predict_image(model, weights, x, seed)
    values = measure_draws(model, weights, x, draws, seed)
    ratios = {}
    for quantity in FORWARD[:1] + BACKWARD:
        rows = frame[frame.quantity == quantity]
        value = rows.value.to_numpy()
        se = np.hypot(standard_error(values[quantity]), rows.sampling_se.to_numpy()) / value
        deviations = zip(values[quantity].mean(0) / value, np.maximum(se, 1e-9), strict=True)
        ratios |= {(quantity, layer): entry for layer, entry in enumerate(deviations, start=1)}
    return ratios


def standard_error(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) / len(values) ** 0.5


def _scores(
    frame: pd.DataFrame, means: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[tuple[str, int], float]:
    scores = {}
    for quantity, (mean, se) in means.items():
        rows = frame[frame.quantity == quantity]
        value, sampling_se = rows.value.to_numpy(), rows.sampling_se.to_numpy()
        # Constant values have no standard error, only rounding errors.
        se = np.maximum(np.hypot(se, sampling_se), 1e-9 * np.abs(value) + 1e-300)
        deviations = ((mean - value) / se).tolist()
        scores |= {(quantity, layer): z for layer, z in enumerate(deviations, start=1)}
    return scores


def rejected_scores(scores: dict, level: float = 1e-3) -> dict:
    """Return the scores that Holm's procedure rejects at a family-wise level (Holm 1979)."""
    ordered = sorted(scores.items(), key=lambda item: -abs(item[1]))
    significant = {}
    for rank, (key, z) in enumerate(ordered):
        if 2 * norm.sf(abs(z)) > level / (len(ordered) - rank):
            break
        significant[key] = z
    return significant
