"""`explain`: the ratio of measured to He-predicted second moments, factor by factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from rich.console import Group
from torch import Tensor, nn
from torch.nn.modules import pooling

from fanin.errors import ConfigError
from fanin.images import MAX_IMAGES
from fanin.inits import Moments
from fanin.plots import create_axes, label_layers, plot_factors
from fanin.progress import show_progress
from fanin.seeds import make_generator
from fanin.statistics.draw_distribution import SHAPE, predicted_mean_log
from fanin.text import to_html, to_text
from fanin.theory.certificate.measured import measure_draws
from fanin.theory.certificate.weights import InitLike, prepare_inputs, resolve_moments
from fanin.theory.cost import expected_phases
from fanin.theory.explanation_table import (
    AXIS_LABELS,
    NEGLIGIBLE,
    render_explanation,
)
from fanin.theory.layer_kind import LayerKind
from fanin.theory.layers import AVERAGE_POOL, MAX_POOL
from fanin.theory.moments import LayerMoments
from fanin.theory.network import describe_layer, parse_network
from fanin.theory.predict import predict_moments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = (
    *("activation", "weight mean", "biases", "stride", "real data", "padding", "pooling"),
    *("width", "rest"),
)
STEP_THEORIES = (
    *(("he", "he"), ("activation", "mean_field"), ("weight mean", "mean_field")),
    *(("biases", "mean_field"), ("stride", "field"), ("real data", "field")),
    *(("padding", "field"), ("pooling", "field"), ("width", "finite_width")),
)
FORWARD, BACKWARD = "preact_m2", "vjp_m2"


@dataclass(frozen=True)
class Explanation:
    """Factors between He's prediction and the measurement. Created by `explain`.

    Attributes
    ----------
    frame
        Columns `quantity` (`preact_m2`, `vjp_m2`), `layer`, `layer_name`, `step` (one of `STEPS`),
        `factor` (cumulative from the first layer, or for `vjp_m2` from the last), `log_se`
        (standard error of log `factor`) and `layer_factor` (`factor` divided by that of the
        previous layer in the same direction).
    ends
        Columns `quantity`, `layer`, `layer_name`, `he`, `measured` (geometric mean over the draws
        that are not 0) and `log_se` (standard error of log `measured`). The product of all factors
        is `measured` / `he`.
    draws
        Number of measured draws.
    width_method
        Method of the step `width`, a name from `fanin.theory.prediction.METHODS`. If it is
        `simulated`, the factors `width` and `rest` compare drawn networks with drawn networks.
    modules
        Type, output shape and number of parameters of each layer, by layer name.
    """

    frame: pd.DataFrame
    ends: pd.DataFrame
    draws: int
    width_method: str
    modules: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    def factors(self, quantity: str = FORWARD) -> pd.DataFrame:
        """Return the factors as a table with a row per layer and a column per step."""
        rows = self.frame[self.frame.quantity == quantity]
        wide = rows.pivot(index="layer_name", columns="step", values="factor")
        return wide.loc[rows.layer_name.unique(), list(STEPS)]

    def network_factors(self, quantity: str = FORWARD) -> pd.Series:
        """Return the factors of the whole network (last layer, or first layer for `vjp_m2`)."""
        factors = self.factors(quantity)
        return factors.iloc[-1 if quantity == FORWARD else 0]

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the factors of every layer, forward and backward, and their product.

        Parameters
        ----------
        axes
            Two axes to draw on, for the forward and the backward pass. None creates a figure.

        Returns
        -------
        tuple of matplotlib.axes.Axes
            The two axes.

        Raises
        ------
        FaninError
            matplotlib is not installed.

        Examples
        --------
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        >>> forward, backward = explain(net, np.ones((1, 1, 8, 8)), "he_normal", draws=2).plot()
        >>> forward.get_ylabel()
        'forward: factor on E[$y^2$]'
        """
        forward, backward = create_axes(2, self.ends["layer"].nunique(), axes)
        for ax, quantity in ((forward, FORWARD), (backward, BACKWARD)):
            ends, factors = self.ends[self.ends["quantity"] == quantity], self.factors(quantity)
            with np.errstate(divide="ignore", invalid="ignore"):
                total = (ends["measured"] / ends["he"]).tolist()
            plot_factors(ax, factors, total, AXIS_LABELS[quantity], NEGLIGIBLE)
        names = [str(name) for name in ends["layer_name"]]
        numbered = [f"{n}: {name}" for n, name in zip(ends["layer"], names, strict=True)]
        label_layers(backward, numbered, [self.modules.get(name, ("",))[0] for name in names])
        forward.tick_params(labelbottom=False)
        return forward, backward

    def __repr__(self) -> str:
        return f"Explanation({self.ends.layer.nunique()} layers, {self.draws} draws)"

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def __rich__(self) -> Group:
        return render_explanation(
            {quantity: self.factors(quantity) for quantity in (FORWARD, BACKWARD)},
            *(self.ends, self.modules, self.draws, self.width_method),
        )

    def _repr_html_(self) -> str:
        return to_html(self.__rich__())


