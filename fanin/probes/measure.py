"""Measurement of one network on one batch: the `layers`, `histograms` and `tensors` tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.probes import moments
from fanin.probes.sharpness import sharpness
from fanin.probes.trace import LayerTrace, trace

ALL_IMAGES = -1  # value of `image` for a mean over the probe set
WHOLE_NETWORK = -1  # value of `layer` for a quantity of the whole network

TensorName = Literal["weight", "bias", "input", "preact", "act", "input_grad"]
LAYER_COLUMNS = ("image", "layer", "layer_name", "quantity", "value")
HISTOGRAM_COLUMNS = ("layer", "layer_name", "quantity", "left", "right", "count")
TENSOR_COLUMNS = ("image", "layer", "layer_name", "quantity", "shape", "index", "value")


Tracer = Callable[[nn.Module, Tensor], tuple[list[LayerTrace], Tensor]]
"""Function of a model and images that returns the recorded layers and the logits."""
LayerQuantity = Callable[[LayerTrace], Tensor | float]
"""Quantity of a layer: a number for the probe set, or a tensor with one value per image."""


@dataclass(frozen=True)
class LossFunctions:
    """Training loss per image, and its mean over the batch, as functions of logits and targets."""

    per_example: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProbeTables:
    """Columns of the tables `layers`, `histograms` and `tensors` for one network and batch."""

    layers: dict[str, list[Any]]
    histograms: dict[str, list[Any]]
    tensors: dict[str, list[Any]] = field(default_factory=lambda: empty_columns(TENSOR_COLUMNS))


@dataclass
class LayerTable:
    """Columns of the table `layers`, with rows for the mean and for each of `images`."""

    images: tuple[int, ...]
    columns: dict[str, list[Any]] = field(default_factory=lambda: empty_columns(LAYER_COLUMNS))

    def add(self, layer: int, name: str, quantity: str, value: float, image: int) -> None:
        append_row(self.columns, (image, layer, name, quantity, value))

    def add_per_image(self, layer: int, name: str, quantity: str, values: Tensor) -> None:
        """Add the values of the single images and the mean over the probe set."""
        per_image = values.tolist()
        for image in self.images:
            self.add(layer, name, quantity, per_image[image], image)
        self.add(layer, name, quantity, float(values.mean()), ALL_IMAGES)

    def add_for_set(self, layer: int, name: str, quantity: str, value: float) -> None:
        """Add a value of the probe set as a whole."""
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
    tensors: tuple[TensorName, ...] = (),
    quantities: Mapping[str, LayerQuantity] = MappingProxyType({}),
    tracer: Tracer = trace,
) -> ProbeTables:
    """Measure a network's layers, forward and backward, on a probe set.

    Parameters
    ----------
    model
        Any module. Its linear, convolution and transposed convolution layers are measured, in the
        order in which they run.
    images
        The probe set, scaled, in the model's dtype.
    cotangent
        Random cotangents at the logits, for the `vjp` quantities (`moments.random_cotangent`).
    single_images
        Images to report individually, in addition to the mean over the probe set.
    targets, losses
        Targets and loss for the gradients of the training loss (`grad_m2`, `weight_grad_m2`). None
        skips them.
    head
        Activation after the last layer, for `output_m2`. None skips it.
    bins
        Number of bins of the histograms; 0 skips them.
    with_sharpness
        Also measure the largest Hessian eigenvalue (needs `losses`).
    with_layer_sharpness
        Also measure the largest Hessian eigenvalue of each layer's weight (needs `losses`).
    tensors
        Tensors to record element by element (`input_grad` needs `losses`).
    quantities
        Further quantities of a layer, by name.
    tracer
        Function that records the layers: `trace`, or a `GraphTracer`, which also records sums,
        normalizations and activations that are functions.
    """
    layers, logits = tracer(model, images)
    table = LayerTable(single_images)
    histograms = empty_columns(HISTOGRAM_COLUMNS)

    def add_histogram(number: int, name: str, quantity: str, values: Tensor) -> None:
        for left, right, count in histogram(values, bins) if bins else ():
            append_row(histograms, (number, name, quantity, left, right, count))

    for number, layer in enumerate(layers, start=1):
        _add_forward(table, number, layer)
        for quantity, function in quantities.items():
            _add_quantity(table, number, layer, quantity, function)
        add_histogram(number, layer.name, "preact", layer.preactivation)
        if layer.activation is not None:
            add_histogram(number, layer.name, "act", layer.activation)
    table.add_per_image(WHOLE_NETWORK, "", "logit_var", moments.variance(logits))
    if head is not None:
        table.add_per_image(WHOLE_NETWORK, "", "output_m2", moments.second_moment(head(logits)))

    outputs: dict[str, tuple[Tensor, Tensor | None]] = {"vjp": (logits, cotangent.to(logits))}
    if losses is not None and targets is not None:
        outputs["grad"] = (losses.per_example(logits, targets).sum(), None)
    for kind, (output, output_cotangent) in outputs.items():
        for number, (layer, gradient) in enumerate(
            zip(layers, _backward(output, layers, output_cotangent), strict=True), start=1
        ):
            _add_backward(table, number, layer, gradient, kind)
            add_histogram(number, layer.name, kind, gradient)
    if with_sharpness and losses is not None and targets is not None:
        value = sharpness(model, losses.mean, images, targets)
        table.add_for_set(WHOLE_NETWORK, "", "sharpness", value)
    if with_layer_sharpness and losses is not None and targets is not None:
        for number, layer in enumerate(layers, start=1):
            if layer.module is None:
                continue
            weight = {f"{layer.name}.weight"}
            value = sharpness(model, losses.mean, images, targets, parameters=weight)
            table.add_for_set(number, layer.name, "sharpness", value)
    loss = outputs["grad"][0] if "grad" in outputs else None
    tensor_columns = _tensor_columns(layers, loss, single_images, tensors)
    return ProbeTables(table.columns, histograms, tensor_columns)


def histogram(values: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Count values in bins of equal width; return rows (left, right, count).

    The bins cover the range from the smallest to the largest finite value.

    Non-finite values have separate bins with left = right = inf, -inf or NaN, so the counts always
    add up to the number of values.
    """
    flat = values.detach().double().flatten().cpu()
    finite = flat[flat.isfinite()]
    rows = []
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            rows = [(low, high, len(finite))]
        else:
            # torch.histogram loses values if high - low overflows.
            fraction = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
            edges = low * (1 - fraction) + high * fraction
            indices = torch.bucketize(finite, edges[1:-1], right=True)
            counts = torch.bincount(indices, minlength=bins).tolist()
            rows = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True))
    for value, mask in (
        (float("inf"), flat == float("inf")),
        (float("-inf"), flat == float("-inf")),
        (float("nan"), flat.isnan()),
    ):
        if mask.any():
            rows.append((value, value, int(mask.sum())))
    return rows


