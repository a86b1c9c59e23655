"""Compare predictions on graphs with networks drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits
from torch import Tensor, nn

from analysis.studies.graph_draws import extrapolate, measure_graph, ratios
from fanin.inits import to_init
from fanin.statistics.holm import holm
from fanin.theory.field import Sampling
from fanin.theory.graph.plan import plan_graph
from fanin.theory.graph.predict import predict_graph
from fanin.theory.moments import declared_moments

Scores = dict[tuple[str, str], float]


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
    by_width = []
    for width in widths:
        model = build(width)
        moments = declared_moments(model, to_init(init))
        plan = plan_graph(model, moments, images, Sampling())
        prediction = predict_graph(model, moments, images)
        by_width.append(ratios(prediction, measure_graph(model, plan, images, init, draws)))
    narrow, wide = by_width
    limits = {key: extrapolate([narrow[key], wide[key]], widths) for key in wide}
    return {key: limit.z for key, limit in limits.items()}


def rejected(scores: Scores, level: float = 0.01) -> Scores:
    """Return the scores that Holm's method rejects at a level over all of them."""
    p = holm(2 * norm.sf(np.abs(list(scores.values()))))
    return {key: z for (key, z), value in zip(scores.items(), p, strict=True) if value < level}
