"""One network, one batch: every quantity of the `layers`, `histograms` and `tensors` tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.probes import moments
from fanin.probes.sharpness import sharpness
from fanin.probes.trace import LayerTrace, trace

ALL_IMAGES = -1  # the `image` of a mean over the probe set
WHOLE_NETWORK = -1  # the `layer` of a number that belongs to no one layer

TensorName = Literal["weight", "bias", "input", "preact", "act", "input_grad"]
LAYER_COLUMNS = ("image", "layer", "layer_name", "quantity", "value")
HISTOGRAM_COLUMNS = ("layer", "layer_name", "quantity", "left", "right", "count")
TENSOR_COLUMNS = ("image", "layer", "layer_name", "quantity", "shape", "index", "value")


@dataclass(frozen=True)
class LossFunctions:
    """A training loss in its two readings: [image] losses, and their mean over the batch."""

    per_example: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProbeTables:
    """Columns of the `layers`, `histograms` and `tensors` tables for one network and batch."""

    layers: dict[str, list[Any]]
    histograms: dict[str, list[Any]]
    tensors: dict[str, list[Any]] = field(default_factory=lambda: empty_columns(TENSOR_COLUMNS))


@dataclass
class LayerTable:
    """Measured numbers of one probe: columns of equal length, for the chosen single images."""

    images: tuple[int, ...]
    columns: dict[str, list[Any]] = field(default_factory=lambda: empty_columns(LAYER_COLUMNS))

    def add(self, layer: int, name: str, quantity: str, value: float, image: int) -> None:
        append_row(self.columns, (image, layer, name, quantity, value))

    def add_per_image(self, layer: int, name: str, quantity: str, values: Tensor) -> None:
        """Add the chosen images' numbers, and the mean over the whole probe set."""
        listed = values.tolist()
        for image in self.images:
            self.add(layer, name, quantity, listed[image], image)
        self.add(layer, name, quantity, float(values.mean()), ALL_IMAGES)

    def add_for_set(self, layer: int, name: str, quantity: str, value: float) -> None:
        """Add a number that only the whole probe set has."""
        self.add(layer, name, quantity, value, ALL_IMAGES)


@torch.enable_grad()
def measure(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    cotangent: Float[Tensor, "image logit"],
    *,
    single_images: tuple[int, ...] = (),
    targets: Tensor | None = None,
    losses: LossFunctions | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    bins: int = 0,
    with_sharpness: bool = False,
    with_layer_sharpness: bool = False,
    kept: tuple[TensorName, ...] = (),
) -> ProbeTables:
    """Measure a network's layers, forward and backward, on a probe set.

    Parameters
    ----------
    model
        Any module; its Linear and convolution layers (transposed ones too) are what is measured,
        in the order they run.
    images
        The probe set, scaled, in the model's dtype.
    cotangent
        The random directions of the `vjp` quantities (`moments.random_cotangent`).
    single_images
        Images to report one by one beside the mean over the set.
    targets, losses
        For the gradients of the training loss (`grad_m2`, `weight_grad_m2`); None leaves them out.
    head
        The activation after the last layer, for what the network hands out (`output_m2`); None
        leaves that out.
    bins
        Bins of the histograms; 0 makes none.
    with_sharpness
        Also measure the largest Hessian eigenvalue (needs `losses`).
    with_layer_sharpness
        Also measure that of each layer's weight alone (needs `losses`).
    kept
        What to keep whole (`input_grad` needs `losses`).
    """
    layers, logits = trace(model, images)
    table = LayerTable(single_images)
    bars = empty_columns(HISTOGRAM_COLUMNS)

    def add_bars(number: int, name: str, quantity: str, values: Tensor) -> None:
        for left, right, count in histogram(values, bins) if bins else ():
            append_row(bars, (number, name, quantity, left, right, count))

    for number, layer in enumerate(layers, start=1):
        _add_forward(table, number, layer)
        add_bars(number, layer.name, "preact", layer.preactivation)
        if layer.activation is not None:
            add_bars(number, layer.name, "act", layer.activation)
    table.add_per_image(WHOLE_NETWORK, "", "logit_var", moments.variance(logits))
    if head is not None:
        table.add_per_image(WHOLE_NETWORK, "", "output_m2", moments.second_moment(head(logits)))

    outputs: dict[str, tuple[Tensor, Tensor | None]] = {"vjp": (logits, cotangent.to(logits))}
    if losses is not None and targets is not None:
        outputs["grad"] = (losses.per_example(logits, targets).sum(), None)
    for kind, (output, direction) in outputs.items():
        for number, (layer, received) in enumerate(
            zip(layers, _backward(output, layers, direction), strict=True), start=1
        ):
            _add_backward(table, number, layer, received, kind)
            add_bars(number, layer.name, kind, received)
    if with_sharpness and losses is not None and targets is not None:
        value = sharpness(model, losses.mean, images, targets)
        table.add_for_set(WHOLE_NETWORK, "", "sharpness", value)
    if with_layer_sharpness and losses is not None and targets is not None:
        for number, layer in enumerate(layers, start=1):
            weight = {f"{layer.name}.weight"}
            value = sharpness(model, losses.mean, images, targets, of=weight)
            table.add_for_set(number, layer.name, "sharpness", value)
    loss = outputs["grad"][0] if "grad" in outputs else None
    return ProbeTables(table.columns, bars, _tensors(layers, loss, single_images, kept))


