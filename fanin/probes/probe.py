"""Function `probe`, which measures any torch model on a batch and returns a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fanin.errors import InputError
from fanin.images import check_layer_input, check_model, to_images
from fanin.inits import Init, Scheme, initialize
from fanin.probes.measure import LossFunctions, measure
from fanin.probes.moments import random_cotangent
from fanin.probes.table import ProbeTable
from fanin.progress import show_progress
from fanin.seeds import make_generator


def probe(
    model: nn.Module,
    batch: Tensor | np.ndarray | tuple[Tensor, Tensor] | Iterable[Any],
    *,
    init: Init | Scheme | str | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    images: tuple[int, ...] = (),
    seed: int = 0,
    quiet: bool = False,
) -> ProbeTable:
    """Measure every linear and convolution layer of a network, forward and backward.

    Parameters
    ----------
    model
        Any module that maps images to [image, logit]. It runs in its current mode (in train mode
        with dropout) and is not changed.
    batch
        Images [image, ...] as a floating-point tensor or numpy array, a pair (images, targets), or
        a loader of either, which gives its first batch. Images are moved to the model's device and
        dtype.
    init
        Init of the measured weights: a name such as `he_normal`, a scheme or an `Init`. A copy of
        the model is initialized with it. None measures the model's current weights.
    loss
        Function (logits, targets) that returns the mean loss over the batch. With a loss, `batch`
        needs targets, and the table also has the quantities `grad_m2` and `weight_grad_m2`.
    images
        Indices of images to report individually. Rows with image -1 are means over the batch.
    seed
        Seed of the random vectors at the logits from which `vjp_m2` is propagated back, and of the
        weights that `init` draws.
    quiet
        Do not show progress.

    Returns
    -------
    ProbeTable
        A pandas.DataFrame with the columns `image`, `layer` (from 1 in the order in which the
        layers run; -1 is the whole network), `layer_name`, `quantity` and `value`.
        results/README.md defines the quantities. `plot()` draws it.

    Raises
    ------
    InputError
        The model or the images are invalid; a subclass of ValueError.
    ValueError
        `loss` is given without targets, `images` has an index outside the batch, or the model does
        not return [image, logit].
    TypeError
        `batch` has another type, such as a mapping.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> table = probe(model, torch.randn(32, 8), init="he_normal")
    >>> table.query("quantity == 'preact_m2'").layer_name.tolist()
    ['0', '2']
    """
    check_model(model)
    x, y = _first_batch(batch)
    x = to_images(x)
    if loss is not None and y is None:
        raise ValueError("a loss needs targets: pass (images, targets)")
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise InputError(f"model ({type(model).__name__}) has no parameters to measure")
    x = x.to(parameter)
    if any(not 0 <= image < len(x) for image in images):
        raise ValueError(f"images={images}: the batch has images 0 to {len(x) - 1}")
    if init is not None:
        model = deepcopy(model)
        initialize(model, init, partial(make_generator, "probe", seed), x)
    losses = None if loss is None else LossFunctions(_per_example(loss), loss)
    with show_progress("probe", quiet=quiet), _restored_buffers(model):
        with torch.no_grad(), _checked_inputs(model, tuple(x.shape[1:])):
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
            targets=None if y is None else torch.as_tensor(y).to(parameter.device),
            losses=losses,
        )
    return ProbeTable(tables.layers)


@contextmanager
def _checked_inputs(model: nn.Module, image_shape: tuple[int, ...]) -> Iterator[None]:
    """Raise InputError in the forward pass of a layer whose input has a wrong shape."""

    def check(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            check_layer_input(name, module, tuple(inputs[0].shape), image_shape)

    handles = [
        module.register_forward_pre_hook(partial(check, name))
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _restored_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers on exit, such as the running averages of batch normalization."""
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(saved[name])


def _first_batch(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Tensor | np.ndarray):
        return batch, None
    if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor | np.ndarray):
        if len(batch) == 2 and batch[0].ndim < 2:
            raise InputError(
                f"images has shape {tuple(batch[0].shape)}; pass images of shape (images, ...)"
            )
        if len(batch) != 2 and (len(batch) > 2 or batch[0].ndim < 2):
            raise InputError(
                f"batch is a {type(batch).__name__} of {len(batch)} tensors; pass images as one"
                " tensor, or a pair (images, targets)"
            )
        return batch[0], batch[1] if len(batch) == 2 else None
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
