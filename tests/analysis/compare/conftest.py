"""Fixture: a small real sweep with three seeds in which some cells diverge."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweep import run_sweep

from analysis import Results

SEEDED = """
fixed: {data.side: 8, probe.draws: 0, model.channels: 4, train.steps: 12, train.batch_size: 16}
grid:
  activation: [relu, tanh]
  init:
    - he_normal
    - {init: normal, init.std: 0.01}
    - {init: uniform, init.a: 0.0, init.b: 1.0}
  optim.lr: [0.1, 1.0, 1.0e+30]
  seed: range(3)
"""


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run 54 cells: two activations, three inits, three learning rates, three seeds."""
    root: Path = tmp_path_factory.mktemp("seeded")
    (root / "conf" / "sweep").mkdir(parents=True)
    (root / "conf" / "sweep" / "seeded.yaml").write_text(SEEDED)
    return run_sweep(root / "results", "seeded", "sweep=seeded", config_dir=root / "conf")
