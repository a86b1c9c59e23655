"""Tests of the study `inf_loss`: predicted and measured overflow in small real runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from grids import design

from analysis.figures.inf_loss import STUDY
from analysis.figures.inf_loss.cells import ONSET, SETTINGS, bad_steps, part
from analysis.figures.inf_loss.figures import caption, outcome
from analysis.figures.inf_loss.overflow import OverflowPredictor, first_bad_layers
from experiments.cell import run_cell
from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.result import CellResult
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request

N_SEEDS = 7
SMALL = (
    *("data.n_train=64", "data.n_test=20", "train.steps=8", "train.batch_size=8"),
    *("probe.draws=3", "probe.size=2", "probe.images=[]", "model=mlp", "model.depth=6"),
)


@pytest.fixture(scope="module")
def catalog() -> ConfigCatalog:
    return ConfigCatalog(config_loader(), "config")


def config_of(catalog: ConfigCatalog, *overrides: str) -> dict[str, Any]:
    arguments = parse_arguments(config_loader(), [*SMALL, *overrides])
    (cell,) = expand(catalog, parse_request(catalog, arguments).grids)
    return dict(cell.config)


def run(config: dict[str, Any]) -> CellResult:
    return run_cell(config, torch.device("cpu"))


def measured(result: CellResult) -> list[float]:
    layers = pd.DataFrame(result.tables["layers"]).assign(cell_id="it")
    return first_bad_layers(layers).tolist()


def bad_step(result: CellResult) -> float:
    return float(bad_steps(pd.DataFrame([result.row])).iloc[0])


def test_an_overflowing_gradient_makes_the_next_loss_bad() -> None:
    cells = pd.DataFrame(
        [
            ("diverged", 3, "fc2"),
            ("diverged", 0, "loss"),
            ("diverged", 0, "grad of fc1.weight"),
            ("diverged", 2, "fc1.bias"),
            ("ok", None, None),
        ],
        columns=["outcome", "outcome_step", "outcome_tensor"],
    )
    steps = bad_steps(cells)
    assert steps.tolist()[:4] == [3, 0, 1, 3]
    assert np.isnan(steps.iloc[4])


@pytest.mark.parametrize(
    "overrides",
    [
        # N(0, 1) in 128 units: a factor of 8 per layer; 65504 is 4 standard deviations in layer 5.
        ("init=normal", "init.std=1.0", "train.dtype=float16"),
        ("init=uniform", "train.dtype=float16"),
        ("init=normal", "init.std=1e7", "train.dtype=float32"),
    ],
)
def test_a_relu_network_overflows_in_the_predicted_layer(
    catalog: ConfigCatalog, overrides: tuple[str, ...]
) -> None:
    config = config_of(catalog, *overrides)
    prediction, result = OverflowPredictor().predict(config), run(config)
    assert measured(result) == [prediction.layer] * 3
    assert not prediction.is_finite
    assert bad_step(result) == 0
    assert result.row["outcome_tensor"] == f"fc{prediction.layer}"


def test_weights_with_a_mean_overflow_in_the_predicted_layer(catalog: ConfigCatalog) -> None:
    # 784 pixels and U(0, 1) weights: about 32,600 in every unit, with a spread below 2,000.
    overrides = ("init=uniform", "train.dtype=float16", "scaling=unit", "scaling.scale=255.0")
    config = config_of(catalog, *overrides)
    assert OverflowPredictor().predict(config).layer == 2
    assert measured(run(config)) == [2, 2, 2]


def test_a_saturating_activation_keeps_the_loss_finite(catalog: ConfigCatalog) -> None:
    overrides = ("init=normal", "init.std=1e4", "train.dtype=float16", "scaling.scale=100.0")
    config = config_of(catalog, *overrides, "activation=tanh", "init.layers.fc6.std=0.01")
    prediction, result = OverflowPredictor().predict(config), run(config)
    assert prediction.layer == 1
    assert measured(result) == [1, 1, 1]
    assert prediction.is_finite
    assert bad_step(result) != 0
    with_relu = OverflowPredictor().predict(
        config | {"activation": config_of(catalog)["activation"]}
    )
    assert not with_relu.is_finite


def test_an_overflowing_input_is_predicted(catalog: ConfigCatalog) -> None:
    overrides = ("scaling=unit", "scaling.scale=1e6", "init=pytorch_default")
    half = config_of(catalog, *overrides, "train.dtype=float16")
    result = run(half)
    assert OverflowPredictor().predict(half).layer == 0
    assert (bad_step(result), result.row["outcome_tensor"]) == (0, "input")
    assert OverflowPredictor().predict(config_of(catalog, *overrides)).layer is None


def test_no_overflow_is_predicted_for_a_he_init(catalog: ConfigCatalog) -> None:
    config = config_of(catalog, "init=he_normal")
    prediction = OverflowPredictor().predict(config)
    assert (prediction.layer, prediction.is_finite) == (None, True)
    assert np.isnan(measured(run(config))).all()


def test_every_part_of_the_grid_is_recognized() -> None:
    rows = design("inf_loss").to_dict("records")
    counts = pd.Series([part({str(k): v for k, v in row.items()}) for row in rows]).value_counts()
    assert counts.to_dict() == {
        "settings": 2 * 2 * 6 * 5 * 2 * N_SEEDS,
        "inits": (2 * 3 * 3 + 3 * 3) * N_SEEDS,
        "features": 2 * 2 * 4 * N_SEEDS,
        "onset of divergence": (2 * 15 + 11 + 11) * N_SEEDS,
        "losses": 5 * 5 * N_SEEDS,
        "clipping": 2 * 3 * 2 * N_SEEDS,
        "missing values": 2 * N_SEEDS,
        "equal units": 2 * N_SEEDS,
        "zero image": 2 * N_SEEDS,
    }


def regressions(onsets: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Return a seed's regressions at rates a factor of 1.1 apart, by inputs and activation."""
    rows = [
        {"inputs": inputs, "activation": activation, "lr_times_curvature": x, "bad": x > onset}
        for (inputs, activation), onset in onsets.items()
        for x in 1.1 ** np.arange(-10, 60)
    ]
    return pd.DataFrame(rows).assign(seed=0, part=ONSET, bad=lambda rows: rows["bad"].astype(float))


