"""The sizes of a named sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command
from experiments.sweep.grid import select_size
from fanin.errors import ConfigError

NAMED = {
    "fixed": {"train.steps": 1, "data.n_train": 20},
    "grid": {"seed": [0], "optim.lr": [0.1, 0.2]},
    "small": {"grid": {"optim.lr": [0.1]}},
    "paper": {"fixed": {"train.steps": 9}, "grid": {"seed": "range(5)"}},
}


def test_a_size_changes_only_named_keys() -> None:
    assert select_size(NAMED, "standard") == {key: NAMED[key] for key in ("fixed", "grid")}
    assert select_size(NAMED, "small") == {
        "fixed": NAMED["fixed"],
        "grid": {"seed": [0], "optim.lr": [0.1]},
    }
    assert select_size(NAMED, "paper") == {
        "fixed": {"train.steps": 9, "data.n_train": 20},
        "grid": {"seed": "range(5)", "optim.lr": [0.1, 0.2]},
    }


def test_paper_axis_replaces_it_in_every_grid() -> None:
    named = {"grid": [{"seed": [0]}, {"init": ["zeros"]}], "paper": {"grid": {"seed": [1, 2]}}}
    assert select_size(named, "paper")["grid"] == [{"seed": [1, 2]}, {"init": ["zeros"]}]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"grid": {"seed": [0]}}, "this sweep has only sweep.size=standard$"),
        ({"grid": {"seed": [0]}, "paper": {"grid": {"sed": [1]}}}, "did you mean seed"),
        ({"grid": {}, "paper": {"fixd": {}}}, "did you mean fixed"),
    ],
)
def test_invalid_size_is_refused(named: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_size(named, "paper")


def test_each_size_has_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    small = {"data.side": 8, "data.n_train": 20, "data.n_test": 20, "probe.draws": 0}
    about = {"question": "Why?", "source": "Somebody 2015", "scoring": {"seeds": 2}}
    named = (
        NAMED | about | {"diagnosis": {"a": "Too few steps."}, "fixed": {**NAMED["fixed"], **small}}
    )
    (tmp_path / "sweep" / "demo.yaml").write_text(yaml.safe_dump(named))
    loader = config_loader(str(tmp_path))
    base = ["sweep=demo", f"sweep.results={tmp_path / 'results'}", "runner=inline", "optim.lr=0.1"]
    assert run_command(loader, "config", base) == 0
    assert run_command(loader, "config", [*base, "sweep.size=paper"]) == 0
    assert run_command(loader, "config", [*base, "sweep.size=small"]) == 0
    for folder, size, cells in (
        *(("demo", "standard", 1), ("demo-small", "small", 1)),
        ("demo-paper", "paper", 5),
    ):
        launch = yaml.safe_load((tmp_path / "results" / folder / "sweep.yaml").read_text()[4:])
        assert (launch["sweep"], launch["size"], launch["cells"]) == ("demo", size, cells)
        assert {key: launch[key] for key in about} == about
