"""`data=arrays` and `data=folder`: content, splits, cell ids, and sweeps of the user's files."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.config.identity import cell_id
from experiments.config.instantiate import instantiate_wrapped
from experiments.data import Data
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import read_plan
from fanin.errors import ConfigError, DataError
from tests.analysis.small_sweep import run_sweep
from tests.conftest import CellConfig
from tests.experiments.data.own_files import SIDE, digits, write_images, write_npz


def data_of(cell_config: CellConfig, *overrides: str) -> Data:
    return instantiate_wrapped(Data, cell_config(*overrides)["data"], "data")


def id_of(cell_config: CellConfig, path: Path, *more: str) -> str:
    if path.is_dir():
        return cell_id(cell_config("data=folder", f"data.folder={path}", *more))
    return cell_id(cell_config("data=arrays", f"data.file={path}", *more))


def flip_pixel(path: Path) -> None:
    image = Image.open(path)
    image.load()
    image.putpixel((3, 4), image.getpixel((3, 4)) ^ 1)
    image.save(path)


def test_a_folder_of_200_png_files_has_the_pixels_and_classes_of_its_files(
    cell_config: CellConfig, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "images")
    data = data_of(cell_config, "data=folder", f"data.folder={folder}")
    assert (data.shape, data.n_classes) == ((1, SIDE, SIDE), 2)
    assert (data.source.train_size, data.source.test_size) == (160, 40)
    loaded = data.load()
    for split, size in ((loaded.train, 160), (loaded.test, 40)):
        assert Counter(split.y.tolist()) == {0: size // 2, 1: size // 2}
        assert split.x.dtype == torch.uint8
    classes = [folder / "one", folder / "zero"]
    expected = {
        (label, np.asarray(Image.open(path)).tobytes())
        for label, name in enumerate(classes)
        for path in name.iterdir()
    }
    x = torch.cat([loaded.train.x, loaded.test.x]).numpy()
    y = torch.cat([loaded.train.y, loaded.test.y]).tolist()
    assert {(label, image.tobytes()) for label, image in zip(y, x, strict=True)} == expected


def test_the_folders_train_and_test_are_the_splits(cell_config: CellConfig, tmp_path: Path) -> None:
    write_images(tmp_path / "train", 20)
    write_images(tmp_path / "test", 6)
    data = data_of(cell_config, "data=folder", f"data.folder={tmp_path}")
    loaded = data.load()
    assert (len(loaded.train), len(loaded.test)) == (20, 6)
    first = np.asarray(Image.open(tmp_path / "test" / "one" / "000.png"))
    assert np.array_equal(loaded.test.x[0, 0], first)
    with pytest.raises(DataError, match=r"test_share is set, but .* has its own test split"):
        cell_config("data=folder", f"data.folder={tmp_path}", "data.test_share=0.5")


def test_one_color_image_gives_all_images_three_channels(
    cell_config: CellConfig, tmp_path: Path
) -> None:
    folder = write_images(tmp_path, 10)
    grey = np.asarray(Image.open(folder / "one" / "000.png"))
    color = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    Image.fromarray(color).save(folder / "zero" / "001.png")
    Image.fromarray(color).save(folder / "zero" / "photo.JPG")
    loaded = data_of(cell_config, "data=folder", f"data.folder={folder}").load()
    x = torch.cat([loaded.train.x, loaded.test.x]).numpy()
    assert x.shape == (11, 3, SIDE, SIDE)
    assert any(np.array_equal(image, color.transpose(2, 0, 1)) for image in x)
    assert any(np.array_equal(image, np.stack([grey] * 3)) for image in x)


def test_arrays_are_those_of_the_file(cell_config: CellConfig, tmp_path: Path) -> None:
    arrays = digits(100)
    split = {"x": arrays["x"][:80], "y": arrays["y"][:80]}
    split |= {"x_test": arrays["x"][80:], "y_test": arrays["y"][80:]}
    path = write_npz(tmp_path / "x.npz", **split)
    loaded = data_of(cell_config, "data=arrays", f"data.file={path}").load()
    assert loaded.full_scale == 1
    assert np.array_equal(loaded.train.x[:, 0], split["x"])
    assert np.array_equal(loaded.test.x[:, 0], split["x_test"])
    assert np.array_equal(loaded.test.y, split["y_test"])


@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_integer_pixels_are_uint8(kind: str, cell_config: CellConfig, tmp_path: Path) -> None:
    arrays = digits()
    path = write_npz(tmp_path / "x.npz", x=arrays["x"].astype(kind), y=arrays["y"])
    loaded = data_of(cell_config, "data=arrays", f"data.file={path}").load()
    assert loaded.train.x.dtype == torch.uint8
    assert loaded.full_scale == 255


def test_float_labels_are_targets_of_a_regression(cell_config: CellConfig, tmp_path: Path) -> None:
    arrays = digits()
    path = write_npz(tmp_path / "x.npz", x=arrays["x"], y=arrays["x"].mean((1, 2)))
    data = data_of(cell_config, "data=arrays", f"data.file={path}", "loss=mse")
    assert data.n_classes is None
    assert data.load().train.y.dtype == torch.float32


def test_subsets_sizes_and_corruption_work_as_for_other_data(
    cell_config: CellConfig, tmp_path: Path
) -> None:
    folder = write_images(tmp_path)
    loaded = data_of(
        *(cell_config, "data=folder", f"data.folder={folder}", "data.n_train=50", "data.side=14"),
        *("data.n_test=20", "data.corrupt.share=0.1", "data.corrupt.kind=missing"),
    ).load()
    assert loaded.train.x.shape == (50, 1, 14, 14)
    assert Counter(loaded.train.y.tolist()) == {0: 25, 1: 25}
    assert len(loaded.test) == 20
    assert int(loaded.train.x.isnan().flatten(1).any(1).sum()) == 5


def test_the_seed_of_the_data_draws_the_test_split(cell_config: CellConfig, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", **digits())
    first, again, other = (
        data_of(cell_config, "data=arrays", f"data.file={path}", f"data.seed={seed}").load()
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)
    images = torch.cat([first.train.x, first.test.x]).flatten(1)
    assert len(images.unique(dim=0)) == len(np.unique(digits()["x"], axis=0))


def test_the_cell_id_is_the_same_in_another_place_and_changes_with_a_pixel(
    cell_config: CellConfig, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "images", 20)
    before = id_of(cell_config, folder)
    assert before.startswith("imagefolder-")
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.move(folder, moved)
    assert id_of(cell_config, moved) == before
    assert id_of(cell_config, moved, "data.root=/tmp") == before
    flip_pixel(moved / "one" / "000.png")
    assert id_of(cell_config, moved) != before


def test_the_cell_id_of_arrays_is_that_of_their_values(
    cell_config: CellConfig, tmp_path: Path
) -> None:
    arrays = digits()
    before = id_of(cell_config, write_npz(tmp_path / "a.npz", **arrays))
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    assert id_of(cell_config, tmp_path / "b.npz") == before
    arrays["x"][7, 3, 4] += 1
    assert id_of(cell_config, write_npz(tmp_path / "c.npz", **arrays)) != before
    arrays["x"][7, 3, 4] -= 1
    arrays["y"][0] = 1
    assert id_of(cell_config, write_npz(tmp_path / "d.npz", **arrays)) != before


@pytest.mark.parametrize("moment", ["prepare", "load"])
def test_a_change_after_planning_is_an_error(
    moment: str, cell_config: CellConfig, tmp_path: Path
) -> None:
    folder = write_images(tmp_path, 20)
    data = data_of(cell_config, "data=folder", f"data.folder={folder}")
    getattr(data, moment)()
    flip_pixel(folder / "zero" / "001.png")
    with pytest.raises(DataError, match="has changed since the sweep was planned"):
        getattr(data, moment)()


def test_the_file_is_a_mandatory_key(cell_config: CellConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.file: must be given"):
        cell_config("data=arrays")


def test_a_sweep_resumes_after_the_folder_has_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "a", 40)
    small = ("data=folder", "train.steps=2", "probe.draws=1", "runner=inline")
    run_sweep(tmp_path, "own", f"data.folder={folder}", "seed=0,1", small=small)
    assert "2 cells: 0 done, 2 missing" in capsys.readouterr().out
    shutil.move(folder, tmp_path / "b")
    results = run_sweep(tmp_path, "own", f"data.folder={tmp_path / 'b'}", "seed=1,2", small=small)
    assert "2 cells: 1 done, 1 missing" in capsys.readouterr().out
    assert len(results.cells) == 3
    assert not SweepFolder(tmp_path / "own").finished.exists()  # the next command reads the files
    records = read_plan(SweepFolder(tmp_path / "own")).values()
    assert {record["config"]["data"]["folder"] for record in records} == {str(tmp_path / "b")}
    assert {record["assignment"]["data.folder"] for record in records} == {str(tmp_path / "b")}
    flip_pixel(tmp_path / "b" / "one" / "000.png")
    run_sweep(tmp_path, "own", f"data.folder={tmp_path / 'b'}", "seed=1,2", small=small)
    assert "2 cells: 0 done, 2 missing" in capsys.readouterr().out
