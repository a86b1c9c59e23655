"""`certify` predicts every layer of a network; `assert_healthy` raises if one is unhealthy."""

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
from fanin.theory.certificate.judge import Limits, judge
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
from fanin.theory.certificate.verdicts import UnhealthyInit
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
    """Predict every layer of a network on given images, before training.

    Parameters
    ----------
    model
        An `nn.Sequential`, nested or not, in the mode in which it will be used (dropout is active
        in training mode). The model is not modified.
    images
        A few preprocessed inputs, as the network receives them.
    init
        Distribution of the weights: an `Init`, a scheme such as `HeNormal()`, or moments by layer
        name. None estimates the moments from the model's current weights.
    theories
        Names of theories: `he`, `mean_field`, `field`, `finite_width`. Only `finite_width` predicts
        the variation between draws.
    seed
        Seed of the theories' own sampling and of the measured draws.
    labels
        Labels of the images, needed by `sharpness`.
    loss
        Loss for the quantities `grad_m2` and `weight_grad_m2`: `cross_entropy`, `mse`, `bce`, or an
        `Objective`.
    measure
        Number of draws to measure for comparison. If `init` is None, the model itself is the only
        draw.
    restart
        If a layer has no formula, continue after it from measured activations instead of raising.
    joint
        Also predict the quantities that depend on several images (correlation between inputs,
        fraction of dead units). None predicts them if the number of images times the output
        positions of the largest layer is at most 1,024.
    sharpness
        Also measure the largest Hessian eigenvalue of one draw. Requires `labels`.
    layer_kinds
        Rules for additional kinds of layers. They take precedence over `fanin.theory.layers`.

    Returns
    -------
    Certificate
        A record per weight layer. Use `print_certificate` to print it as a table.

    Raises
    ------
    UnpredictableLayer
        A theory has no formula for a layer. The message names the layer.
    ConfigError
        An argument is invalid.

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
    inputs = images.detach().to("cpu").double()
    weights = resolve_moments(net, init)
    segments = predict_segments(net, weights, inputs, theories, seed, restart, layer_kinds)
    joint_frame = pd.DataFrame()
    if "field" in theories:
        joint_frame = joint_rows(segments, weights, seed, joint)
    frame = number_layers(net, segments, joint_frame)
    draws = measure_draws(net, inputs, weights, measure, seed, labels, loss)
    layers = make_records(net, segments, frame, weights, summarize_draws(draws))
    objective = resolve_objective(loss, layers[-1].channels)
    output = output_certificate(layers[-1], objective)
    gradients = gradient_rows(frame, layers[-1], output.gradient_m2)
    frame = pd.concat([frame, gradients], ignore_index=True)
    layers = update_records(layers, frame)
    curvature: dict[str, float] = {}
    if sharpness:
        if labels is None:
            raise ConfigError("sharpness=True: labels are missing; pass labels=... to certify()")
        curvature = sharpness_by_layer(net, inputs, labels, weights, objective, seed)
    return Certificate(
        layers=layers,
        output=output,
        frame=frame,
        theories=tuple(theories),
        moments=weights.source,
        overflows_at=overflows_at(layers),
        inputs=CertificateInputs(net, inputs, weights, seed, tuple(layer_kinds)),
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
    """Raise an AssertionError if the init of a network is unhealthy.

    Parameters
    ----------
    certificate
        A `Certificate`, or a model, which is certified first.
    images, init
        Arguments of `certify`, if `certificate` is a model.
    **limits
        Fields of `Limits` to change from their defaults.

    Raises
    ------
    UnhealthyInit
        At least one layer is unhealthy. The message names each layer, its value and a remedy.
    ConfigError
        `certificate` is a model and `images` is missing.

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
            raise ConfigError("images is missing; call assert_healthy(model, images)")
        certificate = certify(certificate, images, init=init)
    verdicts = judge(certificate.layers, Limits(**limits))
    if verdicts:
        raise UnhealthyInit(verdicts)
