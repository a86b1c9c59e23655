"""Predictions of theory for a model whose gradients explode or vanish."""

from __future__ import annotations

from torch import Tensor, nn

from fanin.errors import FaninError

MAX_IMAGES = 2
MAX_SECONDS = 5.0  # expected time from which gains are not computed


def predicted_gradient_norms(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the predicted norms of the gradients of the hidden layers' outputs, by name.

    They are relative to the last hidden layer on all paths. Theory `mean_field` predicts them from
    the moments of the current weights, or theory `field` for a network with branches. Empty if it
    has no formula for a layer or would take long.
    """
    from fanin.theory.certificate import certify  # certificates import the checks of this package
    from fanin.theory.network import has_flat_weights

    try:
        theory = "mean_field" if has_flat_weights(model, tuple(images.shape[1:])) else "field"
        if theory == "field" and not _is_cheap(model, images):
            return {}
        hidden = certify(
            *(model, images.float()),
            theories=(theory,),
            joint=False,
            max_images=MAX_IMAGES,
            quiet=True,
        ).layers[:-1]
    except FaninError:
        return {}
    on_all_paths = [layer for layer in hidden if not layer.in_branch]
    if not on_all_paths or not on_all_paths[-1].backward_norm_m2 > 0:
        return {}
    last = on_all_paths[-1].backward_norm_m2
    norms = {layer.name: float((layer.backward_norm_m2 / last) ** 0.5) for layer in hidden}
    norms[on_all_paths[-1].name] = norms.pop(on_all_paths[-1].name)  # the last key
    return norms


def prescribed_gains(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the gains on He's init that suit a model and its images.

    Empty if theory has no formula for a layer or would take long.
    """
    from fanin.theory.prescribe import prescribe

    try:
        if not _is_cheap(model, images):
            return {}
        return dict(
            prescribe(model, images.float(), max_images=MAX_IMAGES, quiet=True).gains,
        )
    except FaninError:
        return {}


def _is_cheap(model: nn.Module, images: Tensor) -> bool:
    from fanin.theory.cost import expected_phases

    phases, _ = expected_phases(model, images[:MAX_IMAGES], ("field",))
    return bool(phases) and sum(phase.seconds for phase in phases) <= MAX_SECONDS
