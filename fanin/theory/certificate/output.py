"""Predictions for the logits: their variance, the expected initial loss and its gradient."""

from __future__ import annotations

from math import exp, isfinite, nan
from typing import get_args

import pandas as pd
from numpy.polynomial.hermite_e import hermegauss

from fanin.errors import ConfigError, suggest
from fanin.losses import Head, Loss, Objective, make_objective
from fanin.losses.table import TABLE, HeadName, LossName
from fanin.statistics.draw_distribution import log_mean_excess
from fanin.statistics.log_gamma import from_normal
from fanin.theory.cache import memoized
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate
from fanin.theory.logits import InitialLoss, initial_loss

DEFAULT_HEADS: dict[LossName, HeadName] = {
    "cross_entropy": "softmax",
    "mse": "none",
    "bce": "sigmoid",
}


def loss_and_head(objective: Objective) -> tuple[Loss, Head]:
    """Return the loss and the head of an objective.

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
    """Return the objective of a loss name, with its default head and one logit per class.

    Raises
    ------
    ConfigError
        The loss does not exist.

    Examples
    --------
    >>> resolve_objective("cross_entropy", 10).head.name
    'softmax'
    """
    if isinstance(loss, Objective):
        return loss
    for name in get_args(LossName):
        if name == loss:
            # A single logit stands for two classes (bce) or for a real-valued target (mse).
            single_logit: dict[str, int | None] = {"bce": 2, "mse": None}
            classes = single_logit.get(name, 1) if n_logits == 1 else n_logits
            return make_objective(Loss(name), Head(DEFAULT_HEADS[name]), classes)
    raise ConfigError(f"loss={loss}: {suggest(str(loss), get_args(LossName))}")


NODES = 9  # few quadrature nodes suffice, because the loss is smooth in the logit variance


def output_certificate(last: LayerCertificate, objective: Objective) -> OutputCertificate:
    """Predict the variance of the logits, the expected initial loss and its squared gradient.

    The gradient is NaN for a custom loss.
    """
    n = last.channels
    logit_var, m2 = _logit_variance(last), last.predicted["preact_m2"].distribution
    zero_probability = m2.zero_probability if isfinite(m2.zero_probability) else 0.0
    log_skew = m2.log_skew if isfinite(m2.log_skew) else 0.0
    if not isfinite(logit_var):
        return OutputCertificate(n, logit_var)
    shift_var = max(last.q - logit_var - last.mean**2, 0.0)

    def initial(loss: Loss, head: Head) -> InitialLoss:
        arguments = (logit_var, last.mean, shift_var, n, m2.log_sd, log_skew, zero_probability)
        name = f"initial {loss} {head}"
        return memoized(name, lambda: _average_initial_loss(loss, head, *arguments), *arguments)

    losses: dict[str, float] = {
        name: initial(Loss(name), Head(head)).loss for name, head in DEFAULT_HEADS.items() if n > 1
    }
    gradient = nan
    if not objective.is_custom:
        gradient = initial(*loss_and_head(objective)).gradient_m2 / n
    # The variance among an image's n logits is smaller than over draws, by the factor 1 - 1/n.
    return OutputCertificate(n, logit_var * (1 - 1 / n), losses, gradient)


def gradient_rows(frame: pd.DataFrame, last: LayerCertificate, gradient_m2: float) -> pd.DataFrame:
    """Return rows of the `predictions` table for `grad_m2` and `weight_grad_m2`.

    The predictions are those for the random cotangent times the mean square of dL/dlogits. This
    assumes that the direction of dL/dlogits is random, which holds for weights of mean 0. If the
    weights of the last layer have another mean, there are no such rows. The gradient of mse is
    correlated with the forward pass, because it grows with the logits: in a three-layer network
    with logit variance 0.32, the measured `weight_grad_m2` of the first layer was 27 % larger than
    this prediction (standard error 5 %) for mse, and within 2 % for cross entropy.
    """
    if not isfinite(gradient_m2) or not last.has_zero_mean_weights:
        return frame.head(0)
    rows = frame[frame.quantity.isin(["vjp_m2", "weight_vjp_m2"])]
    return rows.assign(
        quantity=rows.quantity.str.replace("vjp", "grad"),
        value=rows.value * gradient_m2,
        log_sd=nan,
        log_skew=nan,
        sampling_se=rows.sampling_se * gradient_m2,
    )


def _logit_variance(last: LayerCertificate) -> float:
    """Return the variance of a logit over draws, without that of the shift common to all logits."""
    for theory in ("field", "mean_field", "he"):
        values = last.theories.get(theory, {})
        if values.get("preact_m2", 0.0) > 0 and isfinite(last.q):
            return last.q * values["preact_var"] / values["preact_m2"]
    return last.q


def _average_initial_loss(
    loss: Loss,
    head: Head,
    var: float,
    shift: float,
    shift_var: float,
    n: int,
    log_sd: float,
    log_skew: float,
    zero_probability: float,
) -> InitialLoss:
    classes = 2 if n == 1 else n
    if not isfinite(log_sd) or var == 0 or (log_sd == 0 and zero_probability == 0):
        return initial_loss(loss, head, classes, var, shift=shift, shift_var=shift_var)
    nodes, weights = hermegauss(NODES)
    total = gradient = 0.0
    if zero_probability:  # draws in which all logits are 0
        draw = initial_loss(loss, head, classes, 0.0)
        total, gradient = zero_probability * draw.loss, zero_probability * draw.gradient_m2
    log_ratios = log_sd * from_normal(nodes, log_skew) - log_mean_excess(log_sd, log_skew)
    weights = (1 - zero_probability) * weights / weights.sum()
    for log_ratio, weight in zip(log_ratios.tolist(), weights, strict=True):
        draw_var = var / (1 - zero_probability) * exp(log_ratio)
        draw = initial_loss(loss, head, classes, draw_var, shift=shift, shift_var=shift_var)
        total += weight * draw.loss
        gradient += weight * draw.gradient_m2
    return InitialLoss(float(total), float(gradient))
