"""Shapes of weight tensors, their fans, and moments of their entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from fanin.errors import InputError

Fan = Literal["fan_in", "fan_out", "fan_avg"]
WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
UNIFORM_KURTOSIS = -1.2  # excess kurtosis of every uniform distribution


@dataclass(frozen=True)
class WeightShape:
    """Shape of one layer's weight: out_features x in_features/groups x kernel.

    Parameters
    ----------
    out_features, in_features
        Channels (convolution) or units (linear layer) of the output and input, over all groups.
    kernel
        Kernel size along each spatial axis; `()` for a linear layer.
    groups
        Number of groups of a grouped convolution.

    Examples
    --------
    >>> conv = WeightShape(out_features=96, in_features=64, kernel=(3, 3), groups=2)
    >>> conv.shape, conv.fan_in, conv.fan_out
    ((96, 32, 3, 3), 288, 864)
    >>> conv.outputs_per_input
    432
    """

    out_features: int
    in_features: int
    kernel: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def of(cls, module: nn.Module) -> WeightShape:
        """Return the shape of a linear or convolution module's weight.

        Raises
        ------
        TypeError
            The module is neither linear nor a convolution.

        Examples
        --------
        >>> WeightShape.of(nn.Conv2d(8, 4, 5, groups=2))
        WeightShape(out_features=4, in_features=8, kernel=(5, 5), groups=2)
        """
        match module:
            case nn.Linear():
                return cls(module.out_features, module.in_features)
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                kernel = tuple(module.kernel_size)
                return cls(module.out_channels, module.in_channels, kernel, module.groups)
        raise TypeError(f"expected a linear or convolution layer, got {type(module).__name__}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight tensor in torch."""
        return (self.out_features, self.in_features // self.groups, *self.kernel)

    @property
    def taps(self) -> int:
        """Number of kernel elements, 1 for a linear layer."""
        return prod(self.kernel)

    @property
    def fan_in(self) -> int:
        """Number of inputs that one output unit sums over."""
        return self.in_features // self.groups * self.taps

    @property
    def fan_out(self) -> int:
        """Number of output channels times kernel elements, as in `torch.nn.init`.

        It counts the output channels of all groups. For init schemes; theory uses
        `outputs_per_input`.
        """
        return self.out_features * self.taps

    @property
    def outputs_per_input(self) -> int:
        """Number of output units that one input unit is connected to (at stride 1).

        It determines the backward pass (He et al. 2015, section 2.2). In a grouped convolution, an
        input is connected to the output channels of its own group only.
        """
        return self.out_features // self.groups * self.taps

    @property
    def one_group(self) -> WeightShape:
        """Shape of one group's weight, as a convolution of its own.

        Examples
        --------
        >>> WeightShape(96, 64, kernel=(3, 3), groups=2).one_group
        WeightShape(out_features=48, in_features=32, kernel=(3, 3), groups=1)
        """
        outputs, inputs = self.out_features // self.groups, self.in_features // self.groups
        return WeightShape(outputs, inputs, self.kernel)

    def fan(self, fan: Fan) -> float:
        """Return the fan of that name; `fan_avg` is their mean (Glorot & Bengio 2010, eq. 12)."""
        fans = {"fan_in": self.fan_in, "fan_out": self.fan_out}
        return (self.fan_in + self.fan_out) / 2 if fan == "fan_avg" else fans[fan]


@dataclass(frozen=True)
class Moments:
    """Mean and variance, over draws, of one entry of a weight or bias tensor.

    Parameters
    ----------
    mean, var
        A number, or a tensor of the kernel's shape if the kernel elements differ.
    excess_kurtosis
        E[(w - mean)^4] / var^2 - 3: 0 for a normal distribution, -1.2 for a uniform one.

    Examples
    --------
    >>> Moments(mean=2.0, var=1.0).second_moment
    5.0
    >>> Moments(mean=2.0, var=1.0).scaled(0.5)
    Moments(mean=1.0, var=0.25)
    """

    mean: float | Tensor
    var: float | Tensor
    excess_kurtosis: float = field(default=0.0, repr=False)

    @classmethod
    def uniform(cls, mean: float, var: float) -> Moments:
        """Return the moments of a uniform distribution of this mean and variance."""
        return cls(mean, var, UNIFORM_KURTOSIS)

    @property
    def second_moment(self) -> float | Tensor:
        """E[w^2]."""
        return self.mean**2 + self.var

    def scaled(self, gain: float) -> Moments:
        """Return the moments of `gain` times the entry."""
        return Moments(gain * self.mean, gain**2 * self.var, self.excess_kurtosis)


def weight_layers(model: nn.Module) -> dict[str, WeightLayer]:
    """Return the linear and convolution layers by name, in the order of registration.

    For an `nn.Sequential` this is the order of the forward pass.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))
    >>> list(weight_layers(net))
    ['0', '3']
    """
    return {
        name: module for name, module in model.named_modules() if isinstance(module, WeightLayer)
    }


def check_weights_are_parameters(model: nn.Module) -> None:
    """Raise InputError if a weight is computed from other tensors, so that none can be drawn.

    Examples
    --------
    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> check_weights_are_parameters(nn.Sequential(weight_norm(nn.Linear(2, 3))))
    Traceback (most recent call last):
    ...
    fanin.errors.InputError: layer 0: its weight is not a parameter but is computed, for example ...
    """
    for name, module in weight_layers(model).items():
        if "weight" in module._parameters:
            continue
        layer = f"model.get_submodule({name!r})"
        remove = f"remove_weight_norm({layer}), remove_spectral_norm or prune.remove"
        if is_parametrized(module, "weight"):
            remove = f"parametrize.remove_parametrizations({layer}, 'weight')"
        raise InputError(
            f"layer {name}: its weight is not a parameter but is computed, for example by weight"
            f" normalization or pruning; draw the weights before that, or undo it:"
            f" torch.nn.utils.{remove}"
        )
