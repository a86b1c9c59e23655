"""A loss by its name, or as the lab's objective."""

from __future__ import annotations

from typing import get_args

from fanin.errors import ConfigError, nearest
from fanin.losses import Head, Loss, Objective, make_objective
from fanin.losses.options import HeadName, LossName
from fanin.losses.table import TABLE

HEAD: dict[LossName, HeadName] = {"cross_entropy": "softmax", "mse": "none", "bce": "sigmoid"}


def options_of(objective: Objective) -> tuple[Loss, Head]:
    """The loss and the head that an objective was made of.

    Examples
    --------
    >>> options_of(objective_of("bce", 10))
    (Loss(name='bce', form='stable'), Head(name='sigmoid'))
    """
    name, form = next(
        (name, form)
        for (name, head, form), row in TABLE.items()
        if row == objective.row and head == objective.head.name
    )
    return Loss(name, form), objective.head


def objective_of(loss: str | Objective, n_logits: int) -> Objective:
    """The objective of a loss's name with its usual head, one logit a class.

    Raises
    ------
    ConfigError
        There is no such loss.

    Examples
    --------
    >>> objective_of("cross_entropy", 10).head.name
    'softmax'
    """
    if isinstance(loss, Objective):
        return loss
    for name in get_args(LossName):
        if name == loss:
            # One logit: yes or no, or a real-valued target.
            one: dict[str, int | None] = {"bce": 2, "mse": None}
            classes = one.get(name, 1) if n_logits == 1 else n_logits
            return make_objective(Loss(name), Head(HEAD[name]), classes)
    raise ConfigError(f"loss={loss}: {nearest(str(loss), get_args(LossName))}")