def concat_tables(
    tables: Iterable[tuple[dict[str, list[Any]], dict[str, Any]]],
) -> dict[str, list[Any]]:
    """Concatenate tables, adding constant columns (draw, step) to each.

    Examples
    --------
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
    preactivation, name = layer.preactivation, layer.name
    table.add_per_image(number, name, "preact_mean", moments.mean(preactivation))
    table.add_per_image(number, name, "preact_m2", moments.second_moment(preactivation))
    table.add_per_image(number, name, "preact_var", moments.variance(preactivation))
    table.add_for_set(number, name, "input_correlation", moments.input_correlation(preactivation))
    if layer.module is not None:
        weight_m2 = moments.second_moment(layer.module.weight[None])
        table.add_for_set(number, name, "weight_m2", float(weight_m2))
    if layer.activation is not None:
        table.add_per_image(number, name, "act_m2", moments.second_moment(layer.activation))
        table.add_per_image(
            number, name, "act_zero_fraction", moments.zero_fraction(layer.activation)
        )
        inactive = moments.inactive_units(layer.module, layer.activation)
        for image in table.images:
            fraction = float(inactive[image].double().mean())
            table.add(number, name, "dead_fraction", fraction, image)
        # A unit is dead on the probe set if it is inactive on every image.
        table.add_for_set(number, name, "dead_fraction", float(inactive.all(0).double().mean()))


def _add_quantity(
    table: LayerTable, number: int, layer: LayerTrace, quantity: str, function: LayerQuantity
) -> None:
    with torch.no_grad():
        values = torch.as_tensor(function(layer)).double()
    if values.ndim == 0:
        table.add_for_set(number, layer.name, quantity, float(values))
    elif values.shape == layer.input.shape[:1]:
        table.add_per_image(number, layer.name, quantity, values)
    else:
        raise ConfigError(
            f"probe.quantities: {quantity} must return a number, or one per image (shape "
            f"{tuple(layer.input.shape[:1])}); got shape {tuple(values.shape)}"
        )


def _add_backward(
    table: LayerTable, number: int, layer: LayerTrace, gradient: Tensor, kind: str
) -> None:
    table.add_per_image(number, layer.name, f"{kind}_m2", moments.second_moment(gradient))
    if layer.module is not None:
        weight_m2 = moments.weight_gradient_m2(layer.module, layer.input, gradient)
        table.add_per_image(number, layer.name, f"weight_{kind}_m2", weight_m2)


def _backward(
    output: Tensor, layers: list[LayerTrace], cotangent: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the gradient with respect to each layer's pre-activations."""
    if not layers:
        return ()
    preactivations = [layer.preactivation for layer in layers]
    gradients = torch.autograd.grad(
        output, preactivations, cotangent, retain_graph=True, allow_unused=True
    )
    return tuple(
        torch.zeros_like(y) if gradient is None else gradient
        for y, gradient in zip(preactivations, gradients, strict=True)
    )


