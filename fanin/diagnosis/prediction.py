"""Predictions of theory for a model whose gradients explode or vanish."""

from __future__ import annotations

from torch import Tensor, nn

from fanin.errors import FaninError

MAX_IMAGES = 2
MAX_SECONDS = 5.0  # expected time from which gains are not computed


def predicted_gradient_norms(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the predicted norms of the gradients of the hidden layers' outputs, by name.

    They are relative to the last hidden layer. Theory `mean_field` predicts them from the moments
    of the current weights. Empty if it has no formula for a layer.
    """
    from fanin.theory.certificate import certify  # certificates import the checks of this package

    try:
        hidden = certify(
            *(model, images.float()),
            theories=("mean_field",),
            joint=False,
            max_images=MAX_IMAGES,
            quiet=True,
        ).layers[:-1]
    except FaninError:
        return {}
    if not hidden or not hidden[-1].backward_norm_m2 > 0:
        return {}
    last = hidden[-1].backward_norm_m2
    return {layer.name: float((layer.backward_norm_m2 / last) ** 0.5) for layer in hidden}


def prescribed_gains(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the gains on He's init that suit a model and its images.

    Empty if theory has no formula for a layer or would take long.
    """
    from fanin.theory.cost import expected_phases
    from fanin.theory.prescribe import prescribe

    try:
        phases, _ = expected_phases(model, images[:MAX_IMAGES], ("field",))
        if not phases or sum(phase.seconds for phase in phases) > MAX_SECONDS:
            return {}
        return dict(
            prescribe(model, images.float(), max_images=MAX_IMAGES, quiet=True).gains,
        )
    except FaninError:
        return {}
