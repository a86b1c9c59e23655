"""What stands between two weight layers, taken as steps on a field of one channel's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling

from fanin.models.lrn import LocalResponseNorm
from fanin.models.norms import MeanOnly
from fanin.theory.elementwise import Function, elementwise
from fanin.theory.field.standardizing import OverChannels, OverImages, standardizing
from fanin.theory.walk import DROPOUTS, Named, UnpredictableLayer

RESHAPINGS = (nn.Flatten, nn.Identity)  # points keep their places; a linear layer reads them all
LINEAR = (pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, MeanOnly)
MAXIMA = (pooling._MaxPoolNd, pooling._AdaptiveMaxPoolNd)
RESPONSES = (nn.LocalResponseNorm, LocalResponseNorm)
WHOLE_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
Samples = Float[Tensor, "sample point"]


@dataclass(frozen=True)
class Pointwise:
    """An elementwise module."""

    function: Function


@dataclass(frozen=True)
class Thinning:
    """Dropout in training: a share p at 0, the rest 1 / (1 - p) times as large."""

    p: float
    whole_channel: bool

    @property
    def growth(self) -> float:
        """Of a second moment (Srivastava et al. 2014, section 10)."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0


@dataclass(frozen=True)
class Mixing:
    """A module that takes points together."""

    module: nn.Module

    @property
    def linear(self) -> bool:
        return isinstance(self.module, LINEAR)

    def __call__(self, x: Float[Tensor, "image channel *position"], worlds: int) -> Tensor:
        """Run it; the channels are those of so many worlds, one after the other."""
        if isinstance(self.module, OverChannels):
            return self.module(x.unflatten(1, (worlds, -1))).flatten(1, 2)
        made: Tensor = self.module(x)
        return made

    def shape_after(self, images: int, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a map that it makes of one of shape `positions`."""
        out = self(torch.zeros(images, 1, *positions, dtype=torch.float64), worlds=1)
        return tuple(out.shape[2:])

    @property
    def routes(self) -> bool:
        """Whether a cotangent only is passed on to points, never shared out among them."""
        return isinstance(self.module, (*MAXIMA, OverChannels))

    @property
    def normalizes(self) -> bool:
        """Whether what comes out has a size of its own."""
        return isinstance(self.module, OverImages | OverChannels)


Step = Pointwise | Thinning | Mixing


@dataclass(frozen=True)
class Parts:
    """Steps whose moments have closed forms: linear ones around one elementwise function.

    Attributes
    ----------
    function
        Of the centred field, its mean already added.
    """

    before: tuple[Mixing, ...]
    function: Function
    after: tuple[Mixing | Thinning, ...]


@dataclass(frozen=True)
class Between:
    """The steps between two weight layers, on maps of some shape for some images taken jointly.

    Attributes
    ----------
    modules
        Those that act on single points, for quadrature (`units.unit_moments`).
    steps
        All of them, in order.
    images, positions
        Maps side by side, and the shape of each.
    out_positions
        The shape after the last step.
    """

    modules: tuple[Named, ...]
    steps: tuple[Step, ...]
    images: int
    positions: tuple[int, ...]
    out_positions: tuple[int, ...]

    @classmethod
    def of(cls, modules: Sequence[Named], images: int, positions: tuple[int, ...]) -> Between:
        """Read modules as steps.

        Raises
        ------
        UnpredictableLayer
            A module that is neither elementwise nor of a kind known here.
        """
        kept = [(name, module) for name, module in modules if not isinstance(module, RESHAPINGS)]
        read = [(named, _step(*named)) for named in kept]
        steps = [(named, step) for named, step in read if step is not None]
        pointwise = tuple(named for named, step in steps if not isinstance(step, Mixing))
        found = tuple(step for _, step in steps)
        out = positions
        for (name, _), step in steps:
            if isinstance(step, Mixing):
                try:
                    out = step.shape_after(images, out)
                except (RuntimeError, ValueError) as error:  # of one value alone: a ValueError
                    reason = f"it can't follow what precedes it: {error}"
                    raise UnpredictableLayer(name, reason) from error
        return cls(pointwise, found, images, positions, out)

    @property
    def functions(self) -> tuple[Named, ...]:
        """The elementwise modules alone."""
        return tuple(named for named in self.modules if not isinstance(named[1], DROPOUTS))

    @property
    def pointwise(self) -> Function:
        """The elementwise functions one after the other."""
        return _composed([step.function for step in self.steps if isinstance(step, Pointwise)])

    @property
    def mixes(self) -> bool:
        """Whether some step takes points together."""
        return any(isinstance(step, Mixing) for step in self.steps)

    @property
    def routes_only(self) -> bool:
        """Whether a cotangent only is passed on, never shared out: maxima, and nothing linear."""
        return all(step.routes for step in self.steps if isinstance(step, Mixing))

    @property
    def normalizes(self) -> bool:
        """Whether what comes out has a size of its own, whatever goes in."""
        return any(step.normalizes for step in self.steps if isinstance(step, Mixing))

    def parts(self, shift: float) -> Parts | None:
        """The steps as `Parts` on a field of constant mean; None where their order is another."""
        before: list[Mixing] = []
        functions: list[Function] = []
        after: list[Mixing | Thinning] = []
        for step in self.steps:
            match step:
                case Pointwise(function) if not after:
                    functions.append(function)
                case Mixing() if step.linear and not functions:
                    before.append(step)
                case Thinning() if functions:
                    after.append(step)
                case Mixing() if step.linear:
                    after.append(step)
                case _:
                    return None
        if before and shift != 0:  # a pooling's padding would make the mean uneven
            return None
        function = self.pointwise
        return Parts(
            tuple(before),
            function if shift == 0 else lambda u: function(u + shift),
            tuple(after),
        )

    def apply(
        self, fields: Samples, stream: torch.Generator | None = None, worlds: int = 1
    ) -> Samples:
        """Run the modules themselves, every sample being a channel.

        Parameters
        ----------
        fields
            Points of all images side by side.
        stream
            For dropout masks.
        worlds
            How many networks, or images by themselves, the samples are of, one after the other.
        """
        x = fields.unflatten(-1, (self.images, *self.positions)).transpose(0, 1)
        for step in self.steps:
            match step:
                case Pointwise(function):
                    x = function(x)
                case Thinning():
                    x = x * _mask(x, step, stream)
                case Mixing():
                    x = step(x, worlds)
        return x.transpose(0, 1).flatten(1)


def _step(name: str, module: nn.Module) -> Step | None:
    if isinstance(module, DROPOUTS):
        if not module.training or module.p == 0:
            return None
        return Thinning(float(module.p), isinstance(module, WHOLE_CHANNEL))
    if isinstance(module, (*LINEAR, *MAXIMA, *RESPONSES)):
        return Mixing(module)
    if (standardized := standardizing(name, module)) is not None:
        return Mixing(standardized)
    if isinstance(module, dropout._DropoutNd):
        raise UnpredictableLayer(name, f"{type(module).__name__} is no plain dropout")
    function = elementwise(module)
    if function is None:
        kind = type(module).__name__
        raise UnpredictableLayer(
            name, f"{kind} is neither elementwise, nor a pooling, nor a dropout: no field theory"
        )
    return Pointwise(function)


def _composed(functions: Sequence[Function]) -> Function:
    def all_of_them(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return all_of_them


def _mask(x: Tensor, step: Thinning, stream: torch.Generator | None) -> Tensor:
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if step.whole_channel else x.shape
    kept = torch.rand(shape, generator=stream) >= step.p
    return kept.to(x) * step.growth
