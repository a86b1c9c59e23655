"""Smallest set of changes that fixes a network, found by predicting the changed networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from fanin.errors import FaninError
from fanin.theory.certificate.assemble import make_records, number_layers
from fanin.theory.certificate.record import LayerCertificate
from fanin.theory.certificate.remedies import Remedy, Setup
from fanin.theory.certificate.segments import predict_segments
from fanin.theory.certificate.verdicts import Verdict
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.layer_kind import LayerKind

THEORY = "mean_field"  # takes milliseconds
SAMPLING_SEED = 0
Judge = Callable[[Sequence[LayerCertificate]], Sequence[Verdict]]


@dataclass(frozen=True)
class Fix:
    """Changes that fix a network.

    Attributes
    ----------
    remedies
        The changes. Empty for a healthy network.
    is_enough
        True if the network with these changes is predicted to be healthy, and with fewer of them
        to be unhealthy.
    """

    remedies: tuple[Remedy, ...] = ()
    is_enough: bool = False

    @property
    def heading(self) -> str:
        """Introduction of the changes, for messages."""
        n = len(self.remedies)
        if self.is_enough:
            counts = {1: "To fix", 2: "To fix, both changes are needed"}
            return counts.get(n, f"To fix, all {n} changes are needed")
        if n == 1:
            return "To fix (it may not be enough: call certify again after it)"
        return f"To fix, make {'both' if n == 2 else f'all {n}'} changes, then call certify again"


def find_fix(
    verdicts: Sequence[Verdict],
    setup: Setup,
    judge_layers: Judge,
    layer_kinds: Sequence[LayerKind] = (),
) -> Fix:
    """Return the smallest set of the verdicts' remedies that makes a network healthy.

    The changed networks are predicted with theory `mean_field`. A remedy that cannot be applied to
    a prediction, or whose problem this theory does not predict, is always part of the set.

    Parameters
    ----------
    verdicts
        Problems of the network.
    setup
        The network, the moments of its weights, and the images.
    judge_layers
        Function that returns the problems of a prediction.
    layer_kinds
        Additional layer kinds.
    """
    remedies = list(dict.fromkeys(verdict.change for verdict in verdicts if verdict.change))

    def problems_after(chosen: Sequence[Remedy]) -> set[tuple[str, str]]:
        changed = setup
        for remedy in chosen:
            if remedy.apply is not None:
                changed = remedy.apply(changed)
        layers = _predict(changed, layer_kinds)
        return {(verdict.problem, verdict.quantity) for verdict in judge_layers(layers)}

    try:
        predicted = problems_after(())
        fixed = [
            remedy
            for remedy in remedies
            if remedy.apply is None or not predicted.intersection(_problems_of(remedy, verdicts))
        ]
        for chosen in _subsets(remedies, fixed):
            if not problems_after(chosen):
                is_predicted = all((v.problem, v.quantity) in predicted for v in verdicts)
                can_apply = all(remedy.apply is not None for remedy in chosen)
                return Fix(tuple(chosen), is_predicted and can_apply)
    except (FaninError, RuntimeError):  # no prediction, so no smallest set
        pass
    return Fix(tuple(remedies))


def _problems_of(remedy: Remedy, verdicts: Sequence[Verdict]) -> set[tuple[str, str]]:
    return {(v.problem, v.quantity) for v in verdicts if v.change == remedy}


def _subsets(remedies: Sequence[Remedy], fixed: Sequence[Remedy]) -> Iterator[list[Remedy]]:
    """Yield all sets of remedies that contain the fixed ones, smallest first.

    After each set follow the sets in which one remedy also sets the biases to 0.
    """
    for size in range(max(len(fixed), 1), len(remedies) + 1):
        for chosen in combinations(remedies, size):
            if not set(fixed) <= set(chosen):
                continue
            yield list(chosen)
            for index, remedy in enumerate(chosen):
                if remedy.with_zero_biases is not None:
                    yield [*chosen[:index], remedy.with_zero_biases, *chosen[index + 1 :]]


def _predict(setup: Setup, layer_kinds: Sequence[LayerKind]) -> tuple[LayerCertificate, ...]:
    weights = WeightMoments(setup.moments, "given", None)
    segments = predict_segments(
        *(setup.model, weights, setup.images, (THEORY,), SAMPLING_SEED, False, layer_kinds)
    )
    frame = number_layers(setup.model, segments, pd.DataFrame())
    return make_records(setup.model, segments, frame, weights, {}, with_depth_scales=False)
