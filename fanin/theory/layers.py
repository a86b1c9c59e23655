"""Table of the built-in layer kinds: each theory's rules for modules between weight layers.

Predictions accept additional kinds in the argument `layer_kinds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import batchnorm, dropout, instancenorm, pooling

from fanin.models.layers import LocalResponseNorm, MeanOnly, SeededDropout
from fanin.theory.elementwise import derivative, elementwise
from fanin.theory.layer_kind import (
    DenseStep,
    DropoutStep,
    FieldStep,
    LayerKind,
    Maps,
    Mixing,
    Pointwise,
    Units,
    UnpredictableLayer,
    UnsupportedModule,
    Vectors,
    no_dense_rule,
    no_field_rule,
    no_scalar_rule,
)


def find_kind(module: nn.Module, layer_kinds: Sequence[LayerKind] = ()) -> LayerKind:
    """Return the first matching kind of `layer_kinds`, then `LAYER_KINDS`, else `ELEMENTWISE`."""
    for kind in (*layer_kinds, *LAYER_KINDS):
        if isinstance(module, kind.modules) and kind.applies(module):
            return kind
    return ELEMENTWISE


@dataclass(frozen=True)
class NamedLayer:
    """A module between two weight layers, with its path and kind."""

    name: str
    module: nn.Module
    kind: LayerKind

    @classmethod
    def of(cls, name: str, module: nn.Module, layer_kinds: Sequence[LayerKind] = ()) -> NamedLayer:
        """Find the kind of a module."""
        return cls(name, module, find_kind(module, layer_kinds))

    def scalar(self, units: Units) -> Units:
        """Apply the rule of theory `mean_field`."""
        with self._add_layer_name():
            return self.kind.scalar(self.module, units)

    def field(self) -> FieldStep | None:
        """Apply the rule of theory `field`."""
        with self._add_layer_name():
            return self.kind.field(self.module)

    def dense(self) -> DenseStep | None:
        """Apply the rule of theory `finite_width` for networks of linear layers."""
        with self._add_layer_name():
            return self.kind.dense(self.module)

    @contextmanager
    def _add_layer_name(self) -> Iterator[None]:
        try:
            yield
        except UnsupportedModule as error:
            raise UnpredictableLayer(self.name, str(error)) from error


# --- rules, elementwise -------------------------------------------------------------------------


def unchanged(module: nn.Module, units: Units) -> Units:
    """Scalar rule of modules that rearrange or select units: the distribution does not change."""
    return units


def _no_step(module: nn.Module) -> None:
    return None


def _pointwise_units(module: nn.Module, units: Units) -> Units:
    function = elementwise(module)
    if function is None:
        return no_scalar_rule(module, units)
    value, slope = derivative(function, units.value)
    return Units(value, units.slope * slope, units.weight)


def _pointwise_field(module: nn.Module) -> FieldStep | None:
    function = elementwise(module)
    return no_field_rule(module) if function is None else Pointwise(function)


def _pointwise_vectors(module: nn.Module) -> DenseStep | None:
    function = elementwise(module)
    return no_dense_rule(module) if function is None else lambda y, stream: function(y)


# --- rules, dropout -----------------------------------------------------------------------------


def _dropped_units(module: Any, units: Units) -> Units:
    """Set a fraction p to 0 and scale the rest by 1 / (1 - p) (Srivastava et al. 2014, sec. 10)."""
    if not module.training:
        return units
    p = float(module.p)
    kept = units.scale(1 / (1 - p) if p < 1 else 0.0)
    zeros = torch.zeros_like(units.value)
    return Units(
        torch.cat([kept.value, zeros], -1),
        torch.cat([kept.slope, zeros], -1),
        torch.cat([units.weight * (1 - p), units.weight * p], -1),
    )


def _dropped_field(module: Any, whole_channel: bool = False) -> DropoutStep | None:
    return DropoutStep(float(module.p), whole_channel) if module.training and module.p else None


def _dropped_vectors(module: Any) -> DenseStep | None:
    p = float(module.p)
    if not module.training or p == 0:
        return None

    def drop(y: Vectors, stream: torch.Generator) -> Vectors:
        kept = torch.rand(y.shape, generator=stream) >= p
        return y * kept / (1 - p) if p < 1 else y * 0.0

    return drop


def _rejected_dropout(module: nn.Module) -> FieldStep | None:
    raise UnsupportedModule(
        f"{type(module).__name__} is not supported; supported dropouts are Dropout and Dropout1d,"
        " Dropout2d, Dropout3d"
    )


# --- rules, normalization -----------------------------------------------------------------------


def _centred_units(module: nn.Module, units: Units) -> Units:
    return Units(units.value - units.average(units.value), units.slope, units.weight)


def _centred_vectors(module: nn.Module) -> DenseStep:
    return lambda y, stream: y - y.mean(1, keepdim=True)


def _standardized_units(module: Any, units: Units) -> Units:
    """Normalize to mean 0 and variance 1.

    The statistics are those of infinitely many units, so they have no derivative with respect to a
    single unit.
    """
    units = _centred_units(module, units)
    return units.scale((units.average(units.value.square()) + float(module.eps)).rsqrt())


def _by_running_statistics(module: Any, units: Units) -> Units:
    """Normalize as in evaluation mode, with the initial running statistics 0 and 1."""
    return units.scale((1 + float(module.eps)) ** -0.5)


def _instance_units(module: Any, units: Units) -> Units:
    running = not module.training and module.running_mean is not None
    return (_by_running_statistics if running else _standardized_units)(module, units)


def _standardized_vectors(module: Any, axis: int) -> DenseStep:
    """Normalize to mean 0 and variance 1 over the images (axis 1) or units (axis 2) of a draw."""

    def standardize(y: Vectors, stream: torch.Generator) -> Vectors:
        var = y.var(axis, correction=0, keepdim=True) + module.eps
        y = (y - y.mean(axis, keepdim=True)) * var.rsqrt()
        if module.weight is None:
            return y
        y = module.weight.detach() * y
        return y if module.bias is None else y + module.bias.detach()

    return standardize


def _over_images(module: Any) -> Mixing:
    """Normalize each channel over images and positions (Ioffe & Szegedy 2015)."""
    scale, shift = _common_value(module.weight, 1.0), _common_value(module.bias, 0.0)

    def forward(x: Maps) -> Maps:
        return scale * F.batch_norm(x, None, None, training=True, eps=module.eps) + shift

    return Mixing(forward, normalizes=True)


def _over_channels(module: Any) -> Mixing:
    """Normalize each image over channels and positions (Ba et al. 2016).

    In the limit of infinitely many channels no cotangent flows through the statistics.
    """
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
        no_field_rule(module)
    scale, shift = _common_value(module.weight, 1.0), _common_value(module.bias, 0.0)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        axes = list(range(2, x.ndim))
        var = x.var(axes, correction=0, keepdim=True)
        return x.mean(axes, keepdim=True), (var + module.eps).rsqrt()

    def forward(x: Float[Tensor, "image network channel *position"]) -> Tensor:
        mean, rate = statistics(x)
        return scale * (x - mean) * rate + shift

    def backward(x: Float[Tensor, "image network channel *position"], cotangent: Tensor) -> Tensor:
        return scale * statistics(x)[1] * cotangent

    return Mixing(forward, backward, routes=True, normalizes=True, over_channels=True)


def _rejected_groups(module: Any) -> FieldStep | None:
    raise UnsupportedModule(
        f"GroupNorm with num_groups={module.num_groups} is not supported; only num_groups=1 is"
    )


def _common_value(values: object, default: float) -> float:
    if not isinstance(values, Tensor) or values.is_meta:
        return default
    values = values.detach()
    first = float(values.flatten()[0])
    if bool((values != first).any()):
        raise UnsupportedModule(
            "its weight or bias differs between channels, which is not supported"
        )
    return first


def _uses_batch_statistics(module: Any) -> bool:
    return bool(module.training or module.running_mean is None)


def _damped_units(module: Any, units: Units) -> Units:
    """Normalize by the mean square of neighbouring channels (Krizhevsky et al. 2012, sec. 3.3)."""
    # Torch averages over `size` channels where the paper sums.
    size = module.size if isinstance(module, LocalResponseNorm) else 1
    energy = units.average(units.value.square())
    return units.scale((module.k + module.alpha * size * energy) ** -module.beta)


# --- table: the first matching kind applies -----------------------------------------------------

CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
ELEMENTWISE = LayerKind((), _pointwise_units, _pointwise_field, _pointwise_vectors)
"""Kind of elementwise modules; also used when no other kind matches."""
IDENTITY = LayerKind((nn.Identity,), _pointwise_units, _no_step, _no_step, reshapes=True)
# Flattening keeps the positions; the next linear layer reads all of them.
FLATTEN = LayerKind((nn.Flatten,), unchanged, _no_step, _no_step, reshapes=True)
UNFLATTEN = LayerKind((nn.Unflatten,), unchanged)
AVERAGE_POOL = LayerKind(
    (pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd),
    unchanged,
    partial(Mixing, linear=True),
)
MAX_POOL = LayerKind(
    (pooling._MaxPoolNd, pooling._AdaptiveMaxPoolNd), unchanged, partial(Mixing, routes=True)
)
MEAN_ONLY = LayerKind(
    (MeanOnly,),
    *(_centred_units, partial(Mixing, linear=True), _centred_vectors),
    couples_images=True,
    first_order=False,
)
BATCH_NORM = LayerKind(
    (batchnorm._BatchNorm,),
    *(_standardized_units, _over_images, partial(_standardized_vectors, axis=1)),
    applies=_uses_batch_statistics,
    couples_images=True,
    first_order=False,
)
BATCH_NORM_IN_EVALUATION = LayerKind(
    (batchnorm._BatchNorm,), _by_running_statistics, first_order=False
)
LAYER_NORM = LayerKind(
    (nn.LayerNorm, nn.GroupNorm),
    *(_standardized_units, _over_channels, partial(_standardized_vectors, axis=2)),
    applies=lambda module: getattr(module, "num_groups", 1) == 1,
    first_order=False,
)
GROUP_NORM = LayerKind((nn.GroupNorm,), _standardized_units, _rejected_groups, first_order=False)
INSTANCE_NORM = LayerKind((instancenorm._InstanceNorm,), _instance_units, first_order=False)
RESPONSE_NORM = LayerKind(
    (LocalResponseNorm, nn.LocalResponseNorm), _damped_units, Mixing, first_order=False
)
DROPOUT = LayerKind(
    (nn.Dropout, SeededDropout, *CHANNEL_DROPOUTS),
    *(_dropped_units, _dropped_field, _dropped_vectors),
)
CHANNEL_DROPOUT = LayerKind(
    CHANNEL_DROPOUTS,
    *(_dropped_units, partial(_dropped_field, whole_channel=True), _dropped_vectors),
    applies=lambda module: module.training,
    first_order=False,
)
OTHER_DROPOUT = LayerKind(
    (dropout._DropoutNd,), _pointwise_units, _rejected_dropout, _pointwise_vectors
)
RELU = LayerKind(
    (nn.ReLU,), *(_pointwise_units, _pointwise_field, _pointwise_vectors), gain=lambda module: 0.5
)
LEAKY_RELU = LayerKind(
    (nn.LeakyReLU,),
    *(_pointwise_units, _pointwise_field, _pointwise_vectors),
    gain=lambda module: (1 + float(module.negative_slope) ** 2) / 2,
)
LAYER_KINDS = (
    *(RELU, LEAKY_RELU, IDENTITY, FLATTEN, UNFLATTEN, AVERAGE_POOL, MAX_POOL),
    *(BATCH_NORM, BATCH_NORM_IN_EVALUATION, LAYER_NORM, GROUP_NORM, INSTANCE_NORM, MEAN_ONLY),
    *(RESPONSE_NORM, CHANNEL_DROPOUT, DROPOUT, OTHER_DROPOUT),
)
