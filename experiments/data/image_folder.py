"""Images from a folder of PNG and JPEG files: one folder per class."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from experiments.data.dataset import Split
from experiments.data.own import OwnData, OwnImages, Stamp
from fanin.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
IGNORED = ("thumbs.db", "desktop.ini")  # files of operating systems, beside hidden files
SPLITS = ("test", "train")
GREY, COLOR = 1, 3  # channels


@dataclass(frozen=True)
class ImageFile:
    """An image file of a class folder; `name` is its path within the data set's folder."""

    path: Path
    name: str
    split: str
    label: int


class FolderFormat:
    """Reader of a folder with one folder per class, or with `train/` and `test/` of them."""

    def stamp(self, path: Path) -> Stamp:
        """Return the name, size and modification time of every image file."""
        stats = [(file.name, file.path.stat()) for file in list_images(path)[0]]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    def read(self, path: Path) -> OwnImages:
        """Decode all images and check their sizes."""
        files, n_classes = list_images(path)
        digest = hashlib.sha256()
        pixels = []
        for file in files:
            content = _read_bytes(file.path)
            digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
            pixels.append(_decode(content, file.path))
        x = _stack(pixels, files)
        labels = torch.tensor([file.label for file in files])
        is_test = torch.tensor([file.split == "test" for file in files])
        train = Split(x[~is_test], labels[~is_test])
        test = Split(x[is_test], labels[is_test]) if is_test.any() else None
        return OwnImages(train, test, n_classes, 255.0, digest.hexdigest()[:16])


@dataclass(frozen=True)
class ImageFolder(OwnData):
    """Images from the PNG and JPEG files of a folder.

    All images must have one size. They have one channel if all files are greyscale, otherwise
    three (RGB).

    Parameters
    ----------
    folder
        Path of a folder with one folder per class, or with the folders `train` and `test` that
        have one folder per class. Classes are numbered in alphabetical order.
    """

    folder: str

    path_key = "folder"
    format = FolderFormat()


def list_images(folder: Path) -> tuple[list[ImageFile], int]:
    """Return the image files, sorted by split, class and name, and the number of classes.

    Raises
    ------
    DataError
        The folder does not exist, has no class folders or an empty one, or has other files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    names = _subfolders(folder)
    has_splits = tuple(names) == SPLITS and all(_subfolders(folder / name) for name in names)
    if not has_splits:
        files = _class_files(folder, "train", folder)
        return files, len(names)
    classes = {split: _subfolders(folder / split) for split in SPLITS}
    for split, other in (("train", "test"), ("test", "train")):
        if extra := sorted(set(classes[split]) - set(classes[other])):
            raise DataError(f"{folder / split / extra[0]}: {other}/ has no class {extra[0]}")
    files = [file for split in SPLITS for file in _class_files(folder / split, split, folder)]
    return files, len(classes["train"])


def _class_files(folder: Path, split: str, root: Path) -> list[ImageFile]:
    loose = [path for path in _entries(folder) if _is_image(path)]
    if loose:
        raise DataError(f"{loose[0]} is not in a class folder ({folder.name}/CLASS/NAME.png)")
    classes = _subfolders(folder)
    if len(classes) < 2:
        found = f"only {classes[0]}/" if classes else "no folders"
        raise DataError(f"{folder} needs a folder for each of two or more classes; it has {found}")
    files = []
    for label, name in enumerate(classes):
        images = _entries(folder / name)
        if not images:
            raise DataError(f"{folder / name} has no PNG or JPEG file")
        for path in images:
            if path.is_dir():
                raise DataError(f"{path} is a folder; put the images directly into {name}/")
            if not _is_image(path):
                raise DataError(f"{path} is not a PNG or JPEG file; move it to another folder")
            files.append(ImageFile(path, path.relative_to(root).as_posix(), split, label))
    return files


def _entries(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    return [p for p in paths if not p.name.startswith(".") and p.name.lower() not in IGNORED]


def _subfolders(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder) if path.is_dir()]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _decode(content: bytes, path: Path) -> UInt8[np.ndarray, "height width channel"]:
    """Decode an image to one channel if it is greyscale, otherwise to RGB."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError("data=folder needs Pillow; run: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images
            opened = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
            image = ImageOps.exif_transpose(opened)  # as image viewers show it
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has 16 bits per pixel; save it with 8, or use data=arrays")
            is_grey = image.mode in ("1", "L", "LA")
            if (
                image.has_transparency_data
                and np.asarray(image.convert("RGBA"))[..., 3].min() < 255
            ):
                raise DataError(f"{path} has transparent pixels; save it without transparency")
            return np.atleast_3d(np.asarray(image.convert("L" if is_grey else "RGB")))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many types for corrupt files
        raise DataError(f"{path} is not a readable PNG or JPEG file") from error


def _stack(
    pixels: Sequence[UInt8[np.ndarray, "height width channel"]], files: Sequence[ImageFile]
) -> UInt8[torch.Tensor, "image channel height width"]:
    height, width = pixels[0].shape[:2]
    for image, file in zip(pixels, files, strict=True):
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{file.path} has {image.shape[1]}x{image.shape[0]} pixels, but {files[0].path} "
                f"has {width}x{height}; resize all images to one size"
            )
    channels = max(image.shape[2] for image in pixels)
    x = np.empty((len(pixels), channels, height, width), np.uint8)
    for n, image in enumerate(pixels):
        x[n] = image.transpose(2, 0, 1)  # a single channel is repeated
    return torch.from_numpy(x)
