"""Tests of the study `alexnet_variance`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_sweep import run_sweep

from analysis.figures.alexnet_variance import STUDY
from analysis.figures.alexnet_variance.cells import FORMULA, summarize

ALEXNET = ("data=digits", "data.side=16", "model=alexnet", "model.width=8", "model.dense=32")
PROBE = ("train.steps=0", "probe.draws=3", "probe.size=1", "probe.images=[]")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("alexnet")
    grid = ("init=he_normal,pytorch_default", "seed=range(2)")
    return summarize(run_sweep(folder, "s", *ALEXNET, *PROBE, *grid, small=["runner=inline"]))[
        "cells"
    ]


def test_the_formula_has_a_row_per_layer_in_both_directions(cells: pd.DataFrame) -> None:
    assert set(cells["part"]) == {FORMULA}
    assert len(cells) == 2 * 2 * 8
    columns = [f"{by}_{way}" for by in ("log", "he", "theory") for way in ("forward", "backward")]
    assert np.isfinite(cells[columns].to_numpy(float)).all()


def test_theory_and_formula_agree_in_the_first_layer_and_differ_in_the_last(
    cells: pd.DataFrame,
) -> None:
    default = cells[cells["init"] == "PyTorch default"]
    last = default[default["layer"] == 8]
    # The biases of the default init, which the formula ignores, dominate its last layer.
    assert (last["theory_forward"] - last["he_forward"] > 1).all()
    # Three draws of narrow layers: far less than a factor of 10.
    assert (last["log_forward"] - last["theory_forward"]).abs().max() < 1


@pytest.mark.parametrize(("shift", "gain"), [(0.0, 0.0), (5.0, 1.0)])
def test_the_effect_is_the_variance_that_only_theory_explains(shift: float, gain: float) -> None:
    measured = np.array([1.0, 2.0, 3.0])
    rows = {"seed": 0, "part": FORMULA, "log_forward": measured, "theory_forward": measured}
    cells = pd.DataFrame({**rows, "he_forward": measured + shift})
    assert STUDY.effects["theory_over_formula"](cells).tolist() == pytest.approx([gain])
