"""Images from an `.npz` file of numpy: arrays x and y, and optionally x_test and y_test."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.data.dataset import Split
from experiments.data.own import OwnData, OwnImages, Stamp, check_labels
from experiments.data.staging import staged
from fanin.errors import DataError, suggest

REQUIRED = ("x", "y")
OPTIONAL = ("x_test", "y_test")
MAX_CHANNELS = 4  # of images with channels last


class NpzFormat:
    """Reader of an `.npz` file."""

    def stamp(self, path: Path) -> Stamp:
        """Return the file's name, size and modification time."""
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {_reason(error)}") from error
        return ((str(path), stat.st_size, stat.st_mtime_ns),)

    def read(self, path: Path) -> OwnImages:
        """Read the arrays and check their names, shapes, types and values."""
        arrays = _read_arrays(path)
        try:
            return _checked(arrays)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Arrays(OwnData):
    """Images and labels from an `.npz` file.

    Integer pixels must be 0 to 255; float pixels are used as they are. Integer labels are classes,
    float labels are the targets of a regression.

    Parameters
    ----------
    file
        Path of the file, with the arrays `x` ([image, height, width] or [image, channel, height,
        width]), `y` ([image]), and optionally `x_test` and `y_test`.
    """

    file: str

    path_key = "file"
    format = NpzFormat()


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(staged(path), allow_pickle=False)
        if isinstance(file, np.ndarray):  # a .npy file
            raise DataError(f"{path} is not an .npz file; write one with numpy.savez")
        with file:
            _check_names(file.files, path)
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise DataError(f"{path} contains Python objects; save arrays of numbers") from error
        raise DataError(
            f"{path} is damaged or not an .npz file; write one with numpy.savez"
        ) from error


def _reason(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def _check_names(names: list[str], path: Path) -> None:
    expected = (*REQUIRED, *OPTIONAL)
    for name in REQUIRED:
        if name not in names:
            raise DataError(f"{path} has no array {name}; it has {', '.join(names) or 'none'}")
    for name in names:
        if name not in expected:
            raise DataError(f"{path}: unexpected array {name}; {suggest(name, expected)}")
    given = [name for name in OPTIONAL if name in names]
    if len(given) == 1:
        missing = next(name for name in OPTIONAL if name not in names)
        raise DataError(f"{path} has {given[0]}, but no {missing}")


def _checked(arrays: Mapping[str, np.ndarray]) -> OwnImages:
    splits = {"train": _split(arrays, "x", "y")}
    if "x_test" in arrays:
        splits["test"] = _split(arrays, "x_test", "y_test")
    train, test = splits["train"], splits.get("test")
    if test is not None:
        if train.x.shape[1:] != test.x.shape[1:]:
            shapes = f"{tuple(arrays['x'].shape)} and {tuple(arrays['x_test'].shape)}"
            raise DataError(f"x and x_test have different image sizes: shapes {shapes}")
        if train.x.dtype != test.x.dtype:
            types = f"{arrays['x'].dtype} and {arrays['x_test'].dtype}"
            raise DataError(f"x and x_test have different types: {types}")
        if train.y.dtype != test.y.dtype:
            types = f"{arrays['y'].dtype} and {arrays['y_test'].dtype}"
            raise DataError(f"y and y_test must both be integers or both be floats, not {types}")
    n_classes = None if train.y.is_floating_point() else check_labels(train, test, "y")
    full_scale = 255.0 if train.x.dtype == torch.uint8 else 1.0
    return OwnImages(train, test, n_classes, full_scale, _digest(arrays))


def _split(arrays: Mapping[str, np.ndarray], x_name: str, y_name: str) -> Split:
    x, y = _pixels(arrays[x_name], x_name), _labels(arrays[y_name], y_name)
    if len(x) != len(y):
        raise DataError(f"{x_name} has {len(x)} images, but {y_name} has {len(y)} labels")
    if len(x) == 0:
        raise DataError(f"{x_name} has no images")
    return Split(torch.from_numpy(x), torch.from_numpy(y))


def _pixels(array: np.ndarray, name: str) -> np.ndarray:
    """Return images as [image, channel, height, width], uint8 or float32."""
    shape = tuple(array.shape)
    expected = "expected (images, height, width) or (images, channels, height, width)"
    if array.ndim == 2:
        hint = f"for vectors, save {name}[:, None, None, :]"
        raise DataError(f"{name} has the shape {shape}; {expected}; {hint}")
    if array.ndim not in (3, 4) or 0 in shape[1:]:
        raise DataError(f"{name} has the shape {shape}; {expected}")
    if array.ndim == 3:
        array = array[:, None]
    elif shape[3] in (1, 3, MAX_CHANNELS) and min(shape[1:3]) > MAX_CHANNELS:
        hint = f"save {name}.transpose(0, 3, 1, 2)"
        raise DataError(f"{name} has the shape {shape}, with channels last; {hint}")
    if array.dtype.kind in "iu":
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            limits = f"{array.min()} to {array.max()}"
            raise DataError(f"{name} has integers from {limits}; save 0 to 255, or floats")
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype.kind != "f":
        raise DataError(f"{name} has the type {array.dtype}; save integers from 0 to 255 or floats")
    with np.errstate(over="ignore"):  # reported as infinite
        pixels = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(pixels).all():
        image = int(np.argmin(np.isfinite(pixels).all((1, 2, 3))))
        raise DataError(f"{name} has NaN or infinite pixels; the first image with them is {image}")
    return pixels


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    """Return labels as [image], int64 (classes) or float32 (targets)."""
    if array.ndim != 1:
        hints = {True: f"; save {name}.ravel()", False: f"; for one-hot, save {name}.argmax(1)"}
        hint = hints[array.shape[1] == 1] if array.ndim == 2 else ""
        raise DataError(f"{name} has the shape {tuple(array.shape)}; expected (images,){hint}")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise DataError(f"{name} has the type {array.dtype}; save integers (classes) or floats")
    with np.errstate(over="ignore"):  # reported as infinite
        labels = array.astype(np.float32)
    if not np.isfinite(labels).all():
        label = int(np.argmin(np.isfinite(labels)))
        raise DataError(f"{name} has NaN or infinite targets; the first is number {label}")
    return labels


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return 64 bits of SHA-256 over names, shapes, types and values of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
