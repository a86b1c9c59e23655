"""Initialize a copy of a model by the standard rules, to test whether its init is the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from fanin.diagnosis.recording import Recording

# Activations for which He's variance is the standard; Glorot's for all others.
RECTIFIERS = {"relu", "relu6", "leakyrelu", "prelu", "elu", "gelu", "silu", "mish", "leaky_relu"}
ACTIVATIONS = RECTIFIERS | {"tanh", "sigmoid", "softsign", "hardtanh", "selu"}
HE = 'nn.init.kaiming_normal_({}, nonlinearity="relu")'
GLOROT = "nn.init.xavier_normal_({})"


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
    weighted: list[nn.Module] = []
    others: list[nn.Module] = []
    for module in copy.modules():
        if isinstance(module, nn.Linear | _ConvNd):
            weighted.append(module)
            # Writing into a parametrized weight has no effect.
            weight = module.weight.clone() if is_parametrized(module) else module.weight
            if is_he:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(weight)
            if is_parametrized(module):
                module.weight = weight
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            others.append(module)
            module._reset_parameters()
        elif isinstance(module, _BatchNorm) or not list(module.children()):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                others.append(module)
                reset()
    return copy, _code(weighted, others, HE if is_he else GLOROT)


def _code(weighted: Sequence[nn.Module], others: Sequence[nn.Module], rule: str) -> str:
    """Return code that initializes the weights of a model in the same way."""
    lines = ["for m in model.modules():"]
    if weighted:
        lines.append(f"    if isinstance(m, ({_types(weighted)})):")
        if any(map(is_parametrized, weighted)):
            lines += [
                f"        w = {rule.format('m.weight.detach().clone()')}",
                "        if nn.utils.parametrize.is_parametrized(m):",
                "            m.weight = w",
                "        else:",
                "            m.weight.data = w",
            ]
        else:
            lines.append(f"        {rule.format('m.weight')}")
        lines += [
            "        if m.bias is not None:",
            "            nn.init.zeros_(m.bias)",
        ]
    for method in ("reset_parameters", "_reset_parameters"):
        # Only torch's attention has a method with an underscore.
        is_attention = method.startswith("_")
        modules = [m for m in others if isinstance(m, nn.MultiheadAttention) == is_attention]
        if modules:
            lines += [f"    if isinstance(m, ({_types(modules)})):", f"        m.{method}()"]
    return "\n".join(lines)


def _types(modules: Sequence[nn.Module]) -> str:
    """Return the types of modules as elements of a tuple, `nn.Linear, nn.Conv2d`."""
    names = []
    for module in modules:
        # A parametrized layer has a type of its own, derived from that of the layer.
        kind = type(module).__mro__[1] if is_parametrized(module) else type(module)
        is_public = getattr(nn, kind.__name__, None) is kind
        names.append(f"nn.{kind.__name__}" if is_public else kind.__name__)
    return ", ".join(dict.fromkeys(names)) + ("," if len(set(names)) == 1 else "")


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
