"""Fixtures: small real sweeps, run once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.theory_comparison import TheoryComparison, compare_to_theory

Sweep = Callable[..., Results]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return a function `sweep(name, *overrides)` that runs a small sweep in `tmp_path`."""
    return lambda name, *overrides: run_sweep(tmp_path, name, *overrides)


SWEEP_YAML = """
grid:
  model: [{model: two_layer, model.channels: 4}, {model: plain, model.depth: 4, model.width: 4}]
  activation: [relu, tanh]
  init:
    - he_normal
    - xavier_normal
    - {init: normal, init.std: 0.3}
    - {init: uniform, init.a: 0.0, init.b: 1.0}
    - lsuv
  optim.lr: [0.01, 0.1]
  seed: range(2)
"""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run 80 cells: two networks, two activations, five inits, two learning rates, two seeds."""
    root = tmp_path_factory.mktemp("small")
    (root / "conf" / "sweep").mkdir(parents=True)
    (root / "conf" / "sweep" / "small.yaml").write_text(SWEEP_YAML)
    return run_sweep(root / "results", "small", "sweep=small", config_dir=root / "conf")


@pytest.fixture(scope="session")
def small_results(small: Results) -> str:
    """Return the results folder of `small`, for command lines."""
    return str(small.folder.root.parent)


@pytest.fixture(scope="session")
def comparisons(small: Results) -> list[TheoryComparison]:
    """Return every setting of `small` with its prediction."""
    return compare_to_theory(small)


@pytest.fixture(scope="session")
def by_label(comparisons: list[TheoryComparison]) -> dict[str, TheoryComparison]:
    """Return the comparisons by label."""
    return {comparison.setting.label: comparison for comparison in comparisons}


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Probe a bias-free ReLU MLP of width 512 on digits, without training."""
    root = tmp_path_factory.mktemp("wide")
    network = ("model=mlp", "model.width=512", "model.depth=3", "activation=relu")
    probed = ("train.steps=0", "probe.draws=16", "data.side=28")
    run_sweep(root, "wide", *network, *probed, "init=he_normal")
    uniform = ("init=uniform", "init.a=0.0", "init.b=1.0")
    return run_sweep(root, "wide", *network, *probed, *uniform)
