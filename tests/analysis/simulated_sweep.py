"""Simulated comparisons: ReLU chains with their first-order finite-width law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from relu_moments import relu_log_sd, sample_relu_moments

from analysis.settings import Setting
from analysis.theory_comparison import TheoryComparison

QUANTITIES = ("preact_m2", "vjp_m2")


def simulated(
    settings: int,
    *,
    width: int = 64,
    depth: int = 4,
    draws: int = 64,
    images: tuple[int, ...] = (-1, 0),
    off: dict[tuple[int, str, int], float] | None = None,
    shrink: float = 1.0,
    method: str | Sequence[str] | None = "first_order",
    seed: int = 0,
) -> list[TheoryComparison]:
    """Simulate a sweep with a correct theory, except for given errors.

    `off` maps (setting, quantity, layer) to a factor: the measured moments of that layer and of all
    later layers in the direction of the quantity are larger than predicted by the factor. Predicted
    standard deviations are `shrink` times the true ones. `method` is that of all layers or of each
    layer; with None there is no such column.
    """
    rng = np.random.default_rng(seed)
    comparisons = []
    for number in range(settings):
        measured, predicted = [], []
        for quantity in QUANTITIES:
            forward = quantity == "preact_m2"
            for image in images:
                moments = sample_relu_moments(width, depth, (draws,), rng)
                for (n, name, layer), factor in (off or {}).items():
                    if (n, name) == (number, quantity):
                        moments[:, layer - 1 if forward else depth - layer :] *= factor
                sd = relu_log_sd(width, depth) * shrink
                if not forward:  # the signal passes from the last layer to the first
                    moments, sd = moments[:, ::-1], sd[::-1]
                measured.append(_draws(quantity, image, moments, number))
                predicted.append(_prediction(quantity, image, sd, method))
        setting = Setting({}, f"net {number}", {"init": f"i{number}"}, (f"c{number}",))
        frame = pd.concat(predicted, ignore_index=True)
        comparisons.append(
            TheoryComparison(setting, pd.concat(measured, ignore_index=True), frame, None)
        )
    return comparisons


def _draws(quantity: str, image: int, moments: np.ndarray, seed: int) -> pd.DataFrame:
    draw, position = np.indices(moments.shape)
    return pd.DataFrame(
        {
            "layer": position.ravel() + 1,
            "layer_name": [f"fc{n + 1}" for n in position.ravel()],
            "quantity": quantity,
            "image": image,
            "value": moments.ravel(),
            "draw": draw.ravel(),
            "seed_weights": seed,
        }
    )


def _prediction(
    quantity: str, image: int, sd: np.ndarray, method: str | Sequence[str] | None
) -> pd.DataFrame:
    layers = np.arange(len(sd)) + 1
    common = {"image": image, "layer": layers, "quantity": quantity, "sampling_se": 0.0}
    common["layer_name"] = [f"fc{n}" for n in layers]
    lowest = pd.DataFrame(common | {"theory": "he", "value": 0.5, "log_sd": np.nan})
    highest = pd.DataFrame(common | {"theory": "finite_width", "value": 1.0, "log_sd": sd})
    if method is not None:
        lowest["method"] = "exact"
        highest["method"] = method
    return pd.concat([lowest, highest], ignore_index=True)
