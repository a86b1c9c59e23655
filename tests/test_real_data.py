"""Sweeps on the full real files of MNIST and CIFAR-10, in the folder `FANIN_DATA`."""

import os

import pytest

from analysis import load
from analysis.theory_comparison import compare_to_theory
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(
        "FANIN_DATA" not in os.environ,
        reason="FANIN_DATA is not set (folder with MNIST and CIFAR-10)",
    ),
]


def run(tmp_path, *overrides: str) -> int:
    folders = [f"data.root={os.environ.get('FANIN_DATA')}", "data.download=false"]
    folders += [f"sweep.results={tmp_path}"]
    return run_command(config_loader(), "config", [*folders, *overrides])


def test_two_layer_reaches_95_percent_on_mnist_at_default_settings(tmp_path):
    assert run(tmp_path, "data=mnist", "sweep.name=mnist") == 0
    (cell,) = load("mnist", tmp_path).cells.itertuples()
    assert cell.outcome == "ok"
    assert cell.test_accuracy >= 0.95


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_the_demo_sweep_runs_on_full_real_data(data, tmp_path):
    assert run(tmp_path, "sweep=he_vs_glorot", f"data={data}", "seed=0", "optim.lr=0.1") == 0
    results = load("he_vs_glorot", tmp_path)
    assert len(results.cells) == 20
    assert set(results.cells.outcome) <= {"ok", "diverged"}
    comparisons = compare_to_theory(results)
    assert len(comparisons) == 20
    assert not any(comparison.predicted.empty for comparison in comparisons)
