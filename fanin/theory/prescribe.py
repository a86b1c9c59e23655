"""`prescribe`: gains that keep a network's second moments constant on given images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from pydantic import Field, PositiveInt
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

from fanin.images import MAX_IMAGES
from fanin.inits import (
    HeNormal,
    Init,
    Moments,
    Scheme,
    WeightShape,
    set_scalars,
    to_init,
    weight_layers,
)
from fanin.inits.init import LayerInit
from fanin.progress import show_progress
from fanin.text import Fitted, shorten_path, to_html, to_text
from fanin.theory.certificate.measured import measure_draws, summarize_draws
from fanin.theory.certificate.weights import (
    WeightMoments,
    cpu_copy,
    estimated_moments,
    prepare_inputs,
    resolve_moments,
)
from fanin.theory.cost import expected_phases
from fanin.theory.gains import Direction, find_gains, scale_branch_norms, scale_moments
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments
from fanin.theory.network import describe_layer
from fanin.theory.predict import predict_moments, weight_stages

DIGITS = 6
TABLE_VARIANTS = ((24, True), (24, False), (12, False))  # width of the path, sizes of the module


@dataclass(frozen=True)
class Prescription:
    """Gains of one network's layers. Created by `prescribe`.

    Attributes
    ----------
    gains
        Factors on the weights that the init draws, by layer name.
    init
        The init with these gains.
    moments
        Moments of the weights with these gains, by layer name.
    direction, target
        Arguments of `prescribe`.
    branch_scales
        Scales (`weight`) of the normalizations that end residual branches, by module path.
    """

    gains: Mapping[str, float]
    init: Init
    moments: Mapping[str, LayerMoments]
    direction: Direction
    target: float
    _inputs: tuple[nn.Module, Tensor, tuple[LayerKind, ...]] = field(repr=False, compare=False)
    branch_scales: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def __rich__(self) -> Fitted:
        model, images, layer_kinds = self._inputs
        stages = weight_stages(model, self.moments, images, layer_kinds)
        tables = []
        for path_width, has_sizes in TABLE_VARIANTS:
            table = Table(
                *(Column("#", justify="right"), Column("path", no_wrap=True)),
                *(Column("type", no_wrap=True), Column("output", justify="right", no_wrap=True)),
                box=SIMPLE_HEAD,
                show_edge=False,
                pad_edge=False,
                padding=(0, 1, 0, 0),
                header_style="bold",
            )
            for heading in ("params", "gain", "weight mean", "weight std", "bias mean", "bias std"):
                table.add_column(heading, justify="right", no_wrap=True)
            for index, stage in enumerate(stages, start=1):
                moments = map("{:.3g}".format, _mean_and_std(self.moments[stage.name]))
                kind, *sizes = describe_layer(model, stage)
                texts = (
                    *(f"{index}", shorten_path(stage.name, path_width)),
                    *(kind if has_sizes else kind.partition("(")[0], *sizes),
                    *(f"{self.gains[stage.name]:.3g}", *moments),
                )
                table.add_row(*map(Text, texts))
            tables.append(table)
        return Fitted(tables)

    def _repr_html_(self) -> str:
        return to_html(self.__rich__())

    def __repr__(self) -> str:
        low, high = min(self.gains.values()), max(self.gains.values())
        return (
            f"Prescription({len(self.gains)} layers, direction={self.direction!r},"
            f" gains from {low:.3g} to {high:.3g})"
        )

    @property
    def overrides(self) -> tuple[str, ...]:
        """The gains as overrides for `fanin run`."""
        layers = self.init.layers
        return tuple(
            f"init.layers.{name}.gain={layers[name].gain:.{DIGITS}g}" for name in self.gains
        )

    @property
    def torch_code(self) -> str:
        """PyTorch code that draws Gaussian weights with the prescribed moments."""
        rows = [f"    {name!r}: {_mean_and_std(self.moments[name])}," for name in self.gains]
        code = _CODE.format(rows="\n".join(rows))
        if self.branch_scales:
            scales = {name: float(f"{x:.{DIGITS}g}") for name, x in self.branch_scales.items()}
            code += _NORM_CODE.format(scales=scales)
        return code

    def check(self, draws: int = 16, seed: int = 0) -> pd.DataFrame:
        """Measure new draws of the network with the prescribed gains.

        Parameters
        ----------
        draws
            Number of draws.
        seed
            Seed of the draws.

        Returns
        -------
        pandas.DataFrame
            A row per layer with the columns `layer_name`, `gain`, `preact_m2` (prediction of theory
            `field`), `preact_m2_measured` (mean over the draws) and `preact_m2_se` (standard error
            of that mean), and the same three columns for `vjp_m2`.
        """
        model, images, layer_kinds = self._inputs
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
    images: Float[Tensor | np.ndarray, "image ..."],
    target: float = 1.0,
    *,
    init: Init | Scheme | str = "he_normal",
    direction: Direction = "forward",
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    max_images: int | None = MAX_IMAGES,
    quiet: bool = False,
) -> Prescription:
    """Compute the gains that keep a network's second moments constant on given images.

    Theory `field` computes the gains once and takes zero padding, pooling, biases and the actual
    images into account. The gains hold for every draw of the weights. LSUV (Mishkin & Matas 2016),
    in contrast, rescales each draw with a forward pass per layer.

    Parameters
    ----------
    model
        Any module that `certify` predicts. Its weights are neither read nor changed.
    images
        A few preprocessed inputs, as the network receives them: a tensor or numpy array.
    target
        E[y^2] that the pre-activations of every layer have with forward gains. In a network of n
        residual branches, the last layer of each branch has `target` / n instead. If a
        normalization ends the branch, its scale is part of the prescription (`branch_scales`).
    init
        Init whose weights the gains multiply: a name, a scheme or an `Init`.
    direction
        `forward` keeps E[y^2] of the pre-activations constant, `backward` keeps E[d^2] of the
        cotangents constant, and `both` uses the geometric mean of the two gains.
    seed
        Seed of the theory's own sampling.
    layer_kinds, max_images, quiet
        Same as for `certify`.

    Returns
    -------
    Prescription
        The gains, the init with these gains, and ways to apply and check them.

    Raises
    ------
    UnpredictableLayer
        A layer has no formula, or no gain can reach the target.
    InputError
        The images or the model are invalid.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    >>> prescription = prescribe(net, torch.full((1, 1, 8, 8), 2.0))
    >>> prescription.overrides[0]  # He init alone gives E[y^2] = 2 * 4
    'init.layers.1.gain=0.353553'
    """
    base = to_init(init)
    net, inputs, _, _ = prepare_inputs(
        "prescribe", model, images, max_images=max_images, quiet=quiet
    )
    moments = resolve_moments(net, base).moments
    set_scalars(net, base)
    phases, details = expected_phases(
        net, inputs, ("field",), moments=moments, layer_kinds=layer_kinds
    )
    with show_progress("prescribe", phases, details=details, quiet=quiet):
        scales = {} if layer_kinds else scale_branch_norms(net, moments, inputs, target)
        gains = find_gains(net, moments, inputs, target, direction, seed, layer_kinds)
    return Prescription(
        gains=gains,
        init=_with_gains(base, base.for_model(net), gains),
        moments=scale_moments(moments, gains),
        direction=direction,
        target=target,
        _inputs=(net, inputs, tuple(layer_kinds)),
        branch_scales=scales,
    )


def _with_gains(init: Init, layers: Mapping[str, LayerInit], gains: Mapping[str, float]) -> Init:
    scaled = {
        name: replace(layers[name], gain=layers[name].gain * gain) for name, gain in gains.items()
    }
    return replace(init, layers={**init.layers, **scaled})


def _mean_and_std(moments: LayerMoments) -> tuple[float, float, float, float]:
    """Return mean and standard deviation of weights and biases, averaged over kernel taps."""
    return (*_rounded(moments.weight), *_rounded(moments.bias))


def _rounded(moments: Moments) -> tuple[float, float]:
    mean = torch.as_tensor(moments.mean, dtype=torch.float64)
    var = torch.as_tensor(moments.var, dtype=torch.float64)
    std = (var.mean() + mean.var(correction=0)).sqrt()
    return float(f"{float(mean.mean()):.{DIGITS}g}"), float(f"{float(std):.{DIGITS}g}")


_CODE = """\
import torch

