"""Schemes for residual networks without normalization: Fixup and SkipInit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import FiniteFloat
from torch import nn

from fanin.errors import ConfigError, suggest
from fanin.inits.distributions import Zeros
from fanin.inits.scheme import GaussianScheme, Scheme
from fanin.inits.variance_scaling import HeNormal
from fanin.inits.weight_shape import Moments, WeightLayer, WeightShape, weight_layers
from fanin.models.scalars import Multiplier
from fanin.probes.trace import NORMALIZATIONS


@dataclass(frozen=True)
class ResidualBranch:
    """Branch of a residual block.

    Parameters
    ----------
    name
        Path of the block.
    modules
        All modules of the branch by path.
    zero_init
        True if the model sets the branch to zero at the start, whatever the init.
    """

    name: str
    modules: Mapping[str, nn.Module]
    zero_init: bool = False

    @property
    def weight_layers(self) -> list[str]:
        """Paths of the weight layers, in forward order."""
        return [path for path, module in self.modules.items() if isinstance(module, WeightLayer)]

    @property
    def multipliers(self) -> list[Multiplier]:
        """Learnable scalars of the branch."""
        return [module for module in self.modules.values() if isinstance(module, Multiplier)]


def residual_branches(model: nn.Module) -> list[ResidualBranch]:
    """Return the branches of all residual blocks, in the order of registration.

    A block is a module with an attribute `residual_branch`, which names the children that form the
    branch, such as `residual_branch = ("conv1", "norm", "conv2")`.

    Raises
    ------
    ConfigError
        An attribute names no child of its block, or a branch has no weight layer.
    """
    branches = []
    for name, block in model.named_modules():
        children = dict(block.named_children())
        modules: dict[str, nn.Module] = {}
        for child in getattr(block, "residual_branch", ()):
            if child not in children:
                raise ConfigError(
                    f"residual_branch of block {name or 'the model'}: no child {child!r};"
                    f" {suggest(child, children)}"
                )
            modules |= children[child].named_modules(prefix=f"{name}.{child}".lstrip("."))
        if not hasattr(block, "residual_branch"):
            continue
        branch = ResidualBranch(name or "the model", modules, getattr(block, "zero_init", False))
        if not branch.weight_layers:
            raise ConfigError(f"residual_branch of block {branch.name}: it has no weight layer")
        branches.append(branch)
    return branches


@dataclass(frozen=True)
class Fixup(GaussianScheme):
    """He init with smaller weights in residual branches (Zhang et al. 2019, section 3).

    With L branches of m weight layers, the first m - 1 layers of a branch are multiplied by
    L^(-1/(2m - 2)). The last layer of each branch and the output layer are 0, and all other layers
    have He's variance. Fixup also adds scalar biases and multipliers to the model (`ResNet` with
    `scalars="fixup"`); they start at 0 and 1. Without them, this scheme still applies, but the
    model lacks the third part of Fixup.

    `residual_branches` finds the branches, also in your own models.

    Parameters
    ----------
    fan
        As in `HeNormal`; the authors' code uses `fan_out`.

    Examples
    --------
    >>> from fanin.models import ResNet
    >>> network = ResNet(depth=14, norm="none").build((3, 8, 8), 10, nn.ReLU)  # six branches
    >>> print(Fixup().for_model(network)["block2.branch.conv1"])  # 6^(-1/2) = 0.408
    ScaledHe(factor=0.408248290463863, fan='fan_in')
    """

    fan: Literal["fan_in", "fan_out"] = "fan_in"

    def moments(self, weight: WeightShape) -> Moments:
        """Return the moments of a layer outside residual branches."""
        return HeNormal(self.fan).moments(weight)

    def for_model(self, model: nn.Module) -> Mapping[str, Scheme]:
        """Return the scheme of each weight layer that differs from He's.

        Raises
        ------
        ConfigError
            The model has no residual branches, or a branch has a normalization.
        """
        branches = _require_branches(model, "fixup")
        schemes: dict[str, Scheme] = {}
        for branch in branches:
            for path, module in branch.modules.items():
                if isinstance(module, NORMALIZATIONS):
                    raise ConfigError(
                        f"init=fixup: {path} ({type(module).__name__}) normalizes a residual"
                        " branch; Fixup is for networks without normalization (model.norm=none)"
                    )
            *scaled, last = branch.weight_layers
            schemes[last] = Zeros()
            for path in scaled:
                factor = len(branches) ** (-1 / (2 * len(scaled)))
                schemes[path] = ScaledHe(factor, self.fan)
        *_, output = weight_layers(model)
        return schemes | {output: Zeros()}


@dataclass(frozen=True)
class ScaledHe(GaussianScheme):
    """He's normal distribution times a factor."""

    factor: float
    fan: Literal["fan_in", "fan_out"] = "fan_in"

    def moments(self, weight: WeightShape) -> Moments:
        return HeNormal(self.fan).moments(weight).scaled(self.factor)


@dataclass(frozen=True)
class SkipInit(GaussianScheme):
    """He init, and residual branches multiplied by a learnable scalar that starts at `alpha`.

    De & Smith 2020, section 3. The scalars are `Multiplier` modules of the model, one in each
    branch (`ResNet` with `scalars="multiplier"`); `residual_branches` finds the branches, also in
    your own models. At 0, each block is its shortcut.

    Parameters
    ----------
    alpha
        First value of the scalars. The paper uses 0, and finds that 1 / sqrt(number of blocks)
        works as well.
    fan
        As in `HeNormal`.

    Examples
    --------
    >>> from fanin.inits import initialize
    >>> from fanin.models import ResNet
    >>> model = ResNet(depth=8, norm="none", scalars="multiplier")
    >>> network = model.build((3, 8, 8), 10, nn.ReLU)
    >>> initialize(network, "skipinit", lambda name: torch.Generator())
    >>> network.block1.branch.scale.scale.item()
    0.0
    """

    alpha: FiniteFloat = 0.0
    fan: Literal["fan_in", "fan_out"] = "fan_in"

    def moments(self, weight: WeightShape) -> Moments:
        return HeNormal(self.fan).moments(weight)

    def for_model(self, model: nn.Module) -> Mapping[str, Scheme]:
        """Return no scheme of its own for any layer, after checking the model.

        Raises
        ------
        ConfigError
            The model has no residual branches, or a branch has no scalar or starts at zero anyway.
        """
        for branch in _require_branches(model, "skipinit"):
            if not branch.multipliers:
                raise ConfigError(
                    f"init=skipinit: the branch of {branch.name} has no learnable scalar; use"
                    " model.scalars=multiplier (in your own model: fanin.models.Multiplier)"
                )
            if branch.zero_init and self.alpha == 0:
                raise ConfigError(
                    f"init=skipinit: the branch of {branch.name} also starts at zero by"
                    " model.zero_init=true, so its gradients would be 0; set model.zero_init=false"
                )
        return {}

    @torch.no_grad()
    def set_scalars(self, model: nn.Module) -> None:
        """Set the scalars of all branches to `alpha`, in place."""
        for branch in residual_branches(model):
            for multiplier in branch.multipliers:
                multiplier.scale.fill_(self.alpha)


def _require_branches(model: nn.Module, init: str) -> list[ResidualBranch]:
    branches = residual_branches(model)
    if not branches:
        raise ConfigError(
            f"init={init} needs a model with residual branches, such as model=resnet (your own"
            " blocks name the layers of their branch in the attribute residual_branch)"
        )
    return branches
