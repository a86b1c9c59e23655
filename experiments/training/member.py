"""One cell's part in a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.data import Dataset
from experiments.scaling import FittedScaling
from experiments.schema import Cell
from experiments.training.checkpoint import Keeper
from experiments.training.progress import Progress
from experiments.training.step import Params, Task

OnProbe = Callable[[int, Params], None]
OnKeep = Callable[[Progress], None]


def _ignore(progress: Progress) -> None:
    """Keep nothing."""


@dataclass(frozen=True)
class Member:
    """A cell's configuration, network and data, and what is called on the way.

    Parameters
    ----------
    on_probe
        Called with (step, params) before each step that `probe.steps` names.
    progress
        Where to go on from; None: from the weights its model holds.
    keeper, on_keep
        When `keeper` says so, `on_keep` is called with how far training is.
    """

    cell: Cell
    task: Task
    data: Dataset
    scaling: FittedScaling
    on_probe: OnProbe
    progress: Progress | None = None
    keeper: Keeper | None = None
    on_keep: OnKeep = _ignore
