"""`probe`: the measurements as a DataFrame, for any torch model and batch."""

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
        Any module that maps images to [image, logit]. It is run in the mode it is in (dropout in
        train mode is measured as such) and left unchanged.
    batch
        Images [image, ...], or (images, targets), or a loader, whose first batch is taken. They
        are moved to the model's device and dtype.
    loss
        A loss (logits, targets) -> scalar mean over the batch; adds `grad_m2` and
        `weight_grad_m2`. Needs targets.
    images
        Indices of images to list one by one; image -1 is always the mean over the batch.
    seed
        Of the random cotangent behind `vjp_m2`.

    Returns
    -------
    pandas.DataFrame
        Columns `image`, `layer` (from 1, in the order the layers run; -1 the whole network),
        `layer_name`, `quantity`, `value`. results/README.md says what each quantity is.

    Raises
    ------
    ValueError
        A loss without targets, an image that the batch lacks, or a model that doesn't return
        [image, logit].
    TypeError
        The batch is nothing of the above (a mapping, for one).

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
    like = next(model.parameters())
    x = x.to(like)
    if any(not 0 <= image < len(x) for image in images):
        raise ValueError(f"images={images}: the batch holds images 0 to {len(x) - 1}")
    losses = None if loss is None else LossFunctions(_one_by_one(loss), loss)
    with _kept_buffers(model):
        with torch.no_grad():
            shape = tuple(model(x.clone()).shape)
        if len(shape) != 2 or shape[0] != len(x):
            raise ValueError(f"expected a model that returns [image, logit], got {shape}")
        measured = measure(
            model,
            x,
            random_cotangent(*shape, make_generator("cotangent", seed)),
            single_images=images,
            targets=None if y is None else y.to(like.device),
            losses=losses,
        )
    return pd.DataFrame(measured.layers)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Batch normalization in train mode moves its running averages with every forward pass."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def _first_batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor):
        return batch[0], batch[1]
    if isinstance(batch, str | Mapping) or not isinstance(batch, Iterable):
        got = type(batch).__name__
        raise TypeError(f"expected images, (images, targets) or a loader of either, got {got}")
    return _first_batch(next(iter(batch)))


def _one_by_one(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def per_example(logits: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(logits, targets, strict=True)
        return torch.stack([loss(z[None], t[None]) for z, t in pairs])

    return per_example
