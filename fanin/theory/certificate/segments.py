"""A network predicted whole, or in parts: anew after each layer that theory has no formula for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits.weight_shape import WeightLayer
from fanin.theory.certificate.weights import (
    WeightMoments,
    build_sequential,
    decode_name,
    draw_networks,
    encode_name,
    run_modules,
)
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.network import Named, flattened
from fanin.theory.predict import predict_moments

RESTART_DRAWS = 4
BACKWARD = ("vjp_m2", "weight_vjp_m2")
THEORY, MEASURED_RESTART = "theory", "measured restart"


@dataclass(frozen=True)
class Segment:
    """A part of a network that theory walks in one go.

    Attributes
    ----------
    frame
        Predictions, with the column `basis`: `theory`, or `measured restart` where the inputs of
        this part were measured instead of predicted.
    parts
        Its modules.
    inputs
        What it is fed: the images, or one draw's activations for each of them.
    restarted_at, reason
        The layer after which theory started again, and why; None at the network's beginning.
    layer_kinds
        Kinds of layers beside the built-in ones.
    """

    frame: pd.DataFrame
    parts: tuple[Named, ...]
    inputs: tuple[Float[Tensor, "image ..."], ...]
    restarted_at: str | None = None
    reason: str = ""
    layer_kinds: tuple[LayerKind, ...] = ()

    @property
    def basis(self) -> str:
        """`theory`, or `measured restart`."""
        return THEORY if self.restarted_at is None else MEASURED_RESTART


def predict_segments(
    model: nn.Module,
    weights: WeightMoments,
    images: Float[Tensor, "image ..."],
    theories: Sequence[str],
    seed: int,
    restart: bool,
    layer_kinds: Sequence[LayerKind] = (),
) -> list[Segment]:
    """Predict a network, in parts where `restart` allows it.

    After a layer without a formula, theory starts again from what a few fresh draws of the layers
    so far make of the images. Before it, the forward pass is theory as ever; the way back is not
    predicted there, for it comes through that layer.

    Raises
    ------
    UnpredictableLayer
        A layer without a formula, if `restart` is false or nothing can be started after it.
    """
    whole = Segment(
        pd.DataFrame(), tuple(flattened(model)), (images,), layer_kinds=tuple(layer_kinds)
    )
    if not (restart and isinstance(model, nn.Sequential)):
        frame = predict_moments(model, weights.moments, images, theories, seed, layer_kinds)
        return [replace(whole, frame=frame.assign(basis=THEORY))]
    walker = _SegmentPredictor(model, weights, images, tuple(theories), seed)
    return walker.predict(whole, is_end=True)


@dataclass(frozen=True)
class _SegmentPredictor:
    model: nn.Module
    weights: WeightMoments
    images: Tensor
    theories: tuple[str, ...]
    seed: int

    def predict(self, part: Segment, is_end: bool) -> list[Segment]:
        try:
            return [replace(part, frame=self._frame(part, is_end))]
        except UnpredictableLayer as error:
            names = [name for name, _ in part.parts]
            name = decode_name(error.name)
            if name not in names:
                raise
            place = names.index(name)
            head, tail = part.parts[:place], part.parts[place + 1 :]
            found: list[Segment] = []
            if _has_weights(head):
                found += self.predict(replace(part, parts=head), is_end=False)
            if _has_weights(tail):
                after = Segment(
                    *(pd.DataFrame(), tail, self._measured(name), name, str(error)),
                    part.layer_kinds,
                )
                found += self.predict(after, is_end)
            if not found:
                raise
            return found

    def _frame(self, part: Segment, is_end: bool) -> pd.DataFrame:
        net = build_sequential(part.parts)
        moments = {encode_name(name): known for name, known in self.weights.moments.items()}
        frame = _over_draws(
            [
                predict_moments(net, moments, x, self.theories, self.seed, part.layer_kinds)
                for x in part.inputs
            ]
        )
        if not is_end:
            frame = frame[~frame.quantity.isin(BACKWARD)]
        return frame.assign(basis=part.basis, layer_name=frame.layer_name.map(decode_name))

    def _measured(self, name: str) -> tuple[Tensor, ...]:
        """Return the named module's run_modules in each of a few fresh draws."""
        made = []
        for network in draw_networks(self.model, self.weights, RESTART_DRAWS, self.seed, "restart"):
            parts = list(flattened(network))
            end = [each for each, _ in parts].index(name) + 1
            made.append(run_modules(parts[:end], self.images.double().cpu(), self.seed))
        return tuple(made)


def _has_weights(parts: Sequence[Named]) -> bool:
    return any(isinstance(module, WeightLayer) for _, module in parts)


def _over_draws(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One prediction from several draws' inputs: their mean, and their scatter in its errors."""
    if len(frames) == 1:
        return frames[0]
    values = np.stack([frame.value for frame in frames])
    spreads = np.stack([frame.log_sd for frame in frames])
    errors = np.stack([frame.sampling_se for frame in frames])
    n = len(frames)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        between = np.log(np.abs(values)).var(0, ddof=1)
        error = np.sqrt((errors**2).mean(0) / n + values.var(0, ddof=1) / n)
        spread = np.sqrt((spreads**2).mean(0) + between)
    return frames[0].assign(value=values.mean(0), log_sd=spread, sampling_se=error)