def explain(
    model: nn.Module,
    images: Float[Tensor | np.ndarray, "image ..."],
    init: InitLike | None = None,
    *,
    measured: pd.DataFrame | None = None,
    draws: int = 16,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    max_images: int | None = MAX_IMAGES,
    quiet: bool = False,
) -> Explanation:
    """Explain the difference between He's prediction and the measurement as a product of factors.

    Each step drops one assumption of He's formula. Its factor is the prediction after the step
    divided by the prediction before it. The predictions are those of theory `mean_field` for the
    first three steps and of theory `field` after that:

    1. `activation`: the actual activation function instead of He's gain.
    2. `weight mean`: weights of non-zero mean.
    3. `biases`: biases.
    4. `stride`: the positions that strides skip. In this step, images have no structure, padding
       is circular, and pooling takes the middle of each window.
    5. `real data`: the actual images.
    6. `padding`: the actual padding.
    7. `pooling`: the actual pooling.
    8. `width`: geometric mean over networks of this width instead of the arithmetic mean.
    9. `rest`: measurement divided by the prediction with all steps.

    The product of all factors is exactly measured / He.

    Parameters
    ----------
    model, images, init, layer_kinds, max_images, quiet
        Same as for `certify`.
    measured
        Measured draws to explain (`Certificate.draws`). None measures `draws` new ones.
    draws
        Number of draws to measure.
    seed
        Seed of the draws and of the theories' own sampling.

    Returns
    -------
    Explanation
        Print it to see the factors of every layer.

    Raises
    ------
    UnpredictableLayer
        A theory has no formula for a layer.
    InputError
        The images or the model are invalid.
    ConfigError
        `draws` is below 1, or `init` is unknown.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    >>> explanation = explain(net, torch.ones(1, 1, 8, 8), "he_normal", draws=4)
    >>> round(float(explanation.network_factors()["activation"]), 2)  # He's formula assumes linear
    0.26
    """
    if measured is None and draws < 1:
        raise ConfigError(f"draws={draws}: must be 1 or more")
    net, inputs, _, _ = prepare_inputs("explain", model, images, max_images=max_images, quiet=quiet)
    weights = resolve_moments(net, init)
    theories = [theory for _, theory in STEP_THEORIES]
    phases, details = expected_phases(
        net, inputs, theories, moments=weights.moments, layer_kinds=layer_kinds
    )
    if measured is None:
        draw_phases, details = expected_phases(
            net, inputs, (), draws=draws, layer_kinds=layer_kinds
        )
        phases = [*draw_phases, *phases]
    with show_progress("explain", phases, details=details, quiet=quiet):
        if measured is None:
            measured = measure_draws(net, inputs, weights, draws, seed)
        predicted, predicted_se, width_method = _log_predictions(
            net, weights.moments, inputs, seed, layer_kinds
        )
    ends, factors = [], []
    for quantity in (FORWARD, BACKWARD):
        names = list(predicted[quantity].index)
        log_measured, log_se, n = _mean_log(measured, quantity, names)
        logs = predicted[quantity].assign(rest=log_measured)
        log_ses = predicted_se[quantity].assign(rest=log_se)
        factors.append(_factors(quantity, logs, log_ses))
        ends.append(
            pd.DataFrame(
                {
                    "quantity": quantity,
                    "layer": range(1, len(logs) + 1),
                    "layer_name": logs.index,
                    "he": np.exp(logs["he"].to_numpy()),
                    "measured": np.exp(log_measured),
                    "log_se": log_se,
                }
            )
        )
    factor_table, end_table = (pd.concat(t, ignore_index=True) for t in (factors, ends))
    stages = parse_network(net, tuple(inputs.shape[1:]), layer_kinds).stages
    modules = {stage.name: describe_layer(net, stage) for stage in stages}
    return Explanation(factor_table, end_table, n, width_method, modules)


