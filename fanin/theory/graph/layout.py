"""Layout of a tensor: where its channels and positions are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import Tensor

from fanin.theory.graph.channel import Samples


@dataclass(frozen=True)
class Layout:
    """Axes of a tensor whose first axis is that of the images.

    Attributes
    ----------
    channels
        Number of channels.
    positions
        Shape of a channel's map.
    channel_axis
        Axis of the channels.
    is_flat
        True if the positions follow each channel on the channel axis, as after `nn.Flatten`.

    Examples
    --------
    >>> Layout.of((2, 3, 8, 8)).positions, Layout.of((2, 10)).positions
    ((8, 8), ())
    """

    channels: int
    positions: tuple[int, ...]
    channel_axis: int = 1
    is_flat: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], channel_axis: int = 1) -> Layout:
        """Return the layout of a tensor that is not flat."""
        return cls(
            shape[channel_axis], (*shape[1:channel_axis], *shape[channel_axis + 1 :]), channel_axis
        )

    @property
    def n_axes(self) -> int:
        """Number of the tensor's axes."""
        return 2 if self.is_flat else 2 + len(self.positions)

    @property
    def n_positions(self) -> int:
        """Number of positions of a map."""
        return prod(self.positions)

    def unpack(self, samples: Samples) -> Tensor:
        """Return samples in this layout, with samples in place of channels."""
        return samples.flatten(1) if self.is_flat else samples.movedim(1, self.channel_axis)

    def pack(self, x: Tensor, samples: int) -> Samples:
        """Undo `unpack`."""
        if self.is_flat:
            return x.unflatten(1, (samples, *self.positions))
        return x.movedim(self.channel_axis, 1)

    def on_samples(
        self, function: Callable[[Tensor], Tensor], output: Layout
    ) -> Callable[[Samples], Samples]:
        """Return the function of a tensor in this layout as a function of samples."""

        def run(samples: Samples) -> Samples:
            return output.pack(function(self.unpack(samples)), samples.shape[1])

        return run
