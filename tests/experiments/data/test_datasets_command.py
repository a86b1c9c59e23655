"""The command `fanin data fetch`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.config.groups import CONF
from experiments.config.instantiate import instantiate
from experiments.data import Data, Mnist
from experiments.data.fetch import FileSet
from experiments.data_root import data_folder
from experiments.datasets import DATASETS, main
from fanin.errors import DataError


def test_the_data_sets_are_the_options_that_have_files() -> None:
    sources = {
        path.stem: instantiate(yaml.safe_load(path.read_text()))
        for path in (CONF / "data").glob("*.yaml")
        if path.stem not in ("arrays", "folder")  # the user's own files
    }
    with_files = {name: source for name, source in sources.items() if hasattr(source, "files")}
    assert set(with_files) == set(DATASETS)
    assert all(source.files.folders[0] == name for name, source in with_files.items())


def test_fetch_verifies_files_and_prints_how_to_use_them(
    tiny_mnist: dict[str, bytes],
    tiny_files: FileSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Mnist, "files", tiny_files)
    for name, content in tiny_mnist.items():
        (tmp_path / name).write_bytes(content)
    main(["fetch", "mnist", "--root", str(tmp_path)])
    assert capsys.readouterr().out.endswith(f"data=mnist data.root={tmp_path}\n")

    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as end:
        main(["fetch", "mnist", "--root", str(tmp_path)])
    assert end.value.code == 2
    assert "train-labels-idx1-ubyte is damaged" in capsys.readouterr().err


def test_fanin_data_is_the_default_folder_of_fetch_and_of_cells(
    tiny_mnist: dict[str, bytes],
    tiny_files: FileSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Mnist, "files", tiny_files)
    monkeypatch.setenv("FANIN_DATA", str(tmp_path))
    data = Data(Mnist(), download=False)
    assert data.lacks_files()
    with pytest.raises(DataError, match=r"data\.root \(or the environment variable FANIN_DATA\)"):
        data.prepare()
    for name, content in tiny_mnist.items():
        (tmp_path / name).write_bytes(content)
    assert not data.lacks_files()
    assert len(data.load().train) == 6
    main(["fetch", "mnist"])
    assert capsys.readouterr().out.endswith("Use them with: data=mnist\n")
    monkeypatch.setenv("FANIN_DATA", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.lacks_files()
    assert data_folder(None) == tmp_path / "home/.cache/fanin"


def test_an_unknown_data_set_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fetch", "cifar"])
    assert "cifar: no such data set; did you mean cifar10" in capsys.readouterr().err
