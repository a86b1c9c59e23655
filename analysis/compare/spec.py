"""Specification of a comparison: axis, metric, groups, tuning, and the score of a diverged run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fanin.errors import FaninError, suggest

MIN_SEEDS = 3  # with fewer seeds, a ranking depends mostly on chance


@dataclass(frozen=True)
class Metric:
    """A column of the `cells` table to compare by.

    Attributes
    ----------
    column
        Name of the column.
    label
        Name for tables, sentences and figures.
    larger_is_better
        Direction of the metric.
    bounded
        True for an accuracy: a diverged run scores chance. False for a loss: a diverged run has no
        score; it is counted but not averaged.
    """

    column: str
    label: str
    larger_is_better: bool
    bounded: bool

    @property
    def sign(self) -> float:
        """1 if larger is better, else -1."""
        return 1.0 if self.larger_is_better else -1.0

    def chance_score(self, config: Mapping[str, Any]) -> float:
        """Return the accuracy of guessing, 1 / number of classes; NaN for a loss or regression."""
        if not self.bounded:
            return float("nan")
        # Imported here because it loads torch, which takes seconds.
        from experiments.config.instantiate import instantiate_wrapped
        from experiments.config.trust import UntrustedTarget
        from experiments.data import Data

        try:
            classes = instantiate_wrapped(Data, config["data"], "data").n_classes
        except UntrustedTarget as error:
            raise FaninError(
                f"{self.column} needs the number of classes, but {error}; use --metric test_loss, "
                "or --trust"
            ) from error
        return 1.0 / classes if classes else float("nan")

    @property
    def diverged_note(self) -> str:
        """Sentence on the score of a diverged run."""
        if self.bounded:
            return "a diverged run counts as an accuracy of 1 / number of classes"
        return "a diverged run has no loss; it is counted in `diverged` and not averaged"


METRICS = {
    metric.column: metric
    for metric in (
        Metric("test_accuracy", "test accuracy", larger_is_better=True, bounded=True),
        Metric("test_loss", "test loss", larger_is_better=False, bounded=False),
        Metric("train_loss", "training loss", larger_is_better=False, bounded=False),
    )
}


def get_metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises
    ------
    FaninError
        The metric does not exist; the message lists the nearest names.
    """
    if name not in METRICS:
        raise FaninError(f"metric {name}: no such metric; {suggest(name, METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class ComparisonSpec:
    """A comparison of strategies.

    Attributes
    ----------
    by
        Axis with the strategies as values: an option group with all keys set in it (`init`), or
        one key (`init.gain`).
    metric
        Column of the `cells` table: `test_accuracy`, `test_loss` or `train_loss`.
    within
        Axes that split the sweep into groups; each group is compared separately.
    tune
        Axis that is tuned for each strategy, or "" for none.
    level
        Probability of one or more false positives among all pairs of all groups.
    few_seeds
        Also rank strategies with fewer than three seeds.
    """

    by: str = "init"
    metric: str = "test_accuracy"
    within: tuple[str, ...] = ()
    tune: str = "optim.lr"
    level: float = 0.05
    few_seeds: bool = False

    @property
    def metric_info(self) -> Metric:
        """The metric as an object."""
        return get_metric(self.metric)

    @property
    def min_seeds(self) -> int:
        """Number of seeds that a strategy needs to be ranked."""
        return 1 if self.few_seeds else MIN_SEEDS
