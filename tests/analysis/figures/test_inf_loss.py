"""When a loss stops being finite, predicted_share and read from the tables; by real small runs."""

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
def space() -> ConfigCatalog:
    return ConfigCatalog(config_loader(), "config")


def config_of(space: ConfigCatalog, *words: str) -> dict[str, Any]:
    arguments = parse_arguments(config_loader(), [*SMALL, *words])
    (cell,) = expand(space, parse_request(space, arguments).grids)
    return dict(cell.config)


def ran(config: dict[str, Any]) -> CellResult:
    return run_cell(config, torch.device("cpu"))


def measured(found: CellResult) -> list[float]:
    layers = pd.DataFrame(found.tables["layers"]).assign(cell_id="it")
    return first_bad_layers(layers).tolist()


def bad_step(found: CellResult) -> float:
    return float(bad_steps(pd.DataFrame([found.row])).iloc[0])


def test_a_gradient_that_overflows_spoils_the_loss_after_it() -> None:
    told = pd.DataFrame(
        [
            ("diverged", 3, "fc2"),
            ("diverged", 0, "loss"),
            ("diverged", 0, "grad of fc1.weight"),
            ("diverged", 2, "fc1.bias"),
            ("ok", None, None),
        ],
        columns=["outcome", "outcome_step", "outcome_tensor"],
    )
    steps = bad_steps(told)
    assert steps.tolist()[:4] == [3, 0, 1, 3]
    assert np.isnan(steps.iloc[4])


@pytest.mark.parametrize(
    "words",
    [
        # 128 units of N(0, 1): a factor of 8 a layer; 65504 is some 4 standard deviations at 5.
        ("init=normal", "init.std=1.0", "train.dtype=float16"),
        ("init=uniform", "train.dtype=float16"),
        ("init=normal", "init.std=1e7", "train.dtype=float32"),
    ],
)
def test_a_relu_net_overflows_in_the_layer_that_theory_names(
    space: ConfigCatalog, words: tuple[str, ...]
) -> None:
    config = config_of(space, *words)
    told, found = OverflowPredictor().predict(config), ran(config)
    assert measured(found) == [told.layer] * 3
    assert not told.is_finite
    assert bad_step(found) == 0
    assert found.row["outcome_tensor"] == f"fc{told.layer}"


def test_positive_weights_give_all_units_one_large_output(space: ConfigCatalog) -> None:
    # 784 pixels of U(0, 1) weights: some 32,600 in every unit, and within 2,000 of that.
    words = ("init=uniform", "train.dtype=float16", "scaling=unit", "scaling.scale=255.0")
    config = config_of(space, *words)
    assert OverflowPredictor().predict(config).layer == 2
    assert measured(ran(config)) == [2, 2, 2]


def test_saturation_swallows_a_hidden_layers_infinity(space: ConfigCatalog) -> None:
    words = ("init=normal", "init.std=1e4", "train.dtype=float16", "scaling.scale=100.0")
    config = config_of(space, *words, "activation=tanh", "init.layers.fc6.std=0.01")
    told, found = OverflowPredictor().predict(config), ran(config)
    assert told.layer == 1
    assert measured(found) == [1, 1, 1]
    assert told.is_finite
    assert bad_step(found) != 0
    with_relu = OverflowPredictor().predict(config | {"activation": config_of(space)["activation"]})
    assert not with_relu.is_finite


def test_an_input_beyond_the_dtype_is_foretold(space: ConfigCatalog) -> None:
    words = ("scaling=unit", "scaling.scale=1e6", "init=pytorch_default")
    half = config_of(space, *words, "train.dtype=float16")
    found = ran(half)
    assert OverflowPredictor().predict(half).layer == 0
    assert (bad_step(found), found.row["outcome_tensor"]) == (0, "input")
    assert OverflowPredictor().predict(config_of(space, *words)).layer is None


def test_what_overflows_nowhere_is_foretold_to(space: ConfigCatalog) -> None:
    config = config_of(space, "init=he_normal")
    told = OverflowPredictor().predict(config)
    assert (told.layer, told.he_layer, told.is_finite) == (None, None, True)
    assert np.isnan(measured(ran(config))).all()


def test_a_missing_value_shows_when_its_batch_comes(space: ConfigCatalog) -> None:
    spoilt = ("data.corrupt.kind=missing", "data.corrupt.share=0.016")
    steps = set()
    for seed in range(3):
        config = config_of(space, *spoilt, "scaling=unit", f"seed={seed}")
        told = first_nan_step(config)
        assert told == bad_step(ran(config))
        steps.add(told)
    assert len(steps) > 1  # one of 64 images, in one of 8 batches
    with_mean = config_of(space, *spoilt, "scaling=standardize")
    assert first_nan_step(with_mean) == 0
    assert first_nan_step(config_of(space)) is None


def test_where_float32_rounds_a_softmax_and_a_sigmoid() -> None:
    def label_of(gap: float) -> float:
        return float(torch.softmax(torch.tensor([gap, 0.0], dtype=torch.float32), 0)[1])

    near = 0.1  # the last numbers on this side of each limit are that near
    assert label_of(EXP_IS_0 - near) > 0
    assert label_of(EXP_IS_0 + near) == 0
    for limit, value in ((SIGMOID_IS_1, 1.0), (-SIGMOID_IS_0, 0.0)):
        outwards = near * np.sign(limit)
        assert float(torch.sigmoid(torch.tensor(limit - outwards, dtype=torch.float32))) != value
        assert float(torch.sigmoid(torch.tensor(limit + outwards, dtype=torch.float32))) == value


def test_chances_of_a_bad_loss_are_those_of_random_logits() -> None:
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
    # Its own sampling counts once an image: 20,000 draws of 10 logits.
    assert abs(softmax_underflows(sd * 6, images) - share) < 4 * error * (1 + images**0.5 / 2)


def test_a_square_overflows_at_half_the_exponent() -> None:
    assert overflows(squared=True)(1e20, 8) > 0.99
    assert overflows(squared=False)(1e20, 8) == 0
    assert overflows(squared=False)(1e40, 8) > 0.99


def test_a_part_that_has_not_run_is_named(tmp_path: Any) -> None:
    some = run_sweep(tmp_path, "some", "train.steps=0")
    with pytest.raises(FaninError, match="the part 'symmetry' of the sweep has not run yet"):
        part_cells(some, "symmetry")
