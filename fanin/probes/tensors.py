"""Whole tensors of a network, number by number: weights, feature maps, what is sent back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fanin.probes.table import WHOLE_SET
from fanin.probes.trace import LayerTrace

Kept = Literal["weight", "bias", "input", "preact", "act", "input_grad"]
COLUMNS = ("image", "layer", "layer_name", "quantity", "shape", "index", "value")


def no_rows() -> dict[str, list[Any]]:
    """The columns of the `tensors` table, empty."""
    return {name: [] for name in COLUMNS}


def tensors(
    layers: Sequence[LayerTrace],
    loss: Tensor | None,
    images: Sequence[int],
    kept: Sequence[Kept],
) -> dict[str, list[Any]]:
    """Columns of the `tensors` table: a row is one number.

    Parameters
    ----------
    layers
        What each weight layer saw and made, in the autograd graph.
    loss
        The sum of each image's own loss, for `input_grad`: its derivative with respect to what a
        layer takes. None: there is none, and no such rows.
    images
        Whose inputs, pre-activations, activations and derivatives are kept.
    kept
        Which tensors; a weight and a bias have image -1.

    Returns
    -------
    dict
        `shape` is that of one image's tensor or of the weight, as `1x32x32`; `index` counts its
        numbers in row-major order.
    """
    columns = no_rows()
    for number, layer in enumerate(layers, start=1):
        for quantity, image, tensor in _tensors_of(layer, loss, images, kept):
            shape = "x".join(map(str, tensor.shape))
            values = tensor.detach().double().flatten().tolist()
            for index, value in enumerate(values):
                row = (image, number, layer.name, quantity, shape, index, value)
                for column, entry in zip(COLUMNS, row, strict=True):
                    columns[column].append(entry)
    return columns


def _tensors_of(
    layer: LayerTrace, loss: Tensor | None, images: Sequence[int], kept: Sequence[Kept]
) -> Iterator[tuple[Kept, int, Tensor]]:
    """A layer's chosen tensors: quantity, image, values."""
    if "weight" in kept:
        yield "weight", WHOLE_SET, layer.module.weight
    if "bias" in kept and layer.module.bias is not None:
        yield "bias", WHOLE_SET, layer.module.bias
    batches: dict[Kept, Tensor | None] = {
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
