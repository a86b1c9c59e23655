"""Tests of the study `inf_loss`: predicted and measured overflow in small real runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_sweep import run_sweep

from analysis.figures.inf_loss.claims import first_nan_step
from analysis.figures.inf_loss.overflow import (
    EXP_IS_0,
    SIGMOID_IS_0,
    SIGMOID_IS_1,
    OverflowPredictor,
    first_bad_layers,
    overflows,
    sigmoid_rounds,
    softmax_underflows,
)
from analysis.figures.inf_loss.parts import bad_steps, part_cells
from experiments.cell import run_cell
from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.result import CellResult
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from fanin.errors import FaninError

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
    assert (prediction.layer, prediction.he_layer, prediction.is_finite) == (None, None, True)
    assert np.isnan(measured(run(config))).all()


def test_a_missing_value_makes_the_loss_of_its_batch_nan(catalog: ConfigCatalog) -> None:
    missing = ("data.corrupt.kind=missing", "data.corrupt.share=0.016")
    steps = set()
    for seed in range(3):
        config = config_of(catalog, *missing, "scaling=unit", f"seed={seed}")
        prediction = first_nan_step(config)
        assert prediction == bad_step(run(config))
        steps.add(prediction)
    assert len(steps) > 1  # one of 64 images, in a batch that depends on the seed
    with_mean = config_of(catalog, *missing, "scaling=standardize")
    assert first_nan_step(with_mean) == 0
    assert first_nan_step(config_of(catalog)) is None


def test_limits_at_which_float32_rounds_softmax_and_sigmoid() -> None:
    def label_probability(gap: float) -> float:
        return float(torch.softmax(torch.tensor([gap, 0.0], dtype=torch.float32), 0)[1])

    margin = 0.1  # larger than the spacing of float32 at each limit
    assert label_probability(EXP_IS_0 - margin) > 0
    assert label_probability(EXP_IS_0 + margin) == 0
    for limit, value in ((SIGMOID_IS_1, 1.0), (-SIGMOID_IS_0, 0.0)):
        outwards = margin * np.sign(limit)
        assert float(torch.sigmoid(torch.tensor(limit - outwards, dtype=torch.float32))) != value
        assert float(torch.sigmoid(torch.tensor(limit + outwards, dtype=torch.float32))) == value


def test_failure_probabilities_agree_with_random_logits() -> None:
    draws, images, sd = 4000, 8, 6.0
    z = torch.randn(draws, images, 10, generator=torch.Generator().manual_seed(0)) * sd
    p = torch.sigmoid(z)
    share = float(((p == 0) | (p == 1)).flatten(1).any(1).double().mean())
    error = (share * (1 - share) / draws) ** 0.5
    assert 0.05 < share < 0.95
    assert abs(sigmoid_rounds(sd, images) - share) < 4 * error
    label_is_0 = torch.softmax(z * 6, -1)[..., 0] == 0
    share = float(label_is_0.any(1).double().mean())
    error = (share * (1 - share) / draws) ** 0.5
    assert 0.05 < share < 0.95
    # `softmax_underflows` samples too: 20,000 draws of 10 logits per image.
    assert abs(softmax_underflows(sd * 6, images) - share) < 4 * error * (1 + images**0.5 / 2)


def test_a_squared_logit_overflows_at_half_the_exponent() -> None:
    assert overflows(squared=True)(1e20, 8) > 0.99
    assert overflows(squared=False)(1e20, 8) == 0
    assert overflows(squared=False)(1e40, 8) > 0.99


def test_a_part_that_has_not_run_is_an_error(tmp_path: Any) -> None:
    results = run_sweep(tmp_path, "some", "train.steps=0")
    with pytest.raises(FaninError, match="the part 'symmetry' of the sweep has not run yet"):
        part_cells(results, "symmetry")
