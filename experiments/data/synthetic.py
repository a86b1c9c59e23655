"""Synthetic images drawn from a seed: Gaussian fields, and circles and crosses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float64
from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from experiments.data.dataset import Dataset, Split
from fanin.seeds import make_generator

CHUNK = 1024  # images drawn at once; limits the memory for float64 copies
SIDE = 32
STROKE = 1.5  # half the width of a line, in pixels


@dataclass(frozen=True)
class Gaussian:
    """Stationary Gaussian fields with periodic boundaries, labelled by random linear functions.

    Each pixel is N(mean, std^2). Two pixels of a channel at distance (dy, dx) have correlation
    c(dy) * c(dx), with c from `correlation`. Channels are independent.

    Parameters
    ----------
    mean, std
        Mean and standard deviation of each pixel.
    correlation_length
        Correlation length in pixels; 0 gives white noise.
    channels, image_side
        Shape of the images; `data.side` does not apply.
    train_size, test_size
        Number of images to draw.
    task
        `classification`: the label is the index of the largest of `classes` linear functions of
        the standardized image, with weights from N(0, 1). `regression`: the target is one such
        function, scaled to variance 1 over images, plus noise from N(0, noise^2).
    classes
        Number of classes (classification).
    noise
        Standard deviation of the noise on the targets (regression).
    """

    mean: FiniteFloat = 0.0
    std: PositiveFloat = 1.0
    correlation_length: NonNegativeFloat = 0.0
    channels: PositiveInt = 1
    image_side: PositiveInt = 28
    train_size: PositiveInt = 2_000
    test_size: PositiveInt = 1_000
    task: Literal["classification", "regression"] = "classification"
    classes: Annotated[int, Field(ge=2)] = 10
    noise: NonNegativeFloat = 0.1

    not_resizable = (
        "resizing noise would change its variance and correlation; set image_side instead"
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.channels, self.image_side, self.image_side)

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for regression."""
        return self.classes if self.task == "classification" else None

    def prepare(self, root: Path, download: bool) -> None:
        """Do nothing: there are no files."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Draw the images and the functions that label them (the teacher) from `seed`."""
        teacher = _normal(
            make_generator("gaussian teacher", seed), self.n_classes or 1, *self.shape
        )
        train = self._split(self.train_size, teacher, make_generator("gaussian train", seed))
        test = self._split(self.test_size, teacher, make_generator("gaussian test", seed))
        return Dataset(train, test, self.n_classes, full_scale=1.0)

    def _split(self, n: int, teacher: Tensor, rng: torch.Generator) -> Split:
        x = torch.empty(n, *self.shape)
        scores = torch.empty(n, len(teacher), dtype=torch.float64)
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            white = _normal(rng, chunk.stop - start, *self.shape)
            field = correlate(white, self.correlation_length)
            scores[chunk] = field.flatten(1) @ teacher.flatten(1).T
            x[chunk] = (self.mean + self.std * field).float()
        if self.task == "classification":
            return Split(x, scores.argmax(1))
        # The filter A is symmetric: Var[w . A z] = |A w|^2, exactly.
        scale = correlate(teacher, self.correlation_length).norm()
        targets = scores[:, 0] / scale + self.noise * _normal(rng, n)
        return Split(x, targets.float())


def correlation(side: int, length: float) -> Float64[Tensor, " lag"]:
    """Return the field's correlation along one axis at lags 0, 1, ..., side - 1.

    c(d) is the sum of exp(-(d + k side)^2 / (2 length^2)) over all integers k, divided by its
    value at d = 0: the periodic version of a Gaussian correlation.

    Parameters
    ----------
    side
        Period in pixels.
    length
        Correlation length in pixels; 0 gives c(0) = 1 and 0 elsewhere.

    Examples
    --------
    >>> correlation(4, 0.0)
    tensor([1., 0., 0., 0.], dtype=torch.float64)
    >>> bool(torch.isclose(correlation(32, 2.0)[3], torch.tensor(-9 / 8).double().exp()))
    True
    """
    if length == 0:
        return torch.eye(side, dtype=torch.float64)[0]
    # Beyond 8 lengths the exponential is below 1e-13.
    turns = math.ceil(8 * length / side) + 1
    lags = torch.arange(side) + side * torch.arange(-turns, turns)[:, None]
    wrapped = (-0.5 * (lags.double() / length) ** 2).exp().sum(0)
    return wrapped / wrapped[0]


def correlate(
    white: Float[Tensor, "*any side side"], length: float
) -> Float[Tensor, "*any side side"]:
    """Filter white noise of variance 1, by FFT, into a field with the correlation of `correlation`.

    The power spectrum of the field is the Fourier transform of its covariance (Wiener-Khinchin).
    Its square root is the gain of the filter. The variance stays 1.
    """
    side = white.shape[-1]
    # A power spectrum is non-negative, but rounding may give small negative values.
    axis = torch.fft.fft(correlation(side, length)).real.clamp(min=0).sqrt()
    gain = torch.outer(axis, axis[: side // 2 + 1])
    return torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(side, side))


@dataclass(frozen=True)
class Shapes:
    """Crosses (label 0) and circles (label 1), 32x32 RGB, in equal numbers.

    Position, size, colours and the angle of the cross are random. The colours of shape and
    background differ by at least 64 of 255 in each channel.

    Parameters
    ----------
    train_size, test_size
        Number of images to render.
    """

    train_size: PositiveInt = 10_000
    test_size: PositiveInt = 2_000

    shape = (3, SIDE, SIDE)
    n_classes = 2

    def prepare(self, root: Path, download: bool) -> None:
        """Do nothing: there are no files."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Render the images from `seed`."""
        train = _split_of_shapes(self.train_size, make_generator("shapes train", seed))
        test = _split_of_shapes(self.test_size, make_generator("shapes test", seed))
        return Dataset(train, test, self.n_classes, full_scale=255.0)


def _normal(rng: torch.Generator, *shape: int) -> Float64[Tensor, ...]:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _split_of_shapes(n: int, rng: torch.Generator) -> Split:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    y = torch.randperm(n, generator=rng) % 2
    radius = uniform(5, 11, n, 1, 1)
    margin = radius + STROKE
    centre = margin + (SIDE - 1 - 2 * margin) * uniform(0, 1, 2, n, 1, 1)
    angle = uniform(0, math.pi / 2, n, 1, 1)
    pixels = torch.arange(float(SIDE))
    row, column = pixels[:, None] - centre[0], pixels - centre[1]
    distance = torch.where(
        y[:, None, None] == 1,
        (torch.hypot(row, column) - radius).abs(),
        _distance_to_cross(row, column, radius, angle),
    )
    # Antialiasing: the fraction of the pixel that the line covers, to first order.
    cover = (STROKE + 0.5 - distance).clamp(0, 1)[:, None]
    background = uniform(0, 256, n, 3, 1, 1)
    colour = (background + uniform(64, 192, n, 3, 1, 1)) % 256
    return Split(torch.lerp(background, colour, cover).to(torch.uint8), y)


def _distance_to_cross(
    row: Float[Tensor, "image height 1"],
    column: Float[Tensor, "image 1 width"],
    arm: Float[Tensor, "image 1 1"],
    angle: Float[Tensor, "image 1 1"],
) -> Float[Tensor, "image height width"]:
    along = (angle.cos() * column + angle.sin() * row).abs()
    across = (angle.cos() * row - angle.sin() * column).abs()
    to_first_bar = torch.hypot((along - arm).clamp(min=0), across)
    to_second_bar = torch.hypot((across - arm).clamp(min=0), along)
    return torch.minimum(to_first_bar, to_second_bar)
