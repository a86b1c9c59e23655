"""Real draws of a network: the probe's quantities, and the sharpness of the loss."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from fanin.errors import ConfigError
from fanin.inits import weight_layers
from fanin.losses import Objective
from fanin.probes.measure import LossFunctions, measure
from fanin.probes.moments import random_cotangent
from fanin.probes.sharpness import sharpness
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
) -> pd.DataFrame:
    """Measure fresh draws of a network's weights, in float64.

    Returns
    -------
    pandas.DataFrame
        Columns `draw`, `image` (-1: mean over the images), `layer` (-1: the whole net),
        `layer_name`, `quantity` (those of the `layers` table), `value`.
    """
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    for number, network in enumerate(draw_networks(model, weights, draws, seed) if draws else ()):
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
            )
        frames.append(pd.DataFrame(measured.layers).assign(draw=number)[list(COLUMNS)])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def summarize_draws(draws: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """By layer and quantity, the mean over draws and its standard error, of the mean image."""
    rows = draws[(draws.image == -1) & (draws.layer > 0)]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, quantity), group in rows.groupby(["layer_name", "quantity"], sort=False):
        values = group.value.to_numpy(float)
        n = len(values)
        error = values.std(ddof=1) / n**0.5 if n > 1 else float("nan")
        found.setdefault(str(name), {})[str(quantity)] = (float(values.mean()), float(error))
    return found


WHOLE_NET = ""
# derivations.md, section 6: 32 points, width 256, full batch; what was seen, not what was proved.
SHARPNESS_NOTES = {
    "mse": (
        "full-batch gradient descent overshoots from a learning rate of 2/sharpness on; nets of two"
        " layers diverge at 4/sharpness, deeper rectifier nets at 8 to 40/sharpness"
    ),
    "cross_entropy": (
        "a cautious bound only: this loss flattens as soon as the batch is fitted, and rectifier"
        " nets first overshot at 20 to 40 times 1/sharpness"
    ),
}
OTHER = "a cautious bound: gradient descent on a quadratic of this curvature diverges beyond it"


def sharpness_by_layer(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    labels: Shaped[Tensor, " image"],
    weights: WeightMoments,
    objective: Objective,
    seed: int = 0,
) -> dict[str, float]:
    """Largest Hessian eigenvalue of the mean loss of one draw, whole net and single layers.

    In evaluation mode: a loss that changes with each dropout mask has no curvature.

    Returns
    -------
    dict
        By layer name, where only that layer's weights and biases may move; the whole net's under
        the empty name.
    """
    (network,) = draw_networks(model, weights, 1, seed)
    network.eval()
    found = {WHOLE_NET: sharpness(network, objective.loss, images, labels)}
    for name, layer in weight_layers(network).items():
        alone = _OnlyLayer(network, name, layer)
        found[name] = sharpness(alone, objective.loss, images, labels)
    return found


def sharpness_note(loss: str) -> str:
    """Say what 2 / sharpness does and does not mean for a loss."""
    return SHARPNESS_NOTES.get(loss, OTHER)


class _OnlyLayer(nn.Module):
    """A network in which one layer's parameters are the only ones."""

    def __init__(self, network: nn.Module, name: str, layer: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that its parameters aren't taken for ours
        self._prefix = name
        for key, parameter in layer.named_parameters():
            self.register_parameter(key, nn.Parameter(parameter.detach()))

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self._network
        own: dict[str, Tensor] = {
            f"{self._prefix}.{key}": value for key, value in self.named_parameters()
        }
        y: Tensor = functional_call(network, own, (x,))
        return y