def _tensor_columns(
    layers: Sequence[LayerTrace],
    loss: Tensor | None,
    images: Sequence[int],
    names: Sequence[TensorName],
) -> dict[str, list[Any]]:
    """Return the columns of the table `tensors`, with one row per element.

    `loss` is the sum of the losses of the images. Its gradient with respect to a layer's input is
    `input_grad`; if `loss` is None, there are no rows of `input_grad`. `shape` is the shape of one
    image's tensor or of the weight, such as `1x32x32`; `index` counts the elements in row-major
    order.
    """
    columns = empty_columns(TENSOR_COLUMNS)
    for number, layer in enumerate(layers, start=1):
        for quantity, image, tensor in _layer_tensors(layer, loss, images, names):
            shape = "x".join(map(str, tensor.shape))
            values = tensor.detach().double().flatten().tolist()
            for index, value in enumerate(values):
                append_row(columns, (image, number, layer.name, quantity, shape, index, value))
    return columns


def _layer_tensors(
    layer: LayerTrace, loss: Tensor | None, images: Sequence[int], names: Sequence[TensorName]
) -> Iterator[tuple[TensorName, int, Tensor]]:
    """Yield (name, image, tensor) for the requested tensors of a layer."""
    if "weight" in names and layer.module is not None:
        yield "weight", ALL_IMAGES, layer.module.weight
    if "bias" in names and layer.module is not None and layer.module.bias is not None:
        yield "bias", ALL_IMAGES, layer.module.bias
    batches: dict[TensorName, Tensor | None] = {
        "input": layer.input,
        "preact": layer.preactivation,
        "act": layer.activation,
    }
    if "input_grad" in names and loss is not None:
        (batches["input_grad"],) = torch.autograd.grad(
            loss, [layer.input], retain_graph=True, materialize_grads=True
        )
    for quantity, batch in batches.items():
        if quantity in names and batch is not None:
            for image in images:
                yield quantity, image, batch[image]


def empty_columns(columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns without rows."""
    return {name: [] for name in columns}


def append_row(columns: dict[str, list[Any]], row: Sequence[Any]) -> None:
    """Append a row with its entries in the order of the columns."""
    for column, entry in zip(columns.values(), row, strict=True):
        column.append(entry)
