"""The specification of a comparison: axis, metric, groups, and what a diverged run is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.config.instantiate import instantiate_wrapped
from experiments.data import Data
from fanin.errors import FaninError, suggest

MIN_SEEDS = 3  # seeds: below it a ranking says more of luck than of strategies


@dataclass(frozen=True)
class Metric:
    """A column of `cells`.

    Attributes
    ----------
    column
        Its name.
    words
        The same for people.
    larger_is_better
        Else smaller is.
    bounded
        A run that diverged scores chance. Else it has no score: it is counted, not averaged.
    """

    column: str
    words: str
    larger_is_better: bool
    bounded: bool

    @property
    def sign(self) -> float:
        """Times a score, larger is better."""
        return 1.0 if self.larger_is_better else -1.0

    def format_p(self, config: Mapping[str, Any]) -> float:
        """Score of guessing in a cell: its classes' share, NaN for a loss or without classes."""
        if not self.bounded:
            return float("nan")
        data: Data = instantiate_wrapped(Data, config["data"], "data")
        classes = data.n_classes
        return 1.0 / classes if classes else float("nan")

    @property
    def diverged_note(self) -> str:
        """Words of the tables for runs that diverged."""
        if self.bounded:
            return "a run that diverged scores chance (1 / classes)"
        return "a run that diverged has no loss: it is counted in `diverged`, not averaged"


METRICS = {
    metric.column: metric
    for metric in (
        Metric("test_accuracy", "test accuracy", larger_is_better=True, bounded=True),
        Metric("test_loss", "test loss", larger_is_better=False, bounded=False),
        Metric("train_loss", "training loss", larger_is_better=False, bounded=False),
    )
}


def get_metric(name: str) -> Metric:
    """Look a metric up.

    Raises
    ------
    FaninError
        There is none of that name; the nearest are listed.
    """
    if name not in METRICS:
        raise FaninError(f"metric {name}: not one to compare by; {suggest(name, METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class ComparisonSpec:
    """A comparison of strategies.

    Attributes
    ----------
    by
        The axis whose values are the strategies: an option group with what was set in it (`init`),
        or one key (`init.gain`).
    metric
        A column of `cells`: `test_accuracy`, `test_loss` or `train_loss`.
    within
        Axes that split the sweep into groups; each group gets a comparison of its own.
    tune
        The axis that each strategy chooses for itself, or "" for none.
    level
        Chance of any false alarm among all pairs of all groups.
    few_seeds
        Whether to rank on fewer than three seeds.
    """

    by: str = "init"
    metric: str = "test_accuracy"
    within: tuple[str, ...] = ()
    tune: str = "optim.lr"
    level: float = 0.05
    few_seeds: bool = False

    @property
    def metric_info(self) -> Metric:
        """The metric."""
        return get_metric(self.metric)

    @property
    def min_seeds(self) -> int:
        """Seeds that a strategy needs to be ranked."""
        return 1 if self.few_seeds else MIN_SEEDS
