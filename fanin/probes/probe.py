"""Function `probe`, which measures any torch model on a batch and returns a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fanin.probes.measure import LossFunctions, measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import make_generator


def probe(
    model: nn.Module,
    batch: Tensor | tuple[Tensor, Tensor] | Iterable[Any],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    images: tuple[int, ...] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Measure every linear and convolution layer of a network, forward and backward.

    Parameters
    ----------
    model
        Any module that maps images to [image, logit]. It runs in its current mode (in train mode
        with dropout) and is not changed.
    batch
        Images [image, ...], a pair (images, targets), or a loader of either, which gives its first
        batch. Images are moved to the model's device and dtype.
    loss
        Function (logits, targets) that returns the mean loss over the batch. With a loss, `batch`
        needs targets, and the table also has the quantities `grad_m2` and `weight_grad_m2`.
    images
        Indices of images to report individually. Rows with image -1 are means over the batch.
    seed
        Seed of the random cotangent of `vjp_m2`.

    Returns
    -------
    pandas.DataFrame
        Columns `image`, `layer` (from 1 in the order in which the layers run; -1 is the whole
        network), `layer_name`, `quantity` and `value`. results/README.md defines the quantities.

    Raises
    ------
    ValueError
        `loss` is given without targets, `images` has an index outside the batch, or the model does
        not return [image, logit].
    TypeError
        `batch` has another type, such as a mapping.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> table = probe(model, torch.randn(32, 8))
    >>> table.query("quantity == 'preact_m2'").layer_name.tolist()
    ['0', '2']
    """
    x, y = _first_batch(batch)
    if loss is not None and y is None:
        raise ValueError("a loss needs targets: pass (images, targets)")
    parameter = next(model.parameters())
    x = x.to(parameter)
    if any(not 0 <= image < len(x) for image in images):
        raise ValueError(f"images={images}: the batch has images 0 to {len(x) - 1}")
    losses = None if loss is None else LossFunctions(_per_example(loss), loss)
    with _restored_buffers(model):
        with torch.no_grad():
            shape = tuple(model(x.clone()).shape)
        if len(shape) != 2 or shape[0] != len(x):
            raise ValueError(
                f"the model must return a tensor of shape (images, logits), got {shape}"
            )
        tables = measure(
            model,
            x,
            random_cotangent(*shape, make_generator("cotangent", seed)),
            single_images=images,
            targets=None if y is None else y.to(parameter.device),
            losses=losses,
        )
    return pd.DataFrame(tables.layers)


@contextmanager
def _restored_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers afterwards, such as the running averages of batch normalization."""
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(saved[name])


def _first_batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor):
        return batch[0], batch[1]
    if isinstance(batch, str | Mapping) or not isinstance(batch, Iterable):
        raise TypeError(
            "batch must be images, (images, targets) or a loader of either, got "
            f"{type(batch).__name__}"
        )
    return _first_batch(next(iter(batch)))


def _per_example(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def per_example(logits: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(logits, targets, strict=True)
        return torch.stack([loss(z[None], t[None]) for z, t in pairs])

    return per_example
