"""Errors in the user's data files are found by planning, and reported in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command
from fanin.errors import DataError
from tests.conftest import CellConfig
from tests.experiments.data.own_files import SIDE, digits, write_images, write_npz

Arrays = dict[str, np.ndarray]


def without(key: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if name != key}


def with_(**functions: Callable[[Arrays], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: make(arrays) for name, make in functions.items()}


def with_value(key: str, index: tuple[int, ...], value: float) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        array = arrays[key].copy()
        array[index] = value
        return arrays | {key: array}

    return change


X_TEST = {"x_test": lambda a: a["x"][:10], "y_test": lambda a: a["y"][:10]}
WRONG_ARRAYS = {
    "no array y; it has x": without("y"),
    "unexpected array x_tset; did you mean x_test": with_(x_tset=lambda a: a["x"]),
    "has x_test, but no y_test": with_(x_test=lambda a: a["x"]),
    "x has 500 images, but y has 499 labels": with_(y=lambda a: a["y"][:-1]),
    r"x has the shape \(500, 64\);.* save x\[:, None, None, :\]": with_(
        x=lambda a: a["x"].reshape(500, 64)
    ),
    r"x has the shape \(500, 8, 8, 1\), with channels last; save x.transpose": with_(
        x=lambda a: a["x"][..., None]
    ),
    r"x has the shape \(500, 1, 8, 8, 1\); expected": with_(x=lambda a: a["x"][:, None, ..., None]),
    "x has NaN or infinite pixels; the first image with them is 7": with_value(
        "x", (7, 0, 0), np.nan
    ),
    "x has NaN or infinite pixels; the first image with them is 8": with_value(
        "x", (8, 0, 0), 1e300
    ),
    "x has integers from 0 to 256; save 0 to 255": with_(x=lambda a: (16 * a["x"]).astype(int)),
    "x has the type bool": with_(x=lambda a: a["x"] > 8),
    "y has the type <U": with_(y=lambda a: a["y"].astype(str)),
    r"y has the shape \(500, 1\); expected \(images,\); save y.ravel": with_(
        y=lambda a: a["y"][:, None]
    ),
    r"y has the shape \(500, 10\);.* save y.argmax": with_(y=lambda a: np.eye(10)[a["y"]]),
    "y has the label -1; labels are 0 to": with_value("y", (3,), -1),
    "y has labels up to 10, but no image of class 0; number": with_(y=lambda a: a["y"] + 1),
    "y has labels up to 999999999999, but no image of class 10": with_value("y", (3,), 10**12 - 1),
    "y has only one class": with_(y=lambda a: a["y"] * 0),
    "y has NaN or infinite targets; the first is number 3": lambda a: with_value("y", (3,), np.nan)(
        a | {"y": a["y"].astype(float)}
    ),
    "has one image of class 10": with_value("y", (3,), 10),
    r"different image sizes: shapes \(500, 8, 8\) and \(10, 8, 7\)": with_(
        **X_TEST | {"x_test": lambda a: a["x"][:10, :, :7]}
    ),
    "x and x_test have different types: float64 and uint8": with_(
        **X_TEST | {"x_test": lambda a: a["x"][:10].astype(np.uint8)}
    ),
    "y and y_test must both be integers or both be floats": with_(
        **X_TEST | {"y_test": lambda a: a["y"][:10].astype(float)}
    ),
    "y_test has the label 10; the labels of y are 0 to 9": with_(
        **X_TEST | {"y_test": lambda a: a["y"][:10] + 1}
    ),
    "contains Python objects; save arrays of numbers": with_(x=lambda a: a["x"].astype(object)),
    "x has no images": with_(x=lambda a: a["x"][:0], y=lambda a: a["y"][:0]),
}


def error_of(cell_config: CellConfig, option: str, path: Path) -> str:
    key = "file" if option == "arrays" else "folder"
    with pytest.raises(DataError) as caught:
        cell_config(f"data={option}", f"data.{key}={path}")
    message = str(caught.value)
    assert message.startswith(f"data.{key}: {path}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("expected", WRONG_ARRAYS)
def test_wrong_arrays_are_reported(expected: str, cell_config: CellConfig, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", **WRONG_ARRAYS[expected](digits()))
    assert re.search(expected, error_of(cell_config, "arrays", path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"x, y", "is damaged or not an .npz file"),
        (b"", "is damaged or not an .npz file"),
        ("truncated", "is damaged or not an .npz file"),
        ("flipped", "is damaged or not an .npz file"),
        ("npy", "is not an .npz file; write one with numpy.savez"),
        ("folder", "Is a directory"),
    ],
)
def test_a_file_that_is_not_npz_is_reported(
    content: bytes | str | None, expected: str, cell_config: CellConfig, tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, digits()["x"])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        intact = write_npz(path, **digits()).read_bytes()
        middle = len(intact) // 2
        flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
        path.write_bytes(flipped if content == "flipped" else intact[:middle])
    assert expected in error_of(cell_config, "arrays", path)


def empty_class(folder: Path) -> None:
    (folder / "two").mkdir()
    (folder / "two" / ".hidden.png").touch()


def one_class(folder: Path) -> None:
    for path in (folder / "zero").iterdir():
        path.unlink()
    (folder / "zero").rmdir()


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((SIDE, 2 * SIDE), np.uint8)).save(folder / "zero" / "a.png")


def truncated(folder: Path) -> None:
    path = folder / "zero" / "001.png"
    path.write_bytes(path.read_bytes()[:60])


def flipped(folder: Path) -> None:
    path = folder / "zero" / "001.png"
    content = bytearray(path.read_bytes())
    content[45] ^= 1  # in the compressed pixels, which a checksum protects
    path.write_bytes(bytes(content))


def text_named_png(folder: Path) -> None:
    (folder / "zero" / "b.png").write_text("no image")


def text_file(folder: Path) -> None:
    (folder / "zero" / "b.txt").write_text("notes")


def loose_image(folder: Path) -> None:
    (folder / "zero" / "001.png").rename(folder / "001.png")


def nested_folder(folder: Path) -> None:
    (folder / "zero" / "more").mkdir()


def sixteen_bits(folder: Path) -> None:
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(folder / "zero" / "a.png")


def transparent(folder: Path) -> None:
    Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 4)).save(folder / "zero" / "a.png")


def class_missing_in_test(folder: Path) -> None:
    write_images(folder, 12, ("train/one", "train/two", "test/one"))
    for name in ("one", "zero"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


WRONG_FOLDERS = {
    "two has no PNG or JPEG file": empty_class,
    "needs a folder for each of two or more classes; it has only one/": one_class,
    r"zero/a.png has 16x8 pixels, but .*one/000.png has 8x8": other_size,
    "zero/001.png is not a readable PNG or JPEG file": truncated,
    "/zero/001.png is not a readable PNG or JPEG file": flipped,
    "zero/b.png is not a readable PNG or JPEG file": text_named_png,
    "zero/b.txt is not a PNG or JPEG file; move it": text_file,
    r"001.png is not in a class folder \(.*/CLASS/NAME.png\)": loose_image,
    "zero/more is a folder; put the images directly into zero/": nested_folder,
    "zero/a.png has 16 bits per pixel": sixteen_bits,
    "zero/a.png has transparent pixels": transparent,
    "train/two: test/ has no class two": class_missing_in_test,
}


@pytest.mark.parametrize("expected", WRONG_FOLDERS)
def test_wrong_folders_are_reported(expected: str, cell_config: CellConfig, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 20)
    cell_config("data=folder", f"data.folder={folder}")
    WRONG_FOLDERS[expected](folder)
    assert re.search(expected, error_of(cell_config, "folder", folder))


def test_a_missing_folder_is_reported(cell_config: CellConfig, tmp_path: Path) -> None:
    assert "no such folder" in error_of(cell_config, "folder", tmp_path / "images")
    (tmp_path / "images").touch()
    assert "not a folder" in error_of(cell_config, "folder", tmp_path / "images")


def test_planning_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "images", 20)
    other_size(folder)
    overrides = ["data=folder", f"data.folder={folder}", "seed=0,1", "sweep.mode=plan"]
    status = run_command(config_loader(), "config", [*overrides, f"sweep.results={tmp_path}"])
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.startswith(f"data.folder: {folder}/zero/a.png has 16x8 pixels, but ")
    assert printed.err.count("\n") == 1
