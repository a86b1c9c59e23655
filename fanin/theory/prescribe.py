"""`prescribe`: the certificate inverted, gains that keep this network level on these images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Float, Float64
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fanin.inits import HeNormal, Init, Moments, Scheme, WeightShape, weight_layers
from fanin.inits.init import LayerInit
from fanin.theory.certificate.measured import measure_draws, summarize_draws
from fanin.theory.certificate.weights import (
    WeightMoments,
    cpu_copy,
    estimated_moments,
    resolve_moments,
)
from fanin.theory.gains import Direction, find_gains, scale_moments
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments
from fanin.theory.predict import predict_moments

DIGITS = 6


@dataclass(frozen=True)
class Prescription:
    """Gains for one network's layers. Made by `prescribe`.

    Attributes
    ----------
    gains
        By layer name: what multiplies the weights that the init draws.
    init
        The init with these gains in it.
    moments
        Of the prescribed weights.
    direction, target
        What was asked.
    """

    gains: Mapping[str, float]
    init: Init
    moments: Mapping[str, LayerMoments]
    direction: Direction
    target: float
    _of: tuple[nn.Module, Tensor, tuple[LayerKind, ...]] = field(repr=False, compare=False)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The gains as overrides for `python -m experiments.run`."""
        layers = self.init.layers
        return tuple(
            f"init.layers.{name}.gain={layers[name].gain:.{DIGITS}g}" for name in self.gains
        )

    @property
    def torch_code(self) -> str:
        """A few lines of torch that draw Gaussian weights of the prescribed moments."""
        rows = [f"    {name!r}: {_numbers(self.moments[name])}," for name in self.gains]
        return _CODE.format(rows="\n".join(rows))

    def check(self, draws: int = 16, seed: int = 0) -> pd.DataFrame:
        """Measure fresh draws of the prescribed network.

        Returns
        -------
        pandas.DataFrame
            A row per layer: `layer_name`, `gain`, and for `preact_m2` and `vjp_m2` the prediction
            of theory `field`, the mean over the draws and its standard error.
        """
        model, images, layer_kinds = self._of
        weights = WeightMoments(self.moments, "declared", self.init)
        measured = summarize_draws(measure_draws(model, images, weights, draws, seed))
        frame = predict_moments(model, self.moments, images, ("field",), seed, layer_kinds)
        theory = frame[frame.image == -1].set_index(["layer_name", "quantity"]).value
        rows = []
        for name, gain in self.gains.items():
            row: dict[str, object] = {"layer_name": name, "gain": gain}
            for quantity in ("preact_m2", "vjp_m2"):
                mean, error = measured[name][quantity]
                row |= {
                    quantity: theory[name, quantity],
                    f"{quantity}_measured": mean,
                    f"{quantity}_se": error,
                }
            rows.append(row)
        return pd.DataFrame(rows)


def prescribe(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    target: float = 1.0,
    *,
    init: Init | Scheme | None = None,
    direction: Direction = "forward",
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> Prescription:
    """Find the gains that keep this network's second moments level on these images.

    Unlike LSUV (Mishkin & Matas 2016), which rescales one draw batch after batch, this asks the
    theory once: through zero padding, pooling, biases and the real images, whatever the draw.

    Parameters
    ----------
    model
        An `nn.Sequential`; its weights are neither read nor changed.
    images
        As the network is fed them; a handful.
    target
        E[y^2] of every layer's pre-activations, for the forward gains.
    init
        The init that the gains go on top of; None for `HeNormal()`.
    direction
        `forward` levels E[y^2], `backward` the cotangent's E[d^2], `both` takes the geometric mean
        of the two gains.
    seed
        Of what theory samples.
    layer_kinds
        As for `certify`.

    Raises
    ------
    UnpredictableLayer
        A layer without a formula, or one that no gain can level.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    >>> found = prescribe(net, torch.full((1, 1, 8, 8), 2.0))
    >>> found.overrides[0]  # He's gain would give 2 * 4
    'init.layers.1.gain=0.353553'
    """
    base = init if isinstance(init, Init) else Init(init if init is not None else HeNormal())
    net, fed = cpu_copy(model), images.detach().to("cpu").double()
    moments = resolve_moments(net, base).moments
    gains = find_gains(net, moments, fed, target, direction, seed, layer_kinds)
    return Prescription(
        gains=gains,
        init=_with_gains(base, base.for_model(net), gains),
        moments=scale_moments(moments, gains),
        direction=direction,
        target=target,
        _of=(net, fed, tuple(layer_kinds)),
    )


def _with_gains(init: Init, layers: Mapping[str, LayerInit], gains: Mapping[str, float]) -> Init:
    changed = {
        name: replace(layers[name], gain=layers[name].gain * gain) for name, gain in gains.items()
    }
    return replace(init, layers={**init.layers, **changed})


def _numbers(moments: LayerMoments) -> tuple[float, float, float, float]:
    """Mean and standard deviation of weights and biases, over kernel taps where they differ."""
    return (*_pair(moments.weight), *_pair(moments.bias))


def _pair(moments: Moments) -> tuple[float, float]:
    mean = torch.as_tensor(moments.mean, dtype=torch.float64)
    var = torch.as_tensor(moments.var, dtype=torch.float64)
    std = (var.mean() + mean.var(correction=0)).sqrt()
    return float(f"{float(mean.mean()):.{DIGITS}g}"), float(f"{float(std):.{DIGITS}g}")


_CODE = """\
import torch

# layer: mean and standard deviation of its weights, then of its biases
MOMENTS = {{
{rows}
}}


@torch.no_grad()
def init_weights(model):
    for name, (mean, std, bias_mean, bias_std) in MOMENTS.items():
        layer = model.get_submodule(name)
        layer.weight.normal_(mean, std)
        if layer.bias is not None:
            layer.bias.normal_(bias_mean, bias_std)
"""


@dataclass(frozen=True)
class Certified:
    """He's weights, times gains that level this network's second moments on its own images.

    `calibrate` looks at the images, never at what a draw makes of them: the gains are theory's, the
    same for every draw, and found once. Which they are depends on the images, so `moments` are
    unknown. All layers are taken to be draw_networks like this one, with the biases that they have.

    Parameters
    ----------
    target
        E[y^2] of every layer's pre-activations.
    direction
        `forward` levels E[y^2], `backward` the cotangent's, `both` takes the geometric mean.
    images
        How many of the calibration images theory is asked about, the first ones.
    """

    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    direction: Direction = "forward"
    images: PositiveInt = 8

    def moments(self, weight: WeightShape) -> None:
        return None

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return HeNormal().sample(weight, generator)

    @torch.no_grad()
    def calibrate(
        self,
        model: nn.Module,
        images: Float[Tensor, "image channel height width"],
        layers: Collection[str],
    ) -> None:
        """Multiply the weights of the layers of those names by their gains, in place."""
        modules = weight_layers(model)
        moments = {
            name: LayerMoments(
                HeNormal().moments(WeightShape.of(module)), estimated_moments(module.bias)
            )
            for name, module in modules.items()
        }
        fed = images[: self.images].to("cpu", torch.float64)
        gains = find_gains(cpu_copy(model), moments, fed, self.target, self.direction)
        for name in layers:
            modules[name].weight.mul_(gains[name])