def test_the_onset_of_divergence_is_measured_in_units_of_the_stable_rate() -> None:
    cells = regressions(
        {("standardized", "tanh"): 4, ("standardized", "relu"): 8, ("raw", "tanh"): 64}
    )
    half_step = np.log2(1.1) / 2
    assert STUDY.effects["least_onset"](cells)[0] == pytest.approx(1, abs=half_step)
    assert STUDY.effects["greatest_onset"](cells)[0] == pytest.approx(2, abs=half_step)


@pytest.mark.parametrize("onset", [0.1, 1000.0])
def test_an_onset_outside_the_rates_has_no_value(onset: float) -> None:
    cells = regressions({("standardized", "tanh"): 4, ("standardized", "relu"): onset})
    assert np.isnan(STUDY.effects["least_onset"](cells)[0])
    assert np.isnan(STUDY.effects["greatest_onset"](cells)[0])


def test_wrong_onsets_lie_on_the_wrong_side_of_the_claims() -> None:
    cells = regressions({("standardized", "tanh"): 3, ("standardized", "relu"): 6})
    early, late = (STUDY.null_models[f"onset at {x} / lambda_0"](cells) for x in (1, 16))
    assert STUDY.effects["least_onset"](early)[0] == pytest.approx(-1, abs=0.1)
    assert STUDY.effects["greatest_onset"](late)[0] == pytest.approx(3, abs=0.1)


def test_the_caption_counts_the_plotted_networks() -> None:
    settings = pd.DataFrame(
        {
            "seed": 0,
            "part": SETTINGS,
            "layer_predicted": [0.0, 0.0, 3.0, np.nan, 3.0, 5.0],
            "first_layer": [np.nan, np.nan, 3.0, np.nan, 4.0, np.nan],
        }
    )
    text = caption({"cells": settings})
    assert "(n = 4 networks; equal in 2, one layer apart in 1)" in text


@pytest.mark.parametrize(
    ("first", "bad", "expected"),
    [
        ([1, 1, 0], [1, 1, 1], "first loss"),
        ([0, 0, 1], [1, 1, 1], "a later loss"),
        ([0, 0, 0], [1, 0, 0], "no loss"),
    ],
)
def test_the_map_shows_the_most_frequent_outcome(
    first: list[int], bad: list[int], expected: str
) -> None:
    assert outcome(pd.DataFrame({"bad_first": first, "bad": bad})) == expected
