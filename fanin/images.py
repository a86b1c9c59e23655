"""Images and models that users pass: conversion, checks with one-line errors, subsampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from fanin.errors import InputError

MAX_IMAGES = 8  # used by default; the cost of the theories is proportional to their number


def to_images(images: Any) -> Tensor:
    """Return a batch of images as a tensor, and check it.

    Parameters
    ----------
    images
        A floating-point tensor or numpy array of shape (images, ...).

    Raises
    ------
    InputError
        `images` is not a single batch, is not floating-point, is empty, or has non-finite values.

    Examples
    --------
    >>> to_images(np.zeros((2, 1, 8, 8))).dtype
    torch.float64
    >>> to_images((torch.zeros(2, 1, 8, 8), torch.zeros(2)))
    Traceback (most recent call last):
    ...
    fanin.errors.InputError: images is a tuple of 2 tensors; pass the images only: batch[0]
    """
    if isinstance(images, np.ndarray):
        if images.dtype == object:
            raise InputError("images is an array of objects; pass one numeric array: np.stack(...)")
        images = torch.from_numpy(np.ascontiguousarray(images))
    if not isinstance(images, Tensor):
        raise InputError(f"images is {_describe(images)}; {_advice(images)}")
    shape = tuple(images.shape)
    if images.ndim < 2 or images.numel() == 0:
        raise InputError(
            f"images has shape {shape}; pass one or more images of shape (images, ...), such as"
            " (images, channels, height, width)"
        )
    if images.is_complex():
        raise InputError("images is complex; pass real numbers")
    if not images.is_floating_point():
        dtype = str(images.dtype).removeprefix("torch.")
        raise InputError(
            f"images has dtype {dtype}; convert and scale it as in training, for example:"
            " images.float() / 255"
        )
    problem = describe_nonfinite("images", images)
    if problem:
        raise InputError(f"{problem} To fix: images = torch.nan_to_num(images)")
    return images


def describe_nonfinite(name: str, tensor: Tensor) -> str:
    """Say which values of a tensor are NaN or infinite; "" if there are none.

    Examples
    --------
    >>> describe_nonfinite("images", torch.tensor([[0.0, torch.nan]]))
    'images[0, 1] is nan; 1 of 2 values are NaN or infinite, in 1 of 1 samples.'
    """
    invalid = ~tensor.detach().isfinite()
    if not invalid.any():
        return ""
    first = tuple(int(i) for i in invalid.nonzero()[0])
    samples = int(invalid.flatten(1).any(1).sum()) if tensor.ndim > 1 else int(invalid.sum())
    return (
        f"{name}{list(first)} is {float(tensor[first])}; {int(invalid.sum())} of {tensor.numel()}"
        f" values are NaN or infinite, in {samples} of {len(tensor)} samples."
    )


def _describe(images: Any) -> str:
    if isinstance(images, list | tuple):
        kinds = {"tensor" if isinstance(x, Tensor) else type(x).__name__ for x in images}
        kind = kinds.pop() if len(kinds) == 1 else "object"
        return f"a {type(images).__name__} of {len(images)} {kind}" + "s" * (len(images) != 1)
    return f"of type {type(images).__name__}"


def _advice(images: Any) -> str:
    if isinstance(images, list | tuple):
        if len(images) in (1, 2) and isinstance(images[0], Tensor | np.ndarray):
            shapes = {getattr(x, "shape", None) for x in images}
            if len(images) == 1 or len(shapes) == 2:  # images and targets
                return "pass the images only: batch[0]"
        is_tensors = any(isinstance(x, Tensor) for x in images)
        return f"pass one tensor: torch.{'stack' if is_tensors else 'tensor'}(images)"
    if isinstance(images, Mapping):
        return "pass the tensor of the images only: batch[KEY]"
    if isinstance(images, DataLoader):
        return "pass the images of one batch: next(iter(loader))[0]"
    return "pass a tensor or a numpy array of shape (images, ...)"


def check_model(model: Any) -> None:
    """Raise InputError if a model is not a module, or if its parameters hold no values.

    Examples
    --------
    >>> check_model(nn.Sequential(nn.LazyLinear(10)))
    Traceback (most recent call last):
    ...
    fanin.errors.InputError: layer 0 (LazyLinear) has no weights yet; call model(images) once
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InputError(f"model is the class {model.__name__}; pass an instance of it")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is of type {type(model).__name__}; pass an nn.Module")
    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            layer = f"layer {name} ({type(module).__name__})"
            if is_lazy(tensor):
                raise InputError(f"{layer} has no weights yet; call model(images) once")
            if tensor.is_meta:
                raise InputError(
                    f"{layer} is on the meta device and holds no values; create the model on the"
                    ' CPU, or use model.to_empty(device="cpu") and initialize it'
                )


def check_layer_input(
    name: str, layer: nn.Module, shape: tuple[int, ...], image_shape: tuple[int, ...]
) -> None:
    """Raise InputError if a linear or convolution layer cannot read an input of this shape.

    Parameters
    ----------
    name, layer
        Module path, and the module. Other modules than linear and convolution layers are ignored.
    shape
        Shape of the layer's input, with the axis of images.
    image_shape
        Shape of one image, for the message.
    """
    if isinstance(layer, nn.Linear):
        size, axis, rank, unit = layer.in_features, -1, None, "inputs"
    elif isinstance(layer, _ConvNd):
        size, axis, unit = layer.in_channels, 1, "channels"
        rank = len(layer.kernel_size) + 2
    else:
        return
    where = f"layer {name} ({type(layer).__name__})"
    of_image = f"the shape of one image is {image_shape}"
    if rank is not None and len(shape) != rank:
        axes = ("images", "channels", *("depth", "height", "width")[5 - rank :])
        hint = "; for a single image, use images[None]" if len(shape) == rank - 1 else ""
        raise InputError(
            f"{where} needs an input of shape ({', '.join(axes)}), but {of_image}{hint}"
        )
    if shape[axis] != size:
        last = len(image_shape) > 1 and shape[1:] == image_shape and image_shape[-1] == size
        order = ", ".join(map(str, (0, len(image_shape), *range(1, len(image_shape)))))
        hint = f"; for channels in the last axis, use images.permute({order})" if last else ""
        raise InputError(f"{where} needs {size} {unit}, but gets {shape[axis]}; {of_image}{hint}")


def subsample(
    images: Tensor, max_images: int | None, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return at most `max_images` evenly spaced images, and their labels.

    Raises
    ------
    InputError
        `max_images` is below 1, or the numbers of images and labels differ.

    Examples
    --------
    >>> subsample(torch.arange(10.0)[:, None], 4)[0].flatten().tolist()
    [0.0, 3.0, 6.0, 9.0]
    """
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{len(images)} images, but {len(labels)} labels")
    if max_images is None:
        return images, labels
    if max_images < 1:
        raise InputError(f"max_images={max_images}: must be 1 or more; None uses all images")
    if len(images) <= max_images:
        return images, labels
    indices = torch.linspace(0, len(images) - 1, max_images, dtype=torch.float64).round().long()
    return images[indices], None if labels is None else labels[indices]
