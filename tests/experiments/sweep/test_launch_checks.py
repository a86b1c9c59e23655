"""Checks before a sweep runs, and the records of its launches."""

import yaml

from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

TINY = ("model=linear", "data.n_train=64", "train.steps=1", "probe=none", "runner=inline")


def run(tmp_path, *overrides: str) -> int:
    return run_command(config_loader(), "config", [*overrides, f"sweep.results={tmp_path}"])


def test_missing_data_is_reported_once_before_planning(tmp_path, capsys):
    arguments = ("data=mnist", f"data.root={tmp_path}/none", "data.download=false")
    assert run(tmp_path, *TINY, *arguments, "seed=range(3)", "sweep.name=s") == 2
    output = capsys.readouterr().err
    assert output.count("train-images-idx3-ubyte.gz") == 1
    assert "data.download" in output
    assert not (tmp_path / "s" / "cells.jsonl").exists()


def test_unknown_device_is_reported_before_planning(tmp_path, capsys):
    assert run(tmp_path, *TINY, "runner.device=tpu", "sweep.name=s") == 2
    assert "tpu" in capsys.readouterr().err
    assert not (tmp_path / "s" / "cells.jsonl").exists()


def test_sweep_yaml_records_each_launch_that_runs_cells(tmp_path):
    for seeds in ("0,1", "0", "0,1,2"):  # the second has nothing to do
        assert run(tmp_path, *TINY, f"seed={seeds}", "sweep.name=s") == 0
    launches = list(yaml.safe_load_all((tmp_path / "s" / "sweep.yaml").read_text()))
    assert [launch["cells"] for launch in launches] == [2, 3]
    assert all({"code", "versions", "machine", "diff"} <= launch.keys() for launch in launches)


def test_same_error_of_many_cells_is_reported_once(tmp_path, capsys, monkeypatch):
    (tmp_path / "broken_init.py").write_text(
        "def sample(weight, generator):\n    raise ValueError('no luck')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ("init=custom", "init._target_=broken_init.sample", "seed=range(4)", "sweep.name=s")
    assert run(tmp_path, *TINY, *arguments) == 1
    output = capsys.readouterr().out
    assert output.count("ValueError: no luck") == 2  # when it happens, and at the end
    assert "4 cells, for example" in output
