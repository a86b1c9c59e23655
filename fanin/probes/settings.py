"""Options of the probes: quantities, images and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from fanin.probes.measure import TensorName

MOST = 10_000  # a probe set is held in memory, with all that a network makes of it


def _first(images: object) -> object:
    """A number n means the first n images."""
    if not isinstance(images, int):
        return images
    if not 0 <= images <= MOST:
        raise ValueError(f"a number of images lies between 0 and {MOST}")
    return tuple(range(images))


@dataclass(frozen=True)
class Probe:
    """Settings of the probes.

    Parameters
    ----------
    draws
        Fresh draws of all the weights that are measured at initialization; draw 0 is the network
        that trains. 0 measures nothing at initialization.
    images
        Images measured one by one: a list of indices into the probe set, or a number n for the
        first n.
    size
        Images in the probe set (the first of the training images); the rows of image -1 are means
        over it.
    steps
        Training steps before which the network in training is measured as well (0 is the
        initialization, which `draws` covers).
    histograms
        Also record histograms of pre-activations, activations and their gradients.
    bins
        Bins a histogram.
    sharpness
        Also measure the largest eigenvalue of the loss's Hessian (Lanczos; some 20 products with
        it a probe).
    layer_sharpness
        Also measure that of each layer's block of it, the layer's weight alone.
    tensors
        What to keep whole, number by number: weights and biases, and of the single `images` what
        a layer takes (`input`), makes (`preact`, `act`) and sends back (`input_grad`).
    """

    draws: NonNegativeInt = 8
    images: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_first)] = (0, 1, 2, 3)
    size: Annotated[int, Field(ge=1, le=MOST)] = 32
    steps: tuple[PositiveInt, ...] = ()
    histograms: bool = False
    bins: PositiveInt = 64
    sharpness: bool = False
    layer_sharpness: bool = False
    tensors: tuple[TensorName, ...] = ()

    def __post_init__(self) -> None:
        if any(image >= self.size for image in self.images):
            raise ValueError(
                f"probe.images names image {max(self.images)}, but the probe set holds "
                f"{self.size} (0 to {self.size - 1}); raise probe.size"
            )
