"""Predictions of a network as a whole, or in segments that restart after unsupported layers."""

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
THEORY, MEASURED_RESTART, MEASURED = "theory", "measured restart", "measured"


@dataclass(frozen=True)
class Segment:
    """Part of a network that is predicted in one pass.

    Attributes
    ----------
    frame
        Predictions, with the column `basis`: `theory`, or `measured restart` if the inputs of the
        segment are measured.
    parts
        Modules of the segment.
    inputs
        The images, or the measured activations of each draw.
    restarted_at
        The layer without a formula before the segment; None for the first segment.
    reason
        The error message of that layer.
    layer_kinds
        Additional layer kinds. They take precedence over the built-in ones.
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
    """Predict a network, in several segments if `restart` is True.

    After a layer without a formula, the prediction restarts from the activations of a few new
    draws. For the layers before it, only the forward pass is predicted, because their cotangents
    pass through the layer without a formula.

    Raises
    ------
    UnpredictableLayer
        A layer has no formula, and `restart` is False or no weight layer can be predicted.
    """
    whole = Segment(
        pd.DataFrame(), tuple(flattened(model)), (images,), layer_kinds=tuple(layer_kinds)
    )
    if not (restart and isinstance(model, nn.Sequential)):
        frame = predict_moments(
            *(model, weights.moments, images, theories, seed, layer_kinds), graphs=False
        )
        return [replace(whole, frame=frame.assign(basis=THEORY))]
    predictor = _SegmentPredictor(model, weights, images, tuple(theories), seed)
    return predictor.predict(whole, is_end=True)


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
            index = names.index(name)
            before, after = part.parts[:index], part.parts[index + 1 :]
            segments: list[Segment] = []
            if _has_weights(before):
                segments += self.predict(replace(part, parts=before), is_end=False)
            if _has_weights(after):
                next_segment = Segment(
                    *(pd.DataFrame(), after, self._measure_outputs(name), name, str(error)),
                    part.layer_kinds,
                )
                segments += self.predict(next_segment, is_end)
            if not segments:
                raise
            return segments

    def _frame(self, part: Segment, is_end: bool) -> pd.DataFrame:
        net = build_sequential(part.parts)
        moments = {encode_name(name): layer for name, layer in self.weights.moments.items()}
        frame = average_over_draws(
            [
                predict_moments(
                    *(net, moments, x, self.theories, self.seed, part.layer_kinds), graphs=False
                )
                for x in part.inputs
            ]
        )
        if not is_end:
            frame = frame[~frame.quantity.isin(BACKWARD)]
        if part.basis != THEORY:  # starts from the activations of drawn networks
            frame = frame.assign(method="simulated")
        return frame.assign(basis=part.basis, layer_name=frame.layer_name.map(decode_name))

    def _measure_outputs(self, name: str) -> tuple[Tensor, ...]:
        """Return the outputs of a module in a few new draws."""
        outputs = []
        for network in draw_networks(self.model, self.weights, RESTART_DRAWS, self.seed, "restart"):
            parts = list(flattened(network))
            end = [part_name for part_name, _ in parts].index(name) + 1
            outputs.append(run_modules(parts[:end], self.images.double().cpu(), self.seed))
        return tuple(outputs)


def _has_weights(parts: Sequence[Named]) -> bool:
    return any(isinstance(module, WeightLayer) for _, module in parts)


def average_over_draws(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average predictions that start from the measured inputs of several draws.

    The spread also contains the variance between these predictions.
    """
    if len(frames) == 1:
        return frames[0]
    values, log_sds, log_skews, errors, zero_probabilities = (
        np.stack([frame[column] for frame in frames])
        for column in ("value", "log_sd", "log_skew", "sampling_se", "zero_probability")
    )
    n = len(frames)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        log_var_of_inputs = np.log(np.abs(values)).var(0, ddof=1)
        sampling_se = np.sqrt((errors**2).mean(0) / n + values.var(0, ddof=1) / n)
        log_sd = np.sqrt((log_sds**2).mean(0) + log_var_of_inputs)
        third_cumulant = (log_skews * log_sds**3).mean(0)  # variation of the inputs adds none
        log_skew = np.where(third_cumulant == 0, 0.0, third_cumulant / log_sd**3)
    return frames[0].assign(
        value=values.mean(0),
        log_sd=log_sd,
        log_skew=log_skew,
        sampling_se=sampling_se,
        zero_probability=zero_probabilities.mean(0),
    )
