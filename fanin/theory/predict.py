"""Predictions of one network by one or more theories, as one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError, suggest
from fanin.progress import set_phase
from fanin.theory.cache import memoized
from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.graph.cache_key import network_key
from fanin.theory.graph.network import GRAPH_THEORIES, GraphNetwork, parse_graph
from fanin.theory.he import predict_he
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.mean_field import predict_mean_field
from fanin.theory.moments import LayerMoments
from fanin.theory.network import SizedLayer, has_flat_weights, is_sequence, parse_network
from fanin.theory.prediction import MEAN_OVER_IMAGES, Prediction

THEORIES = ("he", "mean_field", "field", "finite_width")
"""Names of the theories, from the one with the most assumptions to the one with the fewest."""


def predict_moments(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    theories: Sequence[str] = THEORIES,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    individual: Sequence[int] | None = None,
    mean: bool = True,
    graphs: bool = True,
    read_graph: Callable[[], GraphNetwork] | None = None,
) -> pd.DataFrame:
    """Predict the moments of every layer with one or more theories.

    Results are cached by network structure (of a graph: by the recorded operations), moments,
    images and seed.

    Parameters
    ----------
    model
        A sequence of modules, or any module (`applicable_theories`). Its weights are not read.
    moments
        Weight and bias moments of each weight layer, by module path.
    images
        Preprocessed inputs, as the network receives them.
    theories
        Names from `THEORIES`.
    seed
        Seed of the theories' own sampling.
    layer_kinds
        Additional layer kinds. They take precedence over the built-in ones.
    individual
        Images for which theory `finite_width` predicts a spread between draws. None predicts one
        for every image, which takes longest. The mean over images always has a spread.
    mean
        Predict the mean over images as well. Its spread needs the joint field of several images,
        which takes several times as long as one image.
    graphs
        Read a model that is not a sequence of modules as a graph.
    read_graph
        Function that returns the model's graph. None uses `parse_graph`.

    Returns
    -------
    pandas.DataFrame
        Rows of the table `predictions`, without the column `cell_id`, for every image and, if
        `mean`, for their mean (image -1).

    Raises
    ------
    ConfigError
        A theory does not exist, or `theories` is empty or not a sequence.
    UnpredictableLayer
        A theory has no formula for a layer. `theory` names the theory.
    """
    if isinstance(theories, str) or not theories:
        raise ConfigError(f"theories={theories!r}: expected a list of theories, such as ['he']")
    for theory in theories:
        if theory not in THEORIES:
            raise ConfigError(f"theories: no theory {theory}; {suggest(theory, THEORIES)}")
    frames = []
    options = (None if individual is None else tuple(individual), mean)
    cache_key = (model, moments, images, seed, tuple(layer_kinds), *options)
    read_graph = cache(read_graph or partial(parse_graph, model, moments, images))
    for theory in theories:
        on_graph = graphs and reads_graph(model, tuple(images.shape[1:]), (theory,), layer_kinds)
        name = f"theory {theory}"
        set_phase(name)
        try:
            if on_graph:
                frames.append(_predict_on_graph(name, theory, read_graph, model, images, seed))
                continue
            compute = partial(_predict, theory, model, moments, images, seed, layer_kinds, *options)
            frames.append(memoized(name, compute, *cache_key))
        except UnpredictableLayer as error:
            error.theory = theory
            raise
    frame = pd.concat(frames, ignore_index=True)
    return frame if mean else frame[frame["image"] != MEAN_OVER_IMAGES].reset_index(drop=True)


def applicable_theories(
    model: nn.Module,
    image_shape: tuple[int, ...],
    theories: Sequence[str],
    layer_kinds: Sequence[LayerKind] = (),
) -> tuple[str, ...]:
    """Return the theories that may predict a model: graphs have no `he` and no `mean_field`.

    If none can, return all of them, so that `predict_moments` raises the reason.
    """
    if has_flat_weights(model, image_shape, layer_kinds):
        return tuple(theories)
    return tuple(theory for theory in theories if theory in GRAPH_THEORIES) or tuple(theories)


def reads_graph(
    model: nn.Module,
    image_shape: tuple[int, ...],
    theories: Sequence[str],
    layer_kinds: Sequence[LayerKind] = (),
) -> bool:
    """Return True if some of the theories read a model as a graph.

    Theory `field` does so if a layer of a sequence has no rule, such as group normalization. Theory
    `finite_width` then draws the network as a sequence.
    """
    if "field" in theories and not is_sequence(model, image_shape, layer_kinds):
        return True
    return "finite_width" in theories and not has_flat_weights(model, image_shape, layer_kinds)


def _predict_on_graph(
    name: str,
    theory: str,
    read_graph: Callable[[], GraphNetwork],
    model: nn.Module,
    images: Tensor,
    seed: int,
) -> pd.DataFrame:
    """Predict a graph; the error for a sequence of modules is that of the sequence."""
    try:
        network = read_graph()
        compute = partial(network.predict, theory, seed)
        return memoized(f"{name} of a graph", compute, *network_key(network), seed)
    except UnpredictableLayer as error:
        try:
            net = parse_network(model, tuple(images.shape[1:]))
        except UnpredictableLayer:
            raise error from None
        for stage in net.stages:
            for layer in stage.after:
                layer.field()
        raise


def _predict(
    theory: str,
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Tensor,
    seed: int,
    layer_kinds: Sequence[LayerKind],
    individual: Sequence[int] | None,
    mean: bool,
) -> pd.DataFrame:
    def field() -> Prediction:
        compute = partial(
            predict_field,
            *(model, moments, images),
            sampling=Sampling(seed=seed),
            layer_kinds=layer_kinds,
        )
        cache_key = (model, moments, images, seed, tuple(layer_kinds))
        return memoized("prediction of field", compute, *cache_key)

    match theory:
        case "he":
            prediction = predict_he(model, moments, images, layer_kinds=layer_kinds)
        case "mean_field":
            prediction = predict_mean_field(
                model, moments, images, seed=seed, layer_kinds=layer_kinds
            )
        case "field":
            prediction = field()
        case _:
            prediction = predict_finite_width(
                *(model, moments, images),
                seed=seed,
                layer_kinds=layer_kinds,
                field=field,
                individual=individual,
                mean=mean,
            )
    return prediction.to_frame()


def weight_stages(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    layer_kinds: Sequence[LayerKind] = (),
) -> Sequence[SizedLayer]:
    """Return name and output shape of every weight layer, in forward order."""
    shape = tuple(images.shape[1:])
    if is_sequence(model, shape, layer_kinds):
        return parse_network(model, shape, layer_kinds).stages
    return parse_graph(model, moments, images).stages
