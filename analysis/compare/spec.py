"""What is asked: which axis is compared, by which metric, in which groups."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compare.metric import Metric, metric_named

ENOUGH = 3  # seeds: below it a ranking says more of luck than of strategies


@dataclass(frozen=True)
class Question:
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
    def measured(self) -> Metric:
        """The metric."""
        return metric_named(self.metric)

    @property
    def enough(self) -> int:
        """Seeds that a strategy needs to be ranked."""
        return 1 if self.few_seeds else ENOUGH
