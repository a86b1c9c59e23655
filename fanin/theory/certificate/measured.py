"""Real draws of a network, measured as the lab measures them."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.losses import Objective
from fanin.probes.measure import Losses, measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import generator
from fanin.theory.certificate.networks import drawn
from fanin.theory.certificate.objectives import objective_of
from fanin.theory.certificate.weights import Weights

COLUMNS = ("draw", "image", "layer", "layer_name", "quantity", "value")


def measured_draws(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    weights: Weights,
    draws: int,
    seed: int = 0,
    labels: Shaped[Tensor, " image"] | None = None,
    loss: str | Objective = "cross_entropy",
) -> pd.DataFrame:
    """Measure fresh draws of a network's weights, in float64.

    Returns
    -------
    pandas.DataFrame
        Columns `draw`, `image` (-1: mean over the images), `layer` (-1: the whole net),
        `layer_name`, `quantity` (those of the `layers` table), `value`.
    """
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    for number, network in enumerate(drawn(model, weights, draws, seed) if draws else ()):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed + number)  # dropout masks
            with torch.no_grad():
                shape = tuple(network(images.clone()).shape)
            if len(shape) != 2:
                raise ConfigError(
                    f"measuring: expected a model that returns [image, logit], got {shape}"
                )
            n_images, n_logits = shape
            losses = None
            if labels is not None:
                objective = objective_of(loss, n_logits)
                losses = Losses(objective.per_example, objective.loss)
            measured = measure(
                network,
                images,
                random_cotangent(n_images, n_logits, generator("certify cotangent", seed, number)),
                singles=tuple(range(len(images))),
                targets=labels,
                losses=losses,
            )
        frames.append(pd.DataFrame(measured.layers).assign(draw=number)[list(COLUMNS)])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def summary(draws: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """By layer and quantity, the mean over draws and its standard error, of the mean image."""
    rows = draws[(draws.image == -1) & (draws.layer > 0)]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, quantity), group in rows.groupby(["layer_name", "quantity"], sort=False):
        values = group.value.to_numpy(float)
        n = len(values)
        error = values.std(ddof=1) / n**0.5 if n > 1 else float("nan")
        found.setdefault(str(name), {})[str(quantity)] = (float(values.mean()), float(error))
    return found
