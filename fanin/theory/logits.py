"""Expected loss and logit gradient before training, from the moments of the logits.

Over draws of the last layer the logits of one image are z_k = shift + s e_k. The e_k are standard
normal, independent of each other and of the label. The shift is common to all classes and comes
from weights or pre-activations of non-zero mean; a softmax does not depend on it. Labels are
assumed to be balanced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from fanin.losses import Head, Loss, make_objective
from fanin.losses.table import LossImplementation
from fanin.theory.quadrature import gaussian_nodes

VARIANCE_NODES = 41
SAMPLES = 2**21  # random numbers, where no one-dimensional integral exists
EULER_GAMMA = 0.57721566490153286


@dataclass(frozen=True)
class InitialLoss:
    """Expected loss and squared gradient of one image, over draws of the network.

    Attributes
    ----------
    loss
        Expected loss. A batch's mean loss has the same expectation.
    gradient_m2
        E |dL/dz|^2, summed over the logits.
    loss_se, gradient_se
        Standard errors caused by sampling; 0 if the values come from an integral.
    """

    loss: float
    gradient_m2: float
    loss_se: float = 0.0
    gradient_se: float = 0.0


def initial_loss(
    loss: Loss,
    head: Head,
    n_classes: int,
    logit_var: float,
    *,
    shift: float = 0.0,
    shift_var: float = 0.0,
    log_sd: float = 0.0,
    seed: int = 0,
) -> InitialLoss:
    """Return the expected loss and squared gradient of one image before training.

    Parameters
    ----------
    loss, head
        Loss and head. The form `naive` is treated as `stable`; the two are equal until the
        probabilities underflow.
    n_classes
        Number of classes.
    logit_var
        Variance s^2 of a logit between classes, without the common shift.
    shift, shift_var
        Mean and variance of the common shift.
    log_sd
        Standard deviation of the log of one draw's s^2, which is log-normal with mean
        `logit_var`.
    seed
        Seed of the sampling. Only a softmax head with loss `mse` or form `twice` samples.

    Raises
    ------
    ConfigError
        The loss does not support this head.

    Examples
    --------
    >>> start = initial_loss(Loss("cross_entropy"), Head("softmax"), 10, 0.0)
    >>> round(start.loss, 6), round(start.gradient_m2, 6)
    (2.302585, 0.9)
    """
    form = "stable" if loss.form == "naive" else loss.form
    objective = make_objective(Loss(loss.name, form), head, n_classes)
    variances, weights = _variance_nodes(logit_var, log_sd)
    if loss.name == "cross_entropy" and form == "stable":
        parts = [_cross_entropy(n_classes, math.sqrt(v)) for v in variances]
    elif head.name == "softmax":
        parts = [
            _sampled(objective.implementation, n_classes, math.sqrt(v), seed) for v in variances
        ]
    else:
        n = objective.n_outputs
        p_1 = 0.5 if n == 1 else 1 / n_classes
        parts = [
            _by_output(objective.implementation, n, p_1, shift, v + shift_var) for v in variances
        ]
    # The samples for all variance nodes use the same random numbers. Their errors therefore do not
    # average out, and the standard error is the weighted sum.
    columns = zip(*parts, strict=True)
    return InitialLoss(
        *(sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns)
    )


def _variance_nodes(var: float, log_sd: float) -> tuple[list[float], list[float]]:
    if log_sd == 0 or var == 0:
        return [var], [1.0]
    z, weight = hermegauss(VARIANCE_NODES)
    variances = var * torch.exp(torch.from_numpy(log_sd * z - log_sd**2 / 2))
    return variances.tolist(), (weight / weight.sum()).tolist()


def _cross_entropy(n_classes: int, s: float) -> tuple[float, float, float, float]:
    """Integrate with the Gumbel-max identity: max_k(s e_k + G_k) ~ log sum exp(s e_k) + G.

    The distribution function of the maximum is a power of that of s e + G, so a single integral
    remains. In the same way E[p_k^2] is the integral of
    E[(tX)^2 exp(-tX)] E[exp(-tX)]^(K-1) dt/t with X = exp(s e).
    """
    x, weight = _composite(-9.5 * s - 5, 9.5 * s + 45, 0.25 * (1 + s))
    cdf, squared = _gumbel_expectations(x, s)
    max_cdf = cdf**n_classes
    # E[max] is the integral of 1 - F over x > 0 minus the integral of F over x < 0.
    expected_max = float((weight * torch.where(x > 0, 1 - max_cdf, -max_cdf)).sum())
    sum_p2 = n_classes * float((weight * squared * cdf ** (n_classes - 1)).sum())
    return expected_max - EULER_GAMMA, 1 - 2 / n_classes + sum_p2, 0.0, 0.0


def _gumbel_expectations(x: Float[Tensor, " x"], s: float) -> tuple[Tensor, Tensor]:
    """Return E[exp(-exp(-(x - s e)))] and E[exp(-2(x - s e) - exp(-(x - s e)))], e ~ N(0, 1)."""
    if s < 1:
        e, weight = _composite(-9.5, 9.5, 0.5)
        weight = weight * torch.exp(-e.square() / 2) / math.sqrt(2 * math.pi)
        y = x[:, None] - s * e
        gumbel = torch.exp(-torch.exp(-y))
        return gumbel @ weight, torch.exp(-2 * y - torch.exp(-y)) @ weight
    # For a wide Gaussian, integrate over the narrower Gumbel variable instead.
    v, weight = _composite(-5.0, 45.0, 0.5)
    z = (x[:, None] - v) / s
    density = weight * torch.exp(-v - torch.exp(-v))
    normal = torch.exp(-z.square() / 2) / (s * math.sqrt(2 * math.pi))
    return torch.special.ndtr(z) @ density, normal @ (density * torch.exp(-v))


def _composite(low: float, high: float, panel: float) -> tuple[Tensor, Tensor]:
    # Split at 0, where an integrand may have a jump.
    n_left, n_right = math.ceil(-low / panel), math.ceil(high / panel)
    centre = panel * (torch.arange(-n_left, n_right, dtype=torch.float64) + 0.5)
    node, weight = (torch.from_numpy(a) for a in leggauss(10))
    x = (centre[:, None] + panel / 2 * node).flatten()
    return x, (panel / 2 * weight).repeat(n_left + n_right)


def _by_output(
    implementation: LossImplementation, n_outputs: int, p_1: float, mean: float, var: float
) -> tuple[float, float, float, float]:
    """Integrate a loss that is a mean over outputs of a function of one logit and its target."""
    y, weight = gaussian_nodes(*torch.tensor([mean, var], dtype=torch.float64))
    loss = gradient = 0.0
    off = -1.0 if implementation.target_encoding == "plus_minus_one" else 0.0
    for target, p in ((1.0, p_1), (off, 1 - p_1)):
        value, slope = _per_image(implementation, y[:, None], torch.full_like(y, target)[:, None])
        loss += p * float((weight * value).sum())
        gradient += p * float((weight * slope.square().sum(-1)).sum())
    return loss, gradient / n_outputs, 0.0, 0.0


def _per_image(
    implementation: LossImplementation, logits: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        loss = implementation.per_example(logits, target)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient


def _sampled(
    implementation: LossImplementation, n_classes: int, s: float, seed: int
) -> tuple[float, float, float, float]:
    n = max(64, SAMPLES // n_classes)
    generator = torch.Generator().manual_seed(seed)
    logits = s * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    label = torch.arange(n) % n_classes
    one_hot = torch.nn.functional.one_hot(label, n_classes).double()
    target = label if implementation.target_encoding == "label" else one_hot
    loss, gradient = _per_image(implementation, logits, target)
    square = gradient.square().sum(-1)
    loss_se, gradient_se = float(loss.std()) / math.sqrt(n), float(square.std()) / math.sqrt(n)
    return float(loss.mean()), float(square.mean()), loss_se, gradient_se
