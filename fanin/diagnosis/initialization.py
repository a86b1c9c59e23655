"""Initialize a copy of a model by the standard rules, to test whether its init is the cause."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fanin.diagnosis.recording import Recording

# Activations for which He's variance is the standard; Glorot's for all others.
RECTIFIERS = {"relu", "relu6", "leakyrelu", "prelu", "elu", "gelu", "silu", "mish", "leaky_relu"}
ACTIVATIONS = RECTIFIERS | {"tanh", "sigmoid", "softsign", "hardtanh", "selu"}
HE = """\
for m in model.modules():
    if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if m.bias is not None:
            nn.init.zeros_(m.bias)"""
GLOROT = HE.replace('kaiming_normal_(m.weight, nonlinearity="relu")', "xavier_normal_(m.weight)")


@torch.no_grad()
def initialized_copy(
    model: nn.Module, recording: Recording, seed: int = 0
) -> tuple[nn.Module, str]:
    """Return a copy with He's or Glorot's init and the code that does the same.

    Linear and convolution layers get He's weights if most activations are rectifiers, else
    Glorot's, and zero biases. Other modules with a method `reset_parameters` get torch's default.
    """
    is_he = _activations(recording)[:1] in ([], ["rectifier"])
    copy = deepcopy(model)
    torch.manual_seed(seed)
    for module in copy.modules():
        if isinstance(module, nn.Linear | _ConvNd):
            if is_he:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif not list(module.children()):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return copy, HE if is_he else GLOROT


def _activations(recording: Recording) -> list[str]:
    """Return the kinds of activations, most frequent first: `rectifier` or `other`."""
    names = [
        type(call.module).__name__.lower() if call.module else call.name.split(" ")[0].rstrip("_")
        for call in recording.calls
    ]
    kinds = Counter(
        "rectifier" if name in RECTIFIERS else "other" for name in names if name in ACTIVATIONS
    )
    return [kind for kind, _ in kinds.most_common()]
