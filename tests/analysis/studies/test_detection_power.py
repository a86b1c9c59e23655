"""Tests of the study of detection power, on a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.settings import Setting
from analysis.studies.detection_power import (
    Measured,
    detect,
    draw_moments,
    main,
    measure_setting,
    sweep_settings,
)
from analysis.studies.detection_tables import markdown
from analysis.studies.draws import measure_draws
from experiments.schema import build_cell
from fanin.errors import FaninError

DRAWS = 128
ERRORS = (0.0, 3.0)


@pytest.fixture(scope="module")
def measured(cell_config: Callable[..., dict[str, Any]]) -> Measured:
    config = cell_config(
        "model=two_layer", "init=he_normal", "data.side=8", "probe.size=1", "probe.images=[0]"
    )
    return measure_setting(Setting(config, "tiny", {}, ("tiny",)), ERRORS, DRAWS)


def log_moments(measured: Measured, error: float) -> pd.Series:
    draws = measured.comparisons[error].draws
    rows = draws[(draws.layer == measured.layer) & (draws.quantity == "preact_m2")]
    return np.log(rows.set_index("draw").value)


def test_the_variance_of_the_drawn_layer_is_wrong_and_the_prediction_is_not(
    measured: Measured,
) -> None:
    """Both have the same seeds, so the ratio of their moments is 1 + error in every draw."""
    difference = log_moments(measured, 3.0) - log_moments(measured, 0.0)
    assert np.allclose(difference, np.log(4.0), atol=1e-5)  # float32
    right, wrong = (measured.comparisons[error].predicted for error in ERRORS)
    assert right.equals(wrong)


def test_a_large_error_is_detected_at_its_layer_and_a_margin_above_it_hides_it(
    measured: Measured,
) -> None:
    """The log-moment has sd .35 or less (16 channels), so log 4 is 15 standard errors at n = 16."""
    detected = detect([measured], draws=[16, 128], margins=[1.1, 8.0])
    counts = detected.groupby(["error", "draws", "margin"]).size()
    assert counts[3.0, 16, 1.1] == 8  # disjoint batches of 16 in 128 draws
    rates = detected.groupby(["error", "draws", "margin"]).at_layer.mean()
    assert rates[3.0, 16, 1.1] == 1
    assert rates[3.0, 128, 1.1] == 1
    assert rates[3.0, 128, 8.0] == 0  # shown to lie within the margin
    assert not detected[detected.error == 0].at_layer.any()


def test_moments_are_those_of_the_probe(cell_config: Callable[..., dict[str, Any]]) -> None:
    cell = build_cell(cell_config("model=plain", "model.depth=3", "init=pytorch_default"))
    images = torch.rand(2, 1, 28, 28)
    network = cell.network()
    moments = draw_moments(network, cell.init, images, 3)
    complete = measure_draws(network, cell.init, images, 3)
    both = moments.merge(complete, on=["draw", "layer", "layer_name", "quantity"])
    assert len(both) == len(moments) == 3 * 3 * 3  # draws, layers, quantities
    assert both.value_x.equals(both.value_y)


def test_batches_are_disjoint(measured: Measured) -> None:
    first, second = (measured.batch(0.0, number, 64).draws.draw for number in (0, 1))
    assert set(first) == set(range(64))
    assert set(second) == set(range(64, 128))


def test_the_tables_give_rates_and_the_draws_at_which_they_are_reached(measured: Measured) -> None:
    detected = detect([measured], draws=[16, 128], margins=[1.1, 8.0])
    text = markdown(detected, ["tiny (conv1)"])
    assert "tiny (conv1)" in text
    assert "| 300% | 16 | 8 | 100% (100% to 100%)" in text
    assert "| 300% | 16 / 16 | - / - |" in text
    assert "| tiny | 300% | +300.0% | 100% (68% to 100%)" in text  # Wilson's interval of 8 of 8


def test_power_is_by_setting_and_disagreements_without_an_error_are_counted() -> None:
    """An error that is found in one of two settings is not one with a power of 50 %."""
    rows = [
        {"error": error, "draws": draws, "margin": 1.1, "setting": setting, "change": 1 + error,
         "at_layer": setting == "visible", "anywhere": setting == "visible" or number == alarm}
        for draws, alarm in ((16, None), (64, 2))
        for number in range(4 if draws == 64 else 1)
        for error, setting in ((0.0, ""), (0.1, "visible"), (0.1, "hidden"))
    ]  # fmt: skip
    text = markdown(pd.DataFrame(rows), ["visible (conv1)", "hidden (conv1)"])
    assert "disagrees in 0 of 1 sweeps with 16 draws and 1 of 4 sweeps with 64 draws" in text
    assert (
        "With margin 1.1 and 64 draws, an error of 10 % is found in every sweep of 1 setting and "
        "in no sweep of 1 setting (hidden)." in text
    )
    assert "| 10% | 64 | 8 | 50% (0% to 100%) |" in text
    assert "| 0% | 64 | 4 | 25% (5% to 70%) |" in text


def test_the_settings_are_those_of_the_demo() -> None:
    (setting,) = sweep_settings("he_vs_glorot", ["plain depth=10 relu he_normal"])
    assert setting.config["model"]["depth"] == 10
    with pytest.raises(FaninError, match="no setting 'nothing'"):
        sweep_settings("he_vs_glorot", ["nothing"])


def test_a_pool_smaller_than_the_largest_number_of_draws_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--pool", "10"])
    assert "--pool 10: must be at least" in capsys.readouterr().err
