"""Files of a user: images as PNG files in class folders, and arrays as .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 8


def write_images(folder: Path, n: int = 200, classes: tuple[str, ...] = ("one", "zero")) -> Path:
    """Write random greyscale PNG files, in equal numbers of each class."""
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / classes[i % len(classes)] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    return folder


def digits(n: int = 500) -> dict[str, np.ndarray]:
    """Return the first digits of scikit-learn as a user would save them: float64, 0 to 16."""
    table = load_digits()
    return {"x": table.images[:n], "y": table.target[:n]}


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """Write an .npz file and return its path."""
    np.savez(path, **arrays)
    return path
