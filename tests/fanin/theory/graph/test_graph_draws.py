"""Theory `field` on graphs agrees with networks drawn at random, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from graph_draws import digits, extrapolated_scores, rejected
from residual_modules import ConvNeXt, DenseNet, ResidualMlp, ResNet, SqueezeExcite, Swish
from rule_modules import ConcatenatedGroups, Depthwise, Neighbours, Pointwise, SplitGroups
from torch import nn

DRAWS = 100

MODELS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "residual, no norm": (lambda w: ResNet(width=w), 1),
    "residual v2, no norm": (lambda w: ResNet(version=2, width=w), 1),
    "residual, layer norm": (lambda w: ResNet("layer", width=w), 1),
    "residual v2, group norm, padded shortcut": (lambda w: ResNet("group", 2, "A", w), 1),
    "residual, instance norm": (lambda w: ResNet("instance", width=w), 1),
    "residual, batch norm": (lambda w: ResNet("batch", width=w), 3),
    "residual v2, batch norm, padded shortcut": (lambda w: ResNet("batch", 2, "A", w), 3),
    "dense": (DenseNet, 1),
    "squeeze and excite": (SqueezeExcite, 1),
    "channels last, depthwise": (ConvNeXt, 1),
    "residual MLP, layer norm": (partial(ResidualMlp, "layer"), 1),
    "residual MLP, RMS norm": (partial(ResidualMlp, "rms"), 1),
    "swish, halves of channels": (Swish, 1),
    "groups with channels of two tensors": (ConcatenatedGroups, 1),
    "groups whose channels are used in different ways": (SplitGroups, 1),
    "depthwise, then activations": (Depthwise, 1),
    "functions of several tensors": (Pointwise, 1),
    "local response norm, mean only": (Neighbours, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_moments_of_all_tensors_agree_with_draws(name: str):
    build, images = MODELS[name]
    scores = extrapolated_scores(build, (32, 64), digits(images), DRAWS)
    assert {quantity for quantity, *_ in scores} >= {"preact_m2", "vjp_m2"}
    assert not rejected(scores)
