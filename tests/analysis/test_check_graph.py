"""`fanin check` on a sweep of a residual network, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import load
from analysis.check.__main__ import main
from analysis.theory_comparison import compare_to_theory, layer_table
from analysis.verdicts import compute_verdicts
from experiments import run_sweep
from fanin.theory.finite_width.simulate import TARGET_LOG_SE

LAYERS = ["conv1", *(f"block{n}.branch.conv{i}" for n in (1, 2, 3) for i in (1, 2)), "fc1"]
WIDTH = 8


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep of two residual networks, measured at initialization."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_sweep(
            {
                **{"model": "resnet", "model.depth": 8, "model.width": WIDTH, "data.side": 8},
                **{"model.norm": ["none", "group"], "init": "he_normal", "train.steps": 0},
                **{"data.n_train": 100, "data.n_test": 100, "probe.draws": 32, "probe.size": 2},
                **{"probe.images": [[0]], "sweep.name": "residual", "runner": "inline"},
            },
            quiet=True,
        )


def test_every_weight_layer_is_predicted_forward_and_backward(sweep: Path) -> None:
    comparisons = compare_to_theory(load(sweep.name, sweep.parent))
    assert len(comparisons) == 2
    for comparison in comparisons:
        for quantity in ("preact_m2", "vjp_m2", "weight_vjp_m2"):
            table = layer_table(comparison, quantity, 0)
            assert table.layer_name.tolist() == LAYERS
            assert np.isfinite(table.field).all()
            # Drawn networks have independent seeds, and a standard error of 2 % at most.
            tolerance = 4 * np.hypot(table.se / table.measured, TARGET_LOG_SE)
            assert (np.abs(table["measured/finite_width"] - 1) < tolerance).all(), quantity
    verdicts = compute_verdicts(comparisons)
    assert not (verdicts.verdict == "disagrees").any()
    assert set(verdicts.method) == {"simulated"}


def test_the_command_says_that_predictions_are_simulated(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([sweep.name, "--results", str(sweep.parent)])  # exit status 0: no layer disagrees
    assert "simulated (networks drawn at random, so the" in capsys.readouterr().out
