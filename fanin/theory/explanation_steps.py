"""Predictions of the steps of `explain`: each drops one assumption of He's formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from torch import Tensor, nn

from fanin.theory.assumptions import (
    Assumptions,
    remove_structure,
    use_circular_padding,
    use_subsampling,
    without_biases,
    without_means,
)
from fanin.theory.graph.network import GraphNetwork, parse_graph
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments
from fanin.theory.predict import predict_moments

STEPS = (
    *("activation", "weight mean", "biases", "stride", "real data", "padding", "pooling"),
    *("width", "rest"),
)
STEP_THEORIES = (
    *(("he", "he"), ("activation", "mean_field"), ("weight mean", "mean_field")),
    *(("biases", "mean_field"), ("stride", "field"), ("real data", "field")),
    *(("padding", "field"), ("pooling", "field"), ("width", "finite_width")),
)


def sequence_steps(
    net: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the predictions before the first step and after each one; the first is `he`."""
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
    for (step, theory), variant in zip(STEP_THEORIES, variants, strict=True):
        yield step, predict_moments(*variant, (theory,), seed, layer_kinds)


def graph_steps(network: GraphNetwork, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the predictions of a graph in which the assumptions hold, and without each of them.

    In `he`, activations multiply second moments by He's gain, forward and backward. As long as the
    images have no structure, so that a channel is constant, batch and instance normalization have
    the statistics that they have in expectation over the channels.
    """
    net, moments, images = network.model, network.moments, network.images
    structureless = remove_structure(images, moments, seed)
    circular, no_bias = use_circular_padding(net), without_biases(moments)
    subsampled = Assumptions(subsamples=True)
    constant = Assumptions(subsamples=True, expected_statistics=True)

    def predict(
        model: nn.Module, m: Mapping[str, LayerMoments], x: Tensor, a: Assumptions
    ) -> pd.DataFrame:
        return parse_graph(model, m, x, assumptions=a).predict("field", seed)

    yield (
        "he",
        predict(circular, no_bias, structureless, replace(constant, he_gains=True)),
    )
    without = predict(circular, no_bias, structureless, constant)
    yield "activation", without
    yield "weight mean", without
    with_biases = predict(circular, moments, structureless, constant)
    yield "biases", with_biases
    yield "stride", with_biases
    yield "real data", predict(circular, moments, images, subsampled)
    yield "padding", predict(net, moments, images, subsampled)
    yield "pooling", predict(net, moments, images, Assumptions())
    yield "width", network.predict("finite_width", seed)
