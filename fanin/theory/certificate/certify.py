"""`certify`: predict every layer. `assert_healthy`: raise if a layer is unhealthy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.inits import Init, Scheme
from fanin.losses import Objective
from fanin.theory.certificate.assemble import (
    make_records,
    number_layers,
    overflows_at,
    update_records,
)
from fanin.theory.certificate.certificate import Certificate, CertificateInputs
from fanin.theory.certificate.joint import joint_rows
from fanin.theory.certificate.measured import (
    measure_draws,
    sharpness_by_layer,
    summarize_draws,
)
from fanin.theory.certificate.output import (
    gradient_rows,
    loss_and_head,
    output_certificate,
    resolve_objective,
)
from fanin.theory.certificate.segments import predict_segments
from fanin.theory.certificate.verdicts import Limits, UnhealthyInit, judge
from fanin.theory.certificate.weights import cpu_copy, resolve_moments
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments
from fanin.theory.predict import THEORIES


def certify(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    *,
    init: Init | Scheme | Mapping[str, LayerMoments] | None = None,
    theories: Sequence[str] = THEORIES,
    seed: int = 0,
    labels: Shaped[Tensor, " image"] | None = None,
    loss: str | Objective = "cross_entropy",
    measure: int = 0,
    restart: bool = False,
    joint: bool | None = None,
    sharpness: bool = False,
    layer_kinds: Sequence[LayerKind] = (),
) -> Certificate:
    """Predict every layer of a network on some images, before it is trained.

    Parameters
    ----------
    model
        An `nn.Sequential`, nested or not, in the mode it will be used in (dropout counts in train
        mode). It is left as it is.
    images
        As the network is fed them, scale_moments; a handful. Theory takes them one by one.
    init
        How the weights are draw_networks: an `Init`, a bare scheme such as `HeNormal()`, or moments
        by layer name. None: they have been draw_networks already, by hand or by torch, and their
        moments are estimated from the model's own tensors.
    theories
        Which theories: `he`, `mean_field`, `field`, `finite_width`. Error bars come from
        `finite_width`.
    seed
        Of what theory samples, and of the draws where something is measured.
    labels
        Of the images; for the sharpness.
    loss
        Whose gradients the `grad` quantities are of: `cross_entropy`, `mse`, `bce`, or an
        `Objective`.
    measure
        That many real draws are measured and set beside the prediction. A model whose moments
        were estimated is the one draw there is.
    restart
        Start again from measured moments after a layer that theory has no formula for, instead of
        raising.
    joint
        Whether images are taken together where that is needed (correlation between inputs, dead
        units); None: where it is cheap.
    sharpness
        Also measure the largest Hessian eigenvalue of one draw; needs `labels`.
    layer_kinds
        Rules for kinds of layers beside the built-in ones (`fanin.theory.layers`); they come first.

    Returns
    -------
    Certificate

    Raises
    ------
    UnpredictableLayer
        A layer that theory has no formula for; it is named.
    ConfigError
        An init, theory or loss that can't be.

    Examples
    --------
    >>> import torch
    >>> from fanin.inits import HeNormal
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> images = torch.ones(1, 1, 8, 8)
    >>> certificate = certify(net, images, init=HeNormal(), theories=("he", "mean_field"))
    >>> [(layer.name, round(layer.q, 9)) for layer in certificate.layers]
    [('1', 2.0), ('3', 2.0)]
    """
    net = cpu_copy(model)
    fed = images.detach().to("cpu").double()
    weights = resolve_moments(net, init)
    segments = predict_segments(net, weights, fed, theories, seed, restart, layer_kinds)
    together = joint_rows(segments, weights, seed, joint) if "field" in theories else pd.DataFrame()
    frame = number_layers(net, segments, together)
    draws = measure_draws(net, fed, weights, measure, seed, labels, loss)
    layers = make_records(net, segments, frame, weights, summarize_draws(draws))
    objective = resolve_objective(loss, layers[-1].channels)
    output = output_certificate(layers[-1], objective)
    gradients = gradient_rows(frame, layers[-1], output.gradient_m2)
    frame = pd.concat([frame, gradients], ignore_index=True)
    layers = update_records(layers, frame)
    curvature: dict[str, float] = {}
    if sharpness:
        if labels is None:
            raise ConfigError("sharpness=True: expected labels too, for it is the loss that curves")
        curvature = sharpness_by_layer(net, fed, labels, weights, objective, seed)
    return Certificate(
        layers=layers,
        output=output,
        frame=frame,
        theories=tuple(theories),
        moments=weights.source,
        overflows_at=overflows_at(layers),
        of=CertificateInputs(net, fed, weights, seed, tuple(layer_kinds)),
        draws=draws,
        sharpness=curvature,
        loss=loss_and_head(objective)[0].name,
        unpredicted={s.restarted_at: s.reason for s in segments if s.restarted_at is not None},
    )


def assert_healthy(
    certificate: Certificate | nn.Module,
    images: Float[Tensor, "image ..."] | None = None,
    *,
    init: Init | Scheme | Mapping[str, LayerMoments] | None = None,
    **limits: Any,
) -> None:
    """Raise if a network's init is unhealthy: one line for someone's CI.

    Parameters
    ----------
    certificate
        Made by `certify`; or the model itself, which is then certified.
    images, init
        As for `certify`, with a model.
    limits
        Fields of `Limits` that shall differ from their defaults.

    Raises
    ------
    UnhealthyInit
        An AssertionError that names each layer, the number and the remedy.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from fanin.inits import Normal
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> thin = certify(net, torch.ones(1, 1, 8, 8), init=Normal(std=1e-3), theories=("mean_field",))
    >>> try:
    ...     assert_healthy(thin)
    ... except UnhealthyInit as error:
    ...     print(error.verdicts[0].layer, error.verdicts[0].problem)
    3 vanishing
    """
    if not isinstance(certificate, Certificate):
        if images is None:
            raise ConfigError("assert_healthy: a model needs the images that it is fed")
        certificate = certify(certificate, images, init=init)
    found = judge(certificate.layers, Limits(**limits))
    if found:
        raise UnhealthyInit(found)
