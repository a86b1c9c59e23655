"""One walk through a network, there and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import generator
from fanin.theory.field.backward import pull_back
from fanin.theory.field.cotangent import Cotangent
from fanin.theory.field.forward import closed_parts, pass_on
from fanin.theory.field.interlayer import Between
from fanin.theory.field.plan import Station
from fanin.theory.field.scale import degree, rescaled
from fanin.theory.field.state import Fed, FieldLayer, LayerWeights
from fanin.theory.field.weights import first_root, image_moments, make, send

FEWEST_PARTICLES = 8
WORK = 4e9  # multiplications that one layer's particles may cost before there are fewer of them

GainOf = Callable[[str, tuple[float, float, float]], float]
"""From a layer's name and (a, b, c), where its mean second moment is a g^2 + b g + c at gain g."""


@dataclass(frozen=True)
class Sampling:
    """How a walk samples where it has no closed form.

    Attributes
    ----------
    samples
        Whitened samples of each field, at least.
    repeats
        Independent walks, whose scatter is the sampling error.
    particles
        Draws of the mean map where weights of non-zero mean make it random; fewer, but at least
        8, for large maps.
    seed
        Of all streams.
    """

    samples: int = 1024
    repeats: int = 4
    particles: int = 16
    seed: int = 0

    def particles_for(self, points: int) -> int:
        """As many as the work on a field of that many points allows, an even number."""
        affordable = int(WORK / (max(self.samples, 2.5 * points) * points**2))
        return max(FEWEST_PARTICLES, min(self.particles, affordable)) // 2 * 2


def walk_once(
    stations: Sequence[Station],
    fed: Float[Tensor, "image channel *position"],
    joint: bool,
    sampling: Sampling,
    repeat: int,
    gain_of: GainOf | None = None,
) -> tuple[FieldLayer, ...]:
    """The layers of a network with their moments, forward and backward.

    Parameters
    ----------
    fed
        What enters the first weight layer.
    joint
        Whether its images are one field.
    repeat
        Which of the independent repeats.
    gain_of
        Asked, layer by layer, for a gain that multiplies its weights before the walk goes on.
    """
    return _back(_forth(stations, fed, joint, sampling, repeat, gain_of), sampling, repeat)


def is_sampled(layers: Sequence[FieldLayer]) -> bool:
    """Whether the walk drew anything at random."""
    if any(not layer.weights.centred for layer in layers[1:]):
        return True
    return any(
        closed_parts(layer.between, layer.made) is None
        and (layer.between.mixes or layer.passed.products is not None)
        for layer in layers
        if layer.between is not None and layer.passed is not None
    )


def _forth(
    stations: Sequence[Station],
    images: Tensor,
    joint: bool,
    sampling: Sampling,
    repeat: int,
    gain_of: GainOf | None,
) -> list[FieldLayer]:
    together = len(images) if joint else 1
    first = stations[0]
    fed = image_moments(images, first.weights.groups, joint, first.products)
    layers: list[FieldLayer] = []
    for number, station in enumerate(stations):
        place = (sampling.seed, repeat, number)
        weights = station.weights
        if gain_of is not None:
            gain = gain_of(station.name, _in_gain(station, fed, together))
            weights = weights.scaled(gain)
        thin = station.cov and number == 0
        root = first_root(station.taps, weights, images, joint) if thin else None
        made = make(
            station.taps,
            weights,
            fed,
            full=station.cov,
            images=together,
            particles=sampling.particles_for(len(station.taps.reads)),
            stream=None if station.between is None else generator("particles", *place),
            root=root,
        )
        made = rescaled(made)
        layer = FieldLayer(station.name, station.taps, weights, fed, made, station.between)
        if station.between is not None and number + 1 < len(stations):
            full = stations[number + 1].products
            fed = pass_on(station.between, made, full=full, samples=sampling.samples, place=place)
            if made.log_scale and _grows(station.between, exploding=made.log_scale > 0):
                fed = replace(fed, log_scale=made.log_scale)
            layer = replace(layer, passed=fed)
        layers.append(layer)
    return layers


def _grows(between: Between, *, exploding: bool) -> bool:
    """Whether very large, or very small, pre-activations make what follows as large or small."""
    if exploding and between.normalizes:
        return False
    return degree(between.pointwise, exploding) == 1


def _in_gain(station: Station, fed: Fed, together: int) -> tuple[float, float, float]:
    def at(weights: LayerWeights) -> float:
        made = make(
            station.taps, weights, fed, full=False, images=together, particles=0, stream=None
        )
        return float(made.m2.mean())

    weights = station.weights
    bias = weights.bias_mean**2 + weights.bias_var
    plus, minus = at(weights), at(weights.scaled(-1.0))
    return (plus + minus) / 2 - bias, (plus - minus) / 2, bias


def _back(layers: list[FieldLayer], sampling: Sampling, repeat: int) -> tuple[FieldLayer, ...]:
    last = layers[-1]
    cotangent = Cotangent(torch.ones_like(last.made.var))
    if last.between is not None:
        points = last.between.images * math.prod(last.between.out_positions)
        received = Cotangent(torch.ones_like(last.made.var[..., :1]).repeat(1, 1, 1, points))
        place = (sampling.seed, repeat, len(layers) - 1)
        cotangent = pull_back(
            last.between, last.made, received, samples=sampling.samples, place=place
        )
        last = replace(last, received=received)
    done = [replace(last, cotangent=cotangent)]
    for number in range(len(layers) - 2, -1, -1):
        above, layer = done[-1], layers[number]
        assert layer.between is not None
        assert above.cotangent is not None
        parts = layer.made.var.shape[2]
        received = send(above.taps, above.weights, above.cotangent, parts)
        if layer.made.worlds[1] == 1:
            received = received.over_particles()
        received = rescaled(received)
        cotangent = pull_back(
            layer.between,
            layer.made,
            received,
            samples=sampling.samples,
            place=(sampling.seed, repeat, number),
        )
        log_scale = received.log_scale
        if layer.between.normalizes and layer.made.log_scale > 0:
            log_scale -= layer.made.log_scale  # it divides by the true size
        cotangent = rescaled(replace(cotangent, log_scale=log_scale))
        done.append(replace(layer, received=received, cotangent=cotangent))
    return tuple(done[::-1])