# layer: (weight mean, weight std, bias mean, bias std)
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
_NORM_CODE = """\
    for name, scale in {scales}.items():  # normalizations at the end of residual branches
        model.get_submodule(name).weight.fill_(scale)
"""


@dataclass(frozen=True)
class Certified:
    """He init with the gains of `prescribe`, which keep the second moments constant.

    `calibrate` computes the gains from the images with theory `field`, not from activations, so
    they are the same for every draw and are computed once. They depend on the images, so `moments`
    returns None. The gains assume that this scheme draws all layers, with their current biases.

    Parameters
    ----------
    target
        E[y^2] of the pre-activations of every layer.
    direction
        `forward` keeps E[y^2] constant, `backward` the E[d^2] of the cotangents, `both` uses the
        geometric mean of the two gains.
    images
        Number of calibration images to use, counted from the first.
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
        """Multiply the weights of the named layers by their gains, in place."""
        modules = weight_layers(model)
        moments = {
            name: LayerMoments(
                HeNormal().moments(WeightShape.of(module)), estimated_moments(module.bias)
            )
            for name, module in modules.items()
        }
        inputs = images[: self.images].to("cpu", torch.float64)
        gains = find_gains(cpu_copy(model), moments, inputs, self.target, self.direction)
        for name in layers:
            modules[name].weight.mul_(gains.get(name, 1.0))  # 1: the model does not use the layer
