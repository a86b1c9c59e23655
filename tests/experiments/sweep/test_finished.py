"""A command whose cells are all done ends without building them, unless they may have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.catalog import config_loader
from experiments.sweep import cli, finished, launch
from experiments.sweep.cli import CheckedCommand, exit_if_finished, run_command
from experiments.sweep.store.paths import SweepFolder

TINY = ("model=linear", "data.n_train=64", "train.steps=1", "probe=none", "runner=inline")


class Site:
    """A results folder, and a counter of launches that build cells."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = SweepFolder(root / "results" / "s")
        self.n_expanded = 0
        expand = launch.expand

        def counting(*arguments):
            self.n_expanded += 1
            return expand(*arguments)

        monkeypatch.setattr(launch, "expand", counting)

    def run(self, *overrides: str, config_dir: Path | None = None) -> int:
        loader = config_loader(None if config_dir is None else str(config_dir))
        target = (f"sweep.results={self.folder.root.parent}", "sweep.name=s")
        arguments = [*TINY, *overrides, *target]
        try:
            exit_if_finished(CheckedCommand(loader, "config", arguments))
        except SystemExit as end:
            return int(end.code)
        return run_command(loader, "config", arguments)

    def n_cells(self) -> int:
        return len(self.folder.plan.read_text().splitlines())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_the_same_command_builds_no_cells_and_prints_the_same(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.run("seed=0,1") == 0
    capsys.readouterr()
    site.folder.finished.rename(record := site.folder.root / "record")
    assert site.run("seed=0,1") == 0
    assert site.n_expanded == 2
    expected = capsys.readouterr().out
    assert site.folder.finished.read_bytes() == record.read_bytes()
    assert site.run("seed=0,1") == 0
    assert site.n_expanded == 2
    assert capsys.readouterr().out == expected
    assert "2 done, 0 missing" in expected


@pytest.mark.parametrize("change", ["seed=0,1,2", "sweep.mode=plan"])
def test_another_command_builds_its_cells(site: Site, change: str) -> None:
    assert site.run("seed=0,1") == 0
    assert site.run(*([] if change.startswith("seed") else ["seed=0,1"]), change) == 0
    assert site.n_expanded == 2


def test_another_code_version_builds_the_cells(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.run() == 0
    monkeypatch.setattr(finished, "code_version", lambda: "another")
    assert site.run() == 0
    assert site.n_expanded == 2


def test_a_changed_option_file_runs_its_new_cell(site: Site, tmp_path: Path) -> None:
    option = tmp_path / "conf" / "optim" / "mine.yaml"
    option.parent.mkdir(parents=True)
    for n_cells, lr in enumerate((0.1, 0.2), start=1):
        option.write_text(f"_target_: experiments.optim.Sgd\nlr: {lr}\n")
        cli._composed.cache_clear()  # the cache of one process
        assert site.run("optim=mine", config_dir=tmp_path / "conf") == 0
        assert site.n_cells() == n_cells


def test_a_damaged_table_runs_its_cells_again(site: Site) -> None:
    assert site.run() == 0
    (part,) = site.folder.table("curves").glob("*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert site.run() == 0
    assert site.n_expanded == 2
    assert list(site.folder.quarantine.rglob("*.parquet"))
    assert len(list(site.folder.table("curves").glob("*.parquet"))) == 1


def test_a_command_with_a_failed_cell_is_not_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_):
        raise ValueError("no luck")

    monkeypatch.setattr("experiments.training.in_place.InPlaceNetwork.step", fail)
    assert site.run() == 1
    assert not site.folder.finished.exists()


def test_cells_of_the_users_own_modules_are_always_built(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default in the user's module is part of the config."""
    module = tmp_path / "own_optim.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("from experiments.optim import Sgd\n\nclass Own(Sgd):\n    pass\n")
    assert site.run("optim._target_=own_optim.Own", "optim.lr=0.1") == 0
    assert not site.folder.finished.exists()
    assert site.run("optim._target_=own_optim.Own", "optim.lr=0.1") == 0
    assert site.n_expanded == 2