def _log_predictions(
    net: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], str]:
    """Return log predictions and standard errors [layer, step] by quantity, and the last method.

    The first column is `he`.
    """
    zero_mean, no_bias = without_means(moments), without_biases(moments)
    subsampled = use_subsampling(net)
    structureless = remove_structure(images, moments, seed)
    variants: Sequence[tuple[nn.Module, Mapping[str, LayerMoments], Tensor]] = (
        (net, moments, images),
        (net, without_biases(zero_mean), images),
        (net, no_bias, images),
        (net, moments, images),
        (use_circular_padding(subsampled), moments, structureless),
        (use_circular_padding(subsampled), moments, images),
        (subsampled, moments, images),
        (net, moments, images),
        (net, moments, images),
    )
    logs: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    errors: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    for (step, theory), variant in zip(STEP_THEORIES, variants, strict=True):
        network, variant_moments, inputs = variant
        frame = predict_moments(network, variant_moments, inputs, (theory,), seed, layer_kinds)
        for quantity in logs:
            rows = frame[(frame.image == -1) & (frame.quantity == quantity)]
            rows = rows.set_index("layer_name")
            with np.errstate(divide="ignore", invalid="ignore"):
                log_value = np.log(rows.value)
                # The geometric mean over networks is below the arithmetic mean (Hanin & Nica 2020).
                # It leaves out networks with a moment of 0.
                shape = rows[[*SHAPE]].fillna(0.0)
                mean_log = predicted_mean_log(log_value, *shape.to_numpy(float).T)
                logs[quantity][step] = pd.Series(mean_log, rows.index)
                errors[quantity][step] = rows.sampling_se / rows.value
    return (
        {quantity: pd.DataFrame(columns) for quantity, columns in logs.items()},
        {quantity: pd.DataFrame(columns) for quantity, columns in errors.items()},
        str(frame.method.iloc[0]),
    )


