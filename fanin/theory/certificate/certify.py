"""`certify` predicts every layer of a network; `assert_healthy` raises if one is unhealthy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.images import MAX_IMAGES
from fanin.inits import set_scalars
from fanin.losses import Objective
from fanin.progress import show_progress
from fanin.theory.certificate.assemble import overflows_at, update_records
from fanin.theory.certificate.certificate import Certificate, CertificateInputs
from fanin.theory.certificate.joint import predicts_joint
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
from fanin.theory.certificate.reading import predict_network
from fanin.theory.certificate.verdicts import UnhealthyInit
from fanin.theory.certificate.weights import InitLike, prepare_inputs, resolve_moments
from fanin.theory.cost import expected_phases
from fanin.theory.layer_kind import LayerKind
from fanin.theory.predict import THEORIES

LONG = 60.0  # expected seconds from which the message says what is faster


def certify(
    model: nn.Module,
    images: Float[Tensor | np.ndarray, "image ..."],
    *,
    init: InitLike | None = None,
    theories: Sequence[str] = THEORIES,
    seed: int = 0,
    labels: Shaped[Tensor, " image"] | None = None,
    loss: str | Objective = "cross_entropy",
    measure: int = 0,
    restart: bool = False,
    joint: bool | None = None,
    sharpness: bool = False,
    layer_kinds: Sequence[LayerKind] = (),
    max_images: int | None = MAX_IMAGES,
    quiet: bool = False,
) -> Certificate:
    """Predict every layer of a network on given images, before training.

    Parameters
    ----------
    model
        Any module that returns logits, in the mode in which it will be used (dropout is active in
        training mode). A model that is no `nn.Sequential` of supported layers is read as a graph,
        with residual sums, concatenations and functions. The model is not modified.
    images
        A few preprocessed inputs, as the network receives them: a floating-point tensor or numpy
        array. If there are more than `max_images`, evenly spaced ones are used.
    init
        Distribution of the weights: a name such as `he_normal` (the options of `init=` in conf/), a
        scheme such as `HeNormal()`, an `Init`, or moments by layer name. None estimates the moments
        from the model's current weights.
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
        If a layer has no formula, continue after it from activations measured in a few new draws,
        instead of raising. In a network with branches, also in a sequence of residual blocks, a sum
        of such a tensor with one that depends on the same weights is measured too.
    joint
        Also predict the quantities that depend on several images (correlation between inputs,
        fraction of dead units). None predicts them if the number of images times the output
        positions of the largest layer is at most 1,024 and the expected time at most 10 s.
    sharpness
        Also measure the largest Hessian eigenvalue of one draw. Requires `labels`.
    layer_kinds
        Rules for additional kinds of layers, in an `nn.Sequential` only. They take precedence over
        `fanin.theory.layers`.
    max_images
        Largest number of images to use; the cost is proportional to it. None uses all images.
    quiet
        Do not print the expected time, the progress and the number of images to stderr.

    Returns
    -------
    Certificate
        A record per weight layer, and for a graph also per sum and normalization. Use
        `print_certificate` to print it as a table.

    Raises
    ------
    UnpredictableLayer
        A theory has no formula for a layer. The message names the layer and, for a graph, the line
        of its code.
    InputError
        The images or the model are invalid, for example an (images, labels) batch or a model on the
        meta device.
    ConfigError
        Another argument is invalid.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> images = torch.ones(1, 1, 8, 8)
    >>> certificate = certify(net, images, init="he_normal", theories=("he", "mean_field"))
    >>> [(layer.name, round(layer.q, 9)) for layer in certificate.layers]
    [('1', 2.0), ('3', 2.0)]
    """
    net, inputs, labels, n_given = prepare_inputs(
        "certify", model, images, labels, max_images=max_images, quiet=quiet
    )
    weights = resolve_moments(net, init)
    if weights.init is not None:
        set_scalars(net, weights.init)
    phases, details = expected_phases(
        *(net, inputs, theories),
        moments=weights.moments,
        joint="field" in theories
        and predicts_joint(net, inputs, weights.moments, joint, layer_kinds),
        draws=measure,
        layer_kinds=layer_kinds,
    )
    if sum(phase.seconds for phase in phases) >= LONG and len(inputs) > 1:
        details = f"{details} (one image is faster: max_images=1)"
    with show_progress("certify", phases, details=details, quiet=quiet):
        network = predict_network(
            *(net, weights, inputs, theories, seed),
            restart=restart,
            joint=joint,
            layer_kinds=layer_kinds,
        )
        draws = measure_draws(
            *(net, inputs, weights, measure, seed, labels, loss), tracer=network.tracer
        )
        layers = network.make_records(summarize_draws(draws))
        objective = resolve_objective(loss, layers[-1].channels)
        output = output_certificate(layers[-1], objective)
        gradients = gradient_rows(network.frame, layers[-1], output.gradient_m2)
        frame = pd.concat([network.frame, gradients], ignore_index=True)
        layers = update_records(layers, frame, keeps_field=network.is_graph)
        curvature: dict[str, float] = {}
        if sharpness:
            if labels is None:
                raise ConfigError(
                    "sharpness=True: labels are missing; pass labels=... to certify()"
                )
            curvature = sharpness_by_layer(net, inputs, labels, weights, objective, seed)
        return Certificate(
            layers=layers,
            output=output,
            frame=frame,
            theories=tuple(theories),
            moments=weights.source,
            overflows_at=overflows_at(layers),
            inputs=CertificateInputs(
                *(net, inputs, weights, seed, tuple(layer_kinds), n_given, network.is_graph)
            ),
            draws=draws,
            sharpness=curvature,
            loss=loss_and_head(objective)[0].name,
            unpredicted=network.unpredicted,
            notes=network.notes,
        )


def assert_healthy(
    certificate: Certificate | nn.Module,
    images: Float[Tensor | np.ndarray, "image ..."] | None = None,
    *,
    init: InitLike | None = None,
    max_images: int | None = MAX_IMAGES,
    quiet: bool = False,
    **limits: Any,
) -> None:
    """Raise an AssertionError if the init of a network or the images are unhealthy.

    Parameters
    ----------
    certificate
        A `Certificate`, or a model, which is certified first.
    images, init, max_images, quiet
        Arguments of `certify`, if `certificate` is a model.
    **limits
        Fields of `Limits` to change from their defaults.

    Raises
    ------
    UnhealthyInit
        At least one layer is unhealthy, or the images are, for example raw pixels. The message
        names each layer, its value and a remedy.
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
        certificate = certify(*(certificate, images), init=init, max_images=max_images, quiet=quiet)
    accepted = Limits(**limits)
    verdicts = judge(certificate.layers, accepted)
    findings = certificate.input_findings
    if verdicts or findings:
        fix = certificate.find_fix(accepted)
        raise UnhealthyInit(verdicts, fix.heading, fix.remedies, findings)