def histogram(values: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Equal bins between the finite extremes: (left, right, count).

    Values that are not finite have bins of their own, with left = right = inf, -inf or NaN, so the
    counts always add up to the number of values.
    """
    flat = values.detach().double().flatten().cpu()
    finite = flat[flat.isfinite()]
    rows = []
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            rows = [(low, high, len(finite))]
        else:
            # Not torch.histogram: it loses values where high - low overflows.
            share = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
            edges = low * (1 - share) + high * share
            places = torch.bucketize(finite, edges[1:-1], right=True)
            counts = torch.bincount(places, minlength=bins).tolist()
            rows = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True))
    for odd, found in (
        (float("inf"), flat == float("inf")),
        (float("-inf"), flat == float("-inf")),
        (float("nan"), flat.isnan()),
    ):
        if found.any():
            rows.append((odd, odd, int(found.sum())))
    return rows


def concat_tables(tables: Iterable[tuple[dict[str, list[Any]], dict[str, Any]]]) -> dict[str, list[Any]]:
    """Join columns, each table with constant columns of its own (draw, step).

    >>> concat_tables([({"value": [1.0, 2.0]}, {"draw": 0}), ({"value": [3.0]}, {"draw": 1})])
    {'draw': [0, 0, 1], 'value': [1.0, 2.0, 3.0]}
    """
    joined: dict[str, list[Any]] = {}
    for columns, constants in tables:
        length = len(next(iter(columns.values())))
        for name, value in constants.items():
            joined.setdefault(name, []).extend([value] * length)
        for name, values in columns.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _add_forward(table: LayerTable, number: int, layer: LayerTrace) -> None:
    made, name = layer.preactivation, layer.name
    table.add_per_image(number, name, "preact_mean", moments.mean(made))
    table.add_per_image(number, name, "preact_m2", moments.second_moment(made))
    table.add_per_image(number, name, "preact_var", moments.variance(made))
    table.add_for_set(number, name, "input_correlation", moments.input_correlation(made))
    weight = layer.module.weight.detach()
    table.add_for_set(number, name, "weight_m2", float(weight.double().square().mean()))
    if layer.activation is not None:
        table.add_per_image(number, name, "act_m2", moments.second_moment(layer.activation))
        table.add_per_image(
            number, name, "act_zero_fraction", moments.zero_fraction(layer.activation)
        )
        silent = moments.inactive_units(layer.module, layer.activation)
        for image in table.images:
            share = float(silent[image].double().mean())
            table.add(number, name, "dead_fraction", share, image)
        # Dead on the set: on every one of its images, which is not the mean of the shares.
        table.add_for_set(number, name, "dead_fraction", float(silent.all(0).double().mean()))


def _add_backward(
    table: LayerTable, number: int, layer: LayerTrace, received: Tensor, kind: str
) -> None:
    table.add_per_image(number, layer.name, f"{kind}_m2", moments.second_moment(received))
    weight_m2 = moments.weight_gradient_m2(layer.module, layer.input, received)
    table.add_per_image(number, layer.name, f"weight_{kind}_m2", weight_m2)


def _backward(
    output: Tensor, layers: list[LayerTrace], direction: Tensor | None
) -> tuple[Tensor, ...]:
    made = [layer.preactivation for layer in layers]
    found = torch.autograd.grad(output, made, direction, retain_graph=True, allow_unused=True)
    return tuple(torch.zeros_like(m) if g is None else g for m, g in zip(made, found, strict=True))


def _tensors(
    layers: Sequence[LayerTrace],
    loss: Tensor | None,
    images: Sequence[int],
    kept: Sequence[TensorName],
) -> dict[str, list[Any]]:
    """Columns of the `tensors` table: a row is one number.

    `loss` is the sum of each image's own, for `input_grad`: its derivative with respect to what a
    layer takes (None: no such rows). `shape` is that of one image's tensor or of the weight, as
    `1x32x32`; `index` counts its numbers in row-major order.
    """
    columns = empty_columns(TENSOR_COLUMNS)
    for number, layer in enumerate(layers, start=1):
        for quantity, image, tensor in _tensors_of(layer, loss, images, kept):
            shape = "x".join(map(str, tensor.shape))
            values = tensor.detach().double().flatten().tolist()
            for index, value in enumerate(values):
                append_row(columns, (image, number, layer.name, quantity, shape, index, value))
    return columns


def _tensors_of(
    layer: LayerTrace, loss: Tensor | None, images: Sequence[int], kept: Sequence[TensorName]
) -> Iterator[tuple[TensorName, int, Tensor]]:
    """A layer's chosen tensors: quantity, image, values."""
    if "weight" in kept:
        yield "weight", ALL_IMAGES, layer.module.weight
    if "bias" in kept and layer.module.bias is not None:
        yield "bias", ALL_IMAGES, layer.module.bias
    batches: dict[TensorName, Tensor | None] = {
        "input": layer.input,
        "preact": layer.preactivation,
        "act": layer.activation,
    }
    if "input_grad" in kept and loss is not None:
        (batches["input_grad"],) = torch.autograd.grad(
            loss, [layer.input], retain_graph=True, materialize_grads=True
        )
    for quantity, batch in batches.items():
        if quantity in kept and batch is not None:
            for image in images:
                yield quantity, image, batch[image]


def empty_columns(columns: Sequence[str]) -> dict[str, list[Any]]:
    """Columns without rows."""
    return {name: [] for name in columns}


def append_row(columns: dict[str, list[Any]], row: Sequence[Any]) -> None:
    """Append one row, its entries in the order of the columns."""
    for column, entry in zip(columns.values(), row, strict=True):
        column.append(entry)
