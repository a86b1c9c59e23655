"""Measurements of sampled networks: the probe's quantities, and the sharpness of the loss."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from fanin.errors import ConfigError
from fanin.inits import weight_layers
from fanin.losses import Objective
from fanin.probes.measure import LossFunctions, Tracer, measure
from fanin.probes.moments import random_cotangent
from fanin.probes.sharpness import sharpness
from fanin.probes.trace import trace
from fanin.progress import set_phase
from fanin.seeds import make_generator
from fanin.theory.certificate.output import resolve_objective
from fanin.theory.certificate.weights import WeightMoments, draw_networks

COLUMNS = ("draw", "image", "layer", "layer_name", "quantity", "value")


def measure_draws(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    weights: WeightMoments,
    draws: int,
    seed: int = 0,
    labels: Shaped[Tensor, " image"] | None = None,
    loss: str | Objective = "cross_entropy",
    tracer: Tracer = trace,
) -> pd.DataFrame:
    """Measure new draws of a network's weights, in float64.

    A `GraphTracer` of the model also measures sums and normalizations.

    Returns
    -------
    pandas.DataFrame
        Columns `draw`, `image` (-1: mean over the images), `layer` (-1: the whole network),
        `layer_name`, `quantity` (names of the `layers` table) and `value`.
    """
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    for number, network in enumerate(draw_networks(model, weights, draws, seed) if draws else ()):
        set_phase("draw", number, draws)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed + number)  # dropout masks
            with torch.no_grad():
                shape = tuple(tracer(network, images.clone())[1].shape)
            if len(shape) != 2:
                raise ConfigError(
                    f"the model returns a tensor of shape {shape}; measuring needs a model that"
                    " returns shape (images, logits)"
                )
            n_images, n_logits = shape
            losses = None
            if labels is not None:
                objective = resolve_objective(loss, n_logits)
                losses = LossFunctions(objective.per_example, objective.loss)
            measured = measure(
                network,
                images,
                random_cotangent(
                    n_images, n_logits, make_generator("certify cotangent", seed, number)
                ),
                single_images=tuple(range(len(images))),
                targets=labels,
                losses=losses,
                tracer=tracer,
            )
        frames.append(pd.DataFrame(measured.layers).assign(draw=number)[list(COLUMNS)])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def summarize_draws(draws: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the mean over draws and its standard error, by layer and quantity."""
    rows = draws[(draws.image == -1) & (draws.layer > 0)]
    summary: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, quantity), group in rows.groupby(["layer_name", "quantity"], sort=False):
        values = group.value.to_numpy(float)
        n = len(values)
        error = values.std(ddof=1) / n**0.5 if n > 1 else float("nan")
        summary.setdefault(str(name), {})[str(quantity)] = (float(values.mean()), float(error))
    return summary


WHOLE_NETWORK = ""
# Measured in derivations.md, section 6 (32 points, width 256, full batch), not proved.
SHARPNESS_NOTES = {
    "mse": (
        "the learning rate at which full-batch gradient descent starts to overshoot; two-layer"
        " networks diverge at 4/sharpness, deeper ReLU networks at 8/sharpness to 40/sharpness"
    ),
    "cross_entropy": (
        "a conservative bound on the learning rate: the curvature of this loss decreases once the"
        " batch is fitted, and ReLU networks first overshot at 20/sharpness to 40/sharpness"
    ),
}
DEFAULT_SHARPNESS_NOTE = (
    "a conservative bound on the learning rate: above it, gradient descent on a quadratic with this"
    " curvature diverges"
)


def sharpness_by_layer(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    labels: Shaped[Tensor, " image"],
    weights: WeightMoments,
    objective: Objective,
    seed: int = 0,
) -> dict[str, float]:
    """Return the largest Hessian eigenvalue of the mean loss of one draw.

    The network is in evaluation mode, because a loss with random dropout masks has no Hessian.

    Returns
    -------
    dict
        Eigenvalue with respect to the weights and biases of each layer, by layer name, and with
        respect to all parameters, under the key "".
    """
    (network,) = draw_networks(model, weights, 1, seed)
    network.eval()
    eigenvalues = {WHOLE_NETWORK: sharpness(network, objective.loss, images, labels)}
    for name, layer in weight_layers(network).items():
        single = _SingleLayer(network, name, layer)
        eigenvalues[name] = sharpness(single, objective.loss, images, labels)
    return eigenvalues


def sharpness_note(loss: str) -> str:
    """Explain the meaning of the learning rate 2 / sharpness for a loss."""
    return SHARPNESS_NOTES.get(loss, DEFAULT_SHARPNESS_NOTE)


class _SingleLayer(nn.Module):
    """A network whose only parameters are those of one layer."""

    def __init__(self, network: nn.Module, name: str, layer: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # a tuple, so that its parameters are not registered here
        self._prefix = name
        for key, parameter in layer.named_parameters():
            self.register_parameter(key, nn.Parameter(parameter.detach()))

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self._network
        parameters: dict[str, Tensor] = {
            f"{self._prefix}.{key}": value for key, value in self.named_parameters()
        }
        y: Tensor = functional_call(network, parameters, (x,))
        return y
