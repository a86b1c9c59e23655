"""`run_sweep`: sweeps from Python."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import experiments.run
from analysis import load
from experiments import run_sweep
from experiments.config.catalog import config_loader
from experiments.python_api import to_overrides
from experiments.sweep.overrides import parse_arguments
from fanin.errors import ConfigError, FaninWarning

SMALL = {
    "data.n_train": 40,
    "data.n_test": 20,
    "train.steps": 2,
    "probe.draws": 1,
    "probe.size": 4,
    "runner": "inline",
}


@pytest.fixture
def small(tmp_path: Path) -> dict:
    return SMALL | {"sweep.results": str(tmp_path / "all results"), "sweep.name": "it's"}


def test_a_sweep_returns_a_folder_that_load_reads(small, tmp_path, capfd):
    folder = run_sweep(small | {"init": ["he_normal", "zeros"], "seed": range(2)})
    assert folder == tmp_path / "all results" / "it's"
    cells = load(folder).cells
    assert sorted(zip(cells["init"], cells["seed"], strict=True)) == [
        *(("he_normal", 0), ("he_normal", 1), ("zeros", 0), ("zeros", 1))
    ]
    assert "4 ok" in capfd.readouterr().out
    # The command line gives the same cells, so none runs again.
    overrides = to_overrides(small)
    assert run_sweep([*overrides, "init=he_normal,zeros", "seed=range(2)"]) == folder
    assert "4 done" in capfd.readouterr().out
    assert len(load(folder).cells) == 4


def test_quiet_prints_nothing(small, capfd):
    run_sweep(small, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_script_needs_no_main_guard(small, tmp_path):
    overrides = small | {"runner": "local"}
    script = tmp_path / "script.py"
    script.write_text(
        f"from experiments import run_sweep\nrun_sweep({overrides!r})\nprint('script ends')\n"
    )
    output = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(experiments.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    assert output.stdout.count("script ends") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"init": "he_norml"}, "init=he_norml: no such option; did you mean he_normal"),
        (["optim.lrr=1"], "optim.lrr: optim=sgd has no such key; did you mean lr"),
        ({"optim.lr": -1.0}, "optim.lr"),
        ({"init": []}, "init: no values; list one or more"),
        ("seed=1", "pass a list of texts or a dictionary"),
        ([3], "expected text such as 'seed=1', got 3"),
        ({"seed": object()}, "seed: object is not supported"),
    ],
)
def test_invalid_overrides_raise(small, overrides, message):
    if isinstance(overrides, dict):
        overrides = small | overrides
    with pytest.raises(ConfigError, match=message):
        run_sweep(overrides)


def test_failed_cells_are_a_warning(small, tmp_path):
    (tmp_path / "failing.py").write_text(
        "def scheme(weight, generator):\n    raise RuntimeError('no weights')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.warns(FaninWarning, match="Some cells of .* failed"):
            folder = run_sweep(small | {"init": "custom", "init._target_": "failing.scheme"})
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("failing", None)
    assert load(folder).cells.outcome.tolist() == ["error"]


def test_experiments_run_is_still_a_module():
    assert isinstance(experiments.run, ModuleType)
    assert callable(run_sweep)
    with pytest.raises(AttributeError, match="no attribute 'run_sweeps'"):
        _ = experiments.run_sweeps


@pytest.mark.parametrize(
    "value",
    [
        *(0, -3, 0.1, 1e-7, 1e300, float("inf"), True, False, None),
        *("he_normal", "a b", "it's", "a,b", "x=1", "", "true", "null", "1e3", "\\", "\\'"),
        *("/data/my files", [64, 64], ["a,b", "it's"], {"mean": 0.5, "std": 1}),
    ],
)
def test_values_survive_hydras_grammar(value):
    text = to_overrides({"optim.lr": [value]})[0]
    (argument,) = parse_arguments(config_loader(), [text])
    assert argument.values == (value,)
    assert type(argument.values[0]) is type(value)


def test_values_of_a_grid():
    assert to_overrides({"seed": np.arange(3)}) == ["seed=0,1,2"]
    assert to_overrides({"seed": (1, 2)}) == ["seed=1,2"]
    assert to_overrides({"optim.lr": np.float64(0.5)}) == ["optim.lr=0.5"]
    assert to_overrides({"data.root": Path("/a b")}) == ["data.root='/a b'"]
