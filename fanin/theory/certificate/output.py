"""A loss by its name, or as the lab's objective."""

from __future__ import annotations

from math import exp, isfinite, nan
from typing import get_args

import pandas as pd
from numpy.polynomial.hermite_e import hermegauss

from fanin.errors import ConfigError, suggest
from fanin.losses import Head, Loss, Objective, make_objective
from fanin.losses.table import TABLE, HeadName, LossName
from fanin.theory.cache import memoized
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate
from fanin.theory.logits import InitialLoss, initial_loss

DEFAULT_HEADS: dict[LossName, HeadName] = {
    "cross_entropy": "softmax",
    "mse": "none",
    "bce": "sigmoid",
}


def loss_and_head(objective: Objective) -> tuple[Loss, Head]:
    """The loss and the head that an objective was made of.

    Examples
    --------
    >>> loss_and_head(resolve_objective("bce", 10))
    (Loss(name='bce', form='stable'), Head(name='sigmoid'))
    """
    name, form = next(
        (name, form)
        for (name, head, form), row in TABLE.items()
        if row == objective.implementation and head == objective.head.name
    )
    return Loss(name, form), objective.head


def resolve_objective(loss: str | Objective, n_logits: int) -> Objective:
    """The objective of a loss's name with its usual head, one logit a class.

    Raises
    ------
    ConfigError
        There is no such loss.

    Examples
    --------
    >>> resolve_objective("cross_entropy", 10).head.name
    'softmax'
    """
    if isinstance(loss, Objective):
        return loss
    for name in get_args(LossName):
        if name == loss:
            # One logit: yes or no, or a real-valued target.
            one: dict[str, int | None] = {"bce": 2, "mse": None}
            classes = one.get(name, 1) if n_logits == 1 else n_logits
            return make_objective(Loss(name), Head(DEFAULT_HEADS[name]), classes)
    raise ConfigError(f"loss={loss}: {suggest(str(loss), get_args(LossName))}")


NODES = 9  # of one draw's logit variance, over which the loss is a smooth curve


def output_certificate(last: LayerCertificate, objective: Objective) -> OutputCertificate:
    """The logits' variance, the loss expected before training, and its gradient's size."""
    n = last.channels
    between, log_sd = _logit_variance(last), last.predicted["preact_m2"].log_sd
    if not isfinite(between):
        return OutputCertificate(n, between)
    shared = max(last.q - between - last.mean**2, 0.0)

    def start(loss: Loss, head: Head) -> InitialLoss:
        parts = (between, last.mean, shared, n, log_sd)
        what = f"initial {loss} {head}"
        return memoized(what, lambda: _average_initial_loss(loss, head, *parts), *parts)

    losses: dict[str, float] = {
        name: start(Loss(name), Head(head)).loss for name, head in DEFAULT_HEADS.items() if n > 1
    }
    gradient = start(*loss_and_head(objective)).gradient_m2 / n
    # Among n logits it is smaller by a share 1 / n.
    return OutputCertificate(n, between * (1 - 1 / n), losses, gradient)


def gradient_rows(frame: pd.DataFrame, last: LayerCertificate, gradient_m2: float) -> pd.DataFrame:
    """The loss's own gradients, as rows of the `predictions` table: `grad_m2`, `weight_grad_m2`.

    They are those of the random cotangent times the mean square of dL/dlogits, whose direction is
    as good as random for weights of mean zero. Where the logits share a mean it is not (a softmax
    doesn't see it), and there is no such row. The gradient of mse grows with the logits themselves
    and so goes with the forward pass: of a net of three layers with logit variance 0.32, first
    layer, `weight_grad_m2` was 27 % larger than this (5 % standard error), while that of cross
    entropy was within 2 %.
    """
    if not isfinite(gradient_m2) or not last.has_zero_mean_weights:
        return frame.head(0)
    rows = frame[frame.quantity.isin(["vjp_m2", "weight_vjp_m2"])]
    return rows.assign(
        quantity=rows.quantity.str.replace("vjp", "grad"),
        value=rows.value * gradient_m2,
        log_sd=nan,
        sampling_se=rows.sampling_se * gradient_m2,
    )


def _logit_variance(last: LayerCertificate) -> float:
    """Variance of a logit over draws, without what all logits share (weights of non-zero mean)."""
    for theory in ("field", "mean_field", "he"):
        known = last.theories.get(theory, {})
        if known.get("preact_m2", 0.0) > 0 and isfinite(last.q):
            return last.q * known["preact_var"] / known["preact_m2"]
    return last.q


def _average_initial_loss(
    loss: Loss, head: Head, var: float, shift: float, shift_var: float, n: int, log_sd: float
) -> InitialLoss:
    classes = 2 if n == 1 else n
    if not isfinite(log_sd) or log_sd == 0 or var == 0:
        return initial_loss(loss, head, classes, var, shift=shift, shift_var=shift_var)
    nodes, weights = hermegauss(NODES)
    total = gradient = 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        one = var * exp(log_sd * node - log_sd**2 / 2)
        found = initial_loss(loss, head, classes, one, shift=shift, shift_var=shift_var)
        total += weight * found.loss
        gradient += weight * found.gradient_m2
    return InitialLoss(float(total), float(gradient))
