"""One network, one batch: every quantity of the `layers` table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.probes import histograms, moments, tensors
from fanin.probes.sharpness import sharpness
from fanin.probes.table import WHOLE_NET, LayerTable
from fanin.probes.trace import LayerTrace, trace


@dataclass(frozen=True)
class Losses:
    """A training loss in its two readings: [image] losses, and their mean over the batch."""

    per_example: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """Columns of the `layers`, `histograms` and `tensors` tables for one network and batch."""

    layers: dict[str, list[Any]]
    histograms: dict[str, list[Any]]
    tensors: dict[str, list[Any]] = field(default_factory=tensors.no_rows)


@torch.enable_grad()
def measure(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    cotangent: Float[Tensor, "image logit"],
    *,
    singles: tuple[int, ...] = (),
    targets: Tensor | None = None,
    losses: Losses | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    bins: int = 0,
    with_sharpness: bool = False,
    with_layer_sharpness: bool = False,
    kept: tuple[tensors.Kept, ...] = (),
) -> Measured:
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
    singles
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
    table = LayerTable(singles)
    bars: dict[str, list[Any]] = {name: [] for name in histograms.COLUMNS}

    def add_bars(number: int, name: str, quantity: str, values: Tensor) -> None:
        if bins:
            histograms.add_histogram(bars, number, name, quantity, values, bins)

    for number, layer in enumerate(layers, start=1):
        _add_forward(table, number, layer)
        add_bars(number, layer.name, "preact", layer.preactivation)
        if layer.activation is not None:
            add_bars(number, layer.name, "act", layer.activation)
    table.add_per_image(WHOLE_NET, "", "logit_var", moments.variance(logits))
    if head is not None:
        table.add_per_image(WHOLE_NET, "", "output_m2", moments.second_moment(head(logits)))

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
        table.add_for_set(WHOLE_NET, "", "sharpness", value)
    if with_layer_sharpness and losses is not None and targets is not None:
        for number, layer in enumerate(layers, start=1):
            weight = {f"{layer.name}.weight"}
            value = sharpness(model, losses.mean, images, targets, of=weight)
            table.add_for_set(number, layer.name, "sharpness", value)
    loss = outputs["grad"][0] if "grad" in outputs else None
    return Measured(table.columns, bars, tensors.tensors(layers, loss, singles, kept))


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
        silent = moments.silent_units(layer.module, layer.activation)
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