def _mean_log(
    draws: pd.DataFrame, quantity: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    rows = draws[(draws.image == -1) & (draws.quantity == quantity)]
    wide = rows.pivot(index="draw", columns="layer_name", values="value")[list(names)]
    wide = wide.where(wide != 0)  # the geometric mean leaves out draws of 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(wide)
    return logs.mean().to_numpy(), logs.sem(ddof=1).to_numpy(), len(logs)


def _factors(quantity: str, logs: pd.DataFrame, errors: pd.DataFrame) -> pd.DataFrame:
    steps = logs.diff(axis=1)[list(STEPS)]
    log_se = np.sqrt(errors**2 + errors.shift(1, axis=1) ** 2)[list(STEPS)]
    layer_steps = steps - steps.shift(1 if quantity == FORWARD else -1).fillna(0.0)
    n = len(logs)
    return pd.DataFrame(
        {
            "quantity": quantity,
            "layer": np.repeat(np.arange(1, n + 1), len(STEPS)),
            "layer_name": np.repeat(logs.index.to_numpy(object), len(STEPS)),
            "step": np.tile(np.array(STEPS, dtype=object), n),
            "factor": np.exp(steps.to_numpy()).ravel(),
            "log_se": log_se.to_numpy().ravel(),
            "layer_factor": np.exp(layer_steps.to_numpy()).ravel(),
        }
    )


POOLINGS = (*MAX_POOL.modules, *AVERAGE_POOL.modules)


def without_means(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """Set the mean of the weights to 0 and keep their variance."""
    return {
        name: replace(layer, weight=Moments(0.0, layer.weight.var))
        for name, layer in moments.items()
    }


def without_biases(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """Set the biases to 0."""
    return {name: replace(layer, bias=Moments(0.0, 0.0)) for name, layer in moments.items()}


def remove_structure(
    images: Float[Tensor, "image ..."], moments: Mapping[str, LayerMoments], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Return images without spatial structure and with the same mean square.

    If all weights have mean 0, all pixels of an image get the same value. Otherwise the pixels are
    shuffled, which also keeps their mean.
    """
    pixels = images.flatten(1)
    if all(not torch.as_tensor(layer.weight.mean).any() for layer in moments.values()):
        level = pixels.square().mean(1, keepdim=True).sqrt()
        return level.expand_as(pixels).reshape(images.shape).contiguous()
    stream = make_generator("shuffled pixels", seed)
    order = torch.stack([torch.randperm(pixels.shape[1], generator=stream) for _ in pixels])
    return pixels.gather(1, order).reshape(images.shape)


def use_circular_padding(model: nn.Module) -> nn.Module:
    """Return a copy whose convolutions use circular padding instead of zero padding."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode == "zeros":
            module.padding_mode = "circular"
    return copy


def use_subsampling(model: nn.Module) -> nn.Module:
    """Return a copy that replaces pooling by the middle element of each window."""
    copy = deepcopy(model)
    _replace_pooling(copy)
    return copy


class Subsample(nn.AvgPool2d):
    """Pooling layer that returns the middle element of each window.

    Examples
    --------
    >>> middle = Subsample(nn.MaxPool2d(3, stride=2))
    >>> middle(torch.arange(25.0).reshape(1, 1, 5, 5)).flatten().tolist()
    [6.0, 8.0, 16.0, 18.0]
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__(1)
        self.pool = pool

    def forward(self, x: Float[Tensor, "image channel *position"]) -> Tensor:
        out = self.pool(x.detach())
        out = out[0] if isinstance(out, tuple) else out
        for axis, size in enumerate(out.shape[2:], start=2):
            middles = self._middles(axis - 2, x.shape[axis], size)
            x = x.index_select(axis, torch.tensor(middles, device=x.device))
        return x

    def _middles(self, axis: int, inputs: int, outputs: int) -> list[int]:
        if isinstance(self.pool, pooling._AdaptiveAvgPoolNd | pooling._AdaptiveMaxPoolNd):
            starts = [i * inputs // outputs for i in range(outputs)]
            stops = [ceil((i + 1) * inputs / outputs) for i in range(outputs)]
            return [(start + stop - 1) // 2 for start, stop in zip(starts, stops, strict=True)]
        size = _axis_option(self.pool.kernel_size, axis)
        padding = _axis_option(self.pool.padding, axis)
        stride = _axis_option(self.pool.stride, axis)
        reach = (size - 1) * _axis_option(getattr(self.pool, "dilation", 1), axis)
        return [min(max(i * stride - padding + reach // 2, 0), inputs - 1) for i in range(outputs)]


def _axis_option(option: object, axis: int) -> int:
    return int(option[axis]) if isinstance(option, tuple) else int(str(option))


def _replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, POOLINGS):
            setattr(module, name, Subsample(child))
        else:
            _replace_pooling(child)
