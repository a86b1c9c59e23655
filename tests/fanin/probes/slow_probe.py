"""The probes once more, the slow way: one image at a time, loops over entries, real backwards."""

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
class Seen:
    name: str
    module: nn.Module
    made: Tensor
    activation: Tensor | None = None


def leaves(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in model._modules.items():
        if isinstance(child, nn.Sequential):
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def walk(model: nn.Module, x: Tensor) -> tuple[list[Seen], Tensor]:
    """Run one image through a sequence by hand; other modules walk themselves."""
    if not isinstance(model, nn.Sequential):
        return model.walk(x)
    seen: list[Seen] = []
    hidden, waiting = x, False
    for name, module in leaves(model):
        hidden = module(hidden.clone())  # the clone is what an in-place module writes to
        if isinstance(module, WEIGHTS):
            seen.append(Seen(name, module, hidden))
            waiting = True
        elif not isinstance(module, NORMS):
            if waiting and isinstance(module, ACTIVATIONS):
                seen[-1].activation = hidden
            waiting = False
    return seen, hidden


def slow_probe(
    model: nn.Module,
    images: Tensor,
    cotangent: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[Key, float]:
    """Every quantity of every image (and -1: of the set) by layer name; "" is the whole net."""
    found: dict[Key, float] = {}
    made_by_layer: dict[str, list[list[float]]] = {}
    silent_by_layer: dict[str, list[list[bool]]] = {}
    for image in range(len(images)):
        seen, logits = walk(model, images[image : image + 1])
        outputs = {
            "vjp": (logits[0] * cotangent[image]).sum(),
            "grad": loss(logits, targets[image : image + 1]),
        }
        for layer in seen:
            made = entries(layer.made)
            made_by_layer.setdefault(layer.name, []).append(made)
            found[image, layer.name, "preact_mean"] = average(made)
            found[image, layer.name, "preact_m2"] = average([y * y for y in made])
            found[image, layer.name, "preact_var"] = average(
                [(y - average(made)) ** 2 for y in made]
            )
            if layer.activation is not None:
                acts = entries(layer.activation)
                silent = [all(a == 0 for a in entries(u)) for u in units(layer)]
                silent_by_layer.setdefault(layer.name, []).append(silent)
                found[image, layer.name, "act_m2"] = average([a * a for a in acts])
                found[image, layer.name, "act_zero_fraction"] = average([a == 0 for a in acts])
                found[image, layer.name, "dead_fraction"] = average(silent)
            for kind, output in outputs.items():
                (received,) = torch.autograd.grad(output, layer.made, retain_graph=True)
                found[image, layer.name, f"{kind}_m2"] = average([g * g for g in entries(received)])
        for kind, output in outputs.items():
            model.zero_grad()
            output.backward(retain_graph=True)
            for layer in seen:
                gradient = entries(layer.module.weight.grad)
                found[image, layer.name, f"weight_{kind}_m2"] = average([g * g for g in gradient])
        z = entries(logits)
        found[image, "", "logit_var"] = average([(a - average(z)) ** 2 for a in z])
    model.zero_grad()
    for name, quantity in {(name, quantity) for _, name, quantity in found}:
        found[-1, name, quantity] = average(
            [found[image, name, quantity] for image in range(len(images))]
        )
    for layer in seen:
        weights = entries(layer.module.weight)
        found[-1, layer.name, "weight_m2"] = average([w * w for w in weights])
        found[-1, layer.name, "input_correlation"] = mean_cosine(made_by_layer[layer.name])
        if layer.activation is not None:
            everywhere = [all(on) for on in zip(*silent_by_layer[layer.name], strict=True)]
            found[-1, layer.name, "dead_fraction"] = average(everywhere)
    return found


def units(layer: Seen) -> list[Tensor]:
    """The activation of one image, unit by unit."""
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
