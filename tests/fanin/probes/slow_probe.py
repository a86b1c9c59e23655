"""Slow reference implementation of the probes: loops over images, entries and backward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU)
NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)

Key = tuple[int, str, str]  # image, layer name, quantity


@dataclass
class RecordedLayer:
    name: str
    module: nn.Module
    preactivation: Tensor
    activation: Tensor | None = None


def leaf_modules(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in model._modules.items():
        if isinstance(child, nn.Sequential):
            yield from leaf_modules(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def record_layers(model: nn.Module, x: Tensor) -> tuple[list[RecordedLayer], Tensor]:
    """Run one image through a sequence; other modules have a method `record_layers`."""
    if not isinstance(model, nn.Sequential):
        return model.record_layers(x)
    layers: list[RecordedLayer] = []
    hidden, expects_activation = x, False
    for name, module in leaf_modules(model):
        hidden = module(hidden.clone())  # in-place modules write to the clone
        if isinstance(module, WEIGHTS):
            layers.append(RecordedLayer(name, module, hidden))
            expects_activation = True
        elif not isinstance(module, NORMS):
            if expects_activation and isinstance(module, ACTIVATIONS):
                layers[-1].activation = hidden
            expects_activation = False
    return layers, hidden


def slow_probe(
    model: nn.Module,
    images: Tensor,
    cotangent: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[Key, float]:
    """Return every quantity by image (-1: the probe set) and layer name ("": the whole network)."""
    values: dict[Key, float] = {}
    preactivations_by_layer: dict[str, list[list[float]]] = {}
    inactive_by_layer: dict[str, list[list[bool]]] = {}
    for image in range(len(images)):
        layers, logits = record_layers(model, images[image : image + 1])
        outputs = {
            "vjp": (logits[0] * cotangent[image]).sum(),
            "grad": loss(logits, targets[image : image + 1]),
        }
        for layer in layers:
            name, y = layer.name, entries(layer.preactivation)
            preactivations_by_layer.setdefault(name, []).append(y)
            values[image, name, "preact_mean"] = average(y)
            values[image, name, "preact_m2"] = average([v * v for v in y])
            values[image, name, "preact_var"] = average([(v - average(y)) ** 2 for v in y])
            if layer.activation is not None:
                acts = entries(layer.activation)
                inactive = [all(a == 0 for a in entries(u)) for u in units(layer)]
                inactive_by_layer.setdefault(name, []).append(inactive)
                values[image, name, "act_m2"] = average([a * a for a in acts])
                values[image, name, "act_zero_fraction"] = average([a == 0 for a in acts])
                values[image, name, "dead_fraction"] = average(inactive)
            for kind, output in outputs.items():
                (grad,) = torch.autograd.grad(output, layer.preactivation, retain_graph=True)
                values[image, name, f"{kind}_m2"] = average([g * g for g in entries(grad)])
        for kind, output in outputs.items():
            model.zero_grad()
            output.backward(retain_graph=True)
            for layer in layers:
                gradient = entries(layer.module.weight.grad)
                values[image, layer.name, f"weight_{kind}_m2"] = average([g * g for g in gradient])
        z = entries(logits)
        values[image, "", "logit_var"] = average([(a - average(z)) ** 2 for a in z])
    model.zero_grad()
    for name, quantity in {(name, quantity) for _, name, quantity in values}:
        values[-1, name, quantity] = average(
            [values[image, name, quantity] for image in range(len(images))]
        )
    for layer in layers:
        weights = entries(layer.module.weight)
        values[-1, layer.name, "weight_m2"] = average([w * w for w in weights])
        correlation = mean_cosine(preactivations_by_layer[layer.name])
        values[-1, layer.name, "input_correlation"] = correlation
        if layer.activation is not None:
            dead = [all(images) for images in zip(*inactive_by_layer[layer.name], strict=True)]
            values[-1, layer.name, "dead_fraction"] = average(dead)
    return values


def units(layer: RecordedLayer) -> list[Tensor]:
    """Return the activation of one image by unit."""
    axis = -1 if isinstance(layer.module, nn.Linear) else 0
    return list(layer.activation[0].unbind(axis))


def entries(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def average(values: list) -> float:
    return math.fsum(values) / len(values)


def mean_cosine(rows: list[list[float]]) -> float:
    cosines = []
    for a, b in itertools.permutations(rows, 2):
        dot = math.fsum(p * q for p, q in zip(a, b, strict=True))
        cosines.append(dot / math.hypot(*a) / math.hypot(*b))
    return average(cosines)
