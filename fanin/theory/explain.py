"""`explain`: what lies between He's number and the measured one, factor by factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch.nn.modules import pooling

from fanin.inits import Init, Moments, Scheme
from fanin.seeds import make_generator
from fanin.theory.certificate.measured import measure_draws
from fanin.theory.certificate.weights import cpu_copy, resolve_moments
from fanin.theory.layer_kind import LayerKind
from fanin.theory.layers import AVERAGE_POOL, MAX_POOL
from fanin.theory.moments import LayerMoments
from fanin.theory.predict import predict_moments

STEPS = (
    *("activation", "weight mean", "biases", "stride", "real data", "padding", "pooling"),
    *("width", "rest"),
)
FORWARD, BACKWARD = "preact_m2", "vjp_m2"


@dataclass(frozen=True)
class Explanation:
    """The factors between He's number and the measured one. Made by `explain`.

    Attributes
    ----------
    frame
        `quantity` (`preact_m2`, `vjp_m2`), `layer`, `layer_name`, `step` (one of `STEPS`),
        `factor` (of the whole net up to this layer, or back to it), `error` (standard error of its
        logarithm), `own` (this layer's share: its factor over the one of the layer that feeds it).
    ends
        `quantity`, `layer`, `layer_name`, `he`, `measured` (geometric mean over the draws) and
        `log_se`, the standard error of its logarithm. The factors multiply to measured / he.
    draws
        How many were measured.
    """

    frame: pd.DataFrame
    ends: pd.DataFrame
    draws: int

    def factors(self, quantity: str = FORWARD) -> pd.DataFrame:
        """The factors as a table: a row per layer, a column per step."""
        rows = self.frame[self.frame.quantity == quantity]
        wide = rows.pivot(index="layer_name", columns="step", values="factor")
        return wide.loc[rows.layer_name.unique(), list(STEPS)]

    def network_factors(self, quantity: str = FORWARD) -> pd.Series:
        """The factors of the whole net: at the last layer, or for the way back at the first."""
        factors = self.factors(quantity)
        return factors.iloc[-1 if quantity == FORWARD else 0]

    def __rich__(self) -> Group:
        note = (
            f"measured: geometric mean over {self.draws} draws, the typical network; width is what"
            " theory says its width does to that"
        )
        return Group(_table(self, FORWARD, "E[y²]"), _table(self, BACKWARD, "E[δ²]"), Text(note))


def explain(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    init: Init | Scheme | Mapping[str, LayerMoments] | None = None,
    *,
    measured: pd.DataFrame | None = None,
    draws: int = 16,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
) -> Explanation:
    """Lift the assumptions of He's formula one after the other, up to the measured number.

    The steps, in this order, each a ratio of two predictions (theory 2 for the first three, then
    the field): `activation`, the function that is really there; `weight mean`; `biases`; `stride`,
    positions that are left out, on an image without structure (convolutions padded in a circle,
    pooling windows replaced by their middles); `real data`, the image itself; `padding`, as it is;
    `pooling`, as it is; `width`, the typical network of this width against the mean over infinitely
    wide ones; `rest`, the measured number against all that. They multiply to measured / He exactly.

    Parameters
    ----------
    model, images, init
        As for `certify`.
    measured
        Draws to explain (`Certificate.draws`); None measures `draws` fresh ones.
    draws, seed
        How many, and of what stream.
    layer_kinds
        As for `certify`.

    Raises
    ------
    UnpredictableLayer
        A layer without a formula.

    Examples
    --------
    >>> import torch
    >>> from fanin.inits import HeNormal
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    >>> found = explain(net, torch.ones(1, 1, 8, 8), HeNormal(), draws=4)
    >>> round(float(found.network_factors()["activation"]), 2)  # of tanh; He's formula takes it for linear
    0.26
    """
    net, fed = cpu_copy(model), images.detach().to("cpu").double()
    weights = resolve_moments(net, init)
    if measured is None:
        measured = measure_draws(net, fed, weights, draws, seed)
    logs, errors = _theories(net, weights.moments, fed, seed, layer_kinds)
    ends, rows = [], []
    for quantity in (FORWARD, BACKWARD):
        typical, typical_error, n = _typical(measured, quantity, list(logs[quantity].index))
        levels = logs[quantity].assign(rest=typical)
        level_errors = errors[quantity].assign(rest=typical_error)
        rows.append(_factors(quantity, levels, level_errors))
        ends.append(
            pd.DataFrame(
                {
                    "quantity": quantity,
                    "layer": range(1, len(levels) + 1),
                    "layer_name": levels.index,
                    "he": np.exp(levels["he"].to_numpy()),
                    "measured": np.exp(typical),
                    "log_se": typical_error,
                }
            )
        )
    return Explanation(pd.concat(rows, ignore_index=True), pd.concat(ends, ignore_index=True), n)


def _theories(
    net: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Log predictions and their errors, [layer, step], by quantity; the first column is He's."""
    centred, bare = without_means(moments), without_biases(moments)
    plain = use_subsampling(net)
    flat = remove_structure(images, moments, seed)
    chain: Sequence[tuple[str, nn.Module, Mapping[str, LayerMoments], str, Tensor]] = (
        ("he", net, moments, "he", images),
        ("activation", net, without_biases(centred), "mean_field", images),
        ("weight mean", net, bare, "mean_field", images),
        ("biases", net, moments, "mean_field", images),
        ("stride", use_circular_padding(plain), moments, "field", flat),
        ("real data", use_circular_padding(plain), moments, "field", images),
        ("padding", plain, moments, "field", images),
        ("pooling", net, moments, "field", images),
        ("width", net, moments, "finite_width", images),
    )
    logs: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    errors: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    for step, variant, known, theory, fed in chain:
        frame = predict_moments(variant, known, fed, (theory,), seed, layer_kinds)
        for quantity in logs:
            rows = frame[(frame.image == -1) & (frame.quantity == quantity)]
            rows = rows.set_index("layer_name")
            with np.errstate(divide="ignore", invalid="ignore"):
                level = np.log(rows.value)
                # The typical network lies below the mean one (Hanin & Nica 2020).
                logs[quantity][step] = level - rows.log_sd.fillna(0.0) ** 2 / 2
                errors[quantity][step] = rows.sampling_se / rows.value
    return (
        {quantity: pd.DataFrame(columns) for quantity, columns in logs.items()},
        {quantity: pd.DataFrame(columns) for quantity, columns in errors.items()},
    )


def _typical(
    draws: pd.DataFrame, quantity: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    rows = draws[(draws.image == -1) & (draws.quantity == quantity)]
    wide = rows.pivot(index="draw", columns="layer_name", values="value")[list(names)]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(wide.to_numpy(float))
        n = len(logs)
        error = logs.std(0, ddof=1) / n**0.5 if n > 1 else np.full(logs.shape[1], np.nan)
        return logs.mean(0), error, n


def _factors(quantity: str, logs: pd.DataFrame, errors: pd.DataFrame) -> pd.DataFrame:
    steps = logs.diff(axis=1)[list(STEPS)]
    error = np.sqrt(errors**2 + errors.shift(1, axis=1) ** 2)[list(STEPS)]
    own = steps - steps.shift(1 if quantity == FORWARD else -1).fillna(0.0)
    n = len(logs)
    return pd.DataFrame(
        {
            "quantity": quantity,
            "layer": np.repeat(np.arange(1, n + 1), len(STEPS)),
            "layer_name": np.repeat(logs.index.to_numpy(object), len(STEPS)),
            "step": np.tile(np.array(STEPS, dtype=object), n),
            "factor": np.exp(steps.to_numpy()).ravel(),
            "error": error.to_numpy().ravel(),
            "own": np.exp(own.to_numpy()).ravel(),
        }
    )


def _table(explanation: Explanation, quantity: str, symbol: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True, max_width=12)
    table.add_column(f"{symbol}\nHe", justify="right", no_wrap=True)
    for step in STEPS:
        table.add_column("×\n" + step, justify="right", no_wrap=True)
    table.add_column(f"{symbol}\nmeasured", justify="right", no_wrap=True)
    factors = explanation.factors(quantity)
    ends = explanation.ends[explanation.ends.quantity == quantity].set_index("layer_name")
    for name, row in factors.iterrows():
        end = ends.loc[name]
        cells = [f"{factor:.3g}" for factor in row]
        measured = f"{end.measured:.3g}±{100 * end.log_se:.2g}%"
        table.add_row(str(name), f"{end.he:.3g}", *cells, measured)
    return table


POOLINGS = (*MAX_POOL.modules, *AVERAGE_POOL.modules)


def without_means(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """WeightMoments of mean 0 and the same variance."""
    return {
        name: replace(layer, weight=Moments(0.0, layer.weight.var))
        for name, layer in moments.items()
    }


def without_biases(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """The same weights, and no biases."""
    return {name: replace(layer, bias=Moments(0.0, 0.0)) for name, layer in moments.items()}


def remove_structure(
    images: Float[Tensor, "image ..."], moments: Mapping[str, LayerMoments], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Images of the same mean square without any structure.

    All pixels alike where every weight has mean zero; otherwise the pixels of each image shuffled,
    which keeps their mean as well.
    """
    pixels = images.flatten(1)
    if all(not torch.as_tensor(layer.weight.mean).any() for layer in moments.values()):
        level = pixels.square().mean(1, keepdim=True).sqrt()
        return level.expand_as(pixels).reshape(images.shape).contiguous()
    stream = make_generator("shuffled pixels", seed)
    order = torch.stack([torch.randperm(pixels.shape[1], generator=stream) for _ in pixels])
    return pixels.gather(1, order).reshape(images.shape)


def use_circular_padding(model: nn.Module) -> nn.Module:
    """A copy whose convolutions pad with the map's other side: it has no border."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode == "zeros":
            module.padding_mode = "circular"
    return copy


def use_subsampling(model: nn.Module) -> nn.Module:
    """A copy that takes the middle of each pooling window, instead of its maximum or mean."""
    copy = deepcopy(model)
    _replace(copy)
    return copy


class Subsample(nn.AvgPool2d):
    """The middle element of each window: an average pooling, with one weight 1 and the rest 0.

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
        size, padding = _along(self.pool.kernel_size, axis), _along(self.pool.padding, axis)
        stride = _along(self.pool.stride, axis)
        reach = (size - 1) * _along(getattr(self.pool, "dilation", 1), axis)
        return [min(max(i * stride - padding + reach // 2, 0), inputs - 1) for i in range(outputs)]


def _along(option: object, axis: int) -> int:
    return int(option[axis]) if isinstance(option, tuple) else int(str(option))


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, POOLINGS):
            setattr(module, name, Subsample(child))
        else:
            _replace(child)
