"""Options of the probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from fanin.probes.measure import TensorName

MAX_IMAGES = 10_000  # all layers' outputs on the probe set are in memory at the same time


def _expand_count(images: object) -> object:
    """Replace a number n by the first n indices."""
    if not isinstance(images, int):
        return images
    if not 0 <= images <= MAX_IMAGES:
        raise ValueError(f"must be a list of indices or a number from 0 to {MAX_IMAGES}")
    return tuple(range(images))


@dataclass(frozen=True)
class Probe:
    """Options of the probes.

    Parameters
    ----------
    draws
        Number of draws of all weights to measure at initialization. Draw 0 is the network that is
        trained. 0 skips the measurement at initialization.
    images
        Images of the probe set to report individually: a list of indices, or a number n for the
        first n.
    size
        Number of images in the probe set, which consists of the first training images. Rows with
        image -1 are means over the probe set.
    steps
        Numbers of training steps after which the network is measured again. (`draws` selects the
        measurements at initialization.)
    histograms
        Also record histograms of pre-activations, activations and their gradients.
    bins
        Number of bins of a histogram.
    sharpness
        Also measure the largest eigenvalue of the loss's Hessian (Lanczos iteration, about 20
        Hessian-vector products per probe).
    layer_sharpness
        Also measure the largest eigenvalue of the Hessian with respect to each layer's weight.
    tensors
        Tensors to record element by element: `weight`, `bias`, and for each of `images` a layer's
        `input`, pre-activations (`preact`), activations (`act`) and `input_grad`, the gradient of
        the loss with respect to its input.
    sums
        Also measure sums (such as the residual stream after each block), products and
        normalizations, as further layers. They are named as in `certify`.
    quantities
        Your own quantities: dotted names of functions of a `LayerTrace`, such as `my.rank`.

    Raises
    ------
    ValueError
        `images` has an index outside the probe set.
    """

    draws: NonNegativeInt = 8
    images: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_expand_count)] = (0, 1, 2, 3)
    size: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 32
    steps: tuple[PositiveInt, ...] = ()
    histograms: bool = False
    bins: PositiveInt = 64
    sharpness: bool = False
    layer_sharpness: bool = False
    tensors: tuple[TensorName, ...] = ()
    sums: bool = False
    quantities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(image >= self.size for image in self.images):
            raise ValueError(
                f"index {max(self.images)} in probe.images, but the probe has images 0 to "
                f"{self.size - 1}; increase probe.size"
            )
