"""Tests of the study `alexnet_variance`: He's formula, uniform weights, normalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analysis import Results
from analysis.figures import alexnet_outputs, alexnet_variance, normalized_networks
from analysis.figures.alexnet_outputs import UniformAlexNet
from analysis.figures.alexnet_variance import visible_steps, waterfall
from analysis.figures.normalized_networks import NORM_LABELS, STYLES, Networks
from analysis.figures.study import ClaimResult
from analysis.settings import measured_settings
from fanin.errors import FaninError
from fanin.inits import HeNormal
from fanin.theory import explain
from fanin.theory.explain import Explanation

CRITERION = {"formula": 1.1, "theory": 1.1, "se": 3.5, "huge": 1e6}


def explain_small_cnn(*pool: nn.Module, side: int, padding_mode: str) -> Explanation:
    net = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1, padding_mode=padding_mode), nn.ReLU(), *pool),
        *(nn.Flatten(), nn.Linear(64 * side**2, 64), nn.ReLU(), nn.Linear(64, 200)),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bias = None
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return explain(net, images, HeNormal(), draws=60)


@pytest.fixture(scope="module")
def explanations() -> dict[str, Explanation]:
    """Explain one network for which He's formula holds and one for which it does not."""
    return {
        "plain": explain_small_cnn(side=8, padding_mode="circular"),
        "pooled": explain_small_cnn(nn.MaxPool2d(2), side=4, padding_mode="zeros"),
    }


def test_the_formula_is_called_false_only_if_it_is(explanations: dict[str, Explanation]) -> None:
    results = list(alexnet_variance._claim_results(explanations, CRITERION))
    formula, theory = results[::2], results[1::2]
    assert [result.holds for result in formula] == [False, True]
    assert "fc" not in formula[1].measured
    assert [result.holds for result in theory] == [True, True]


def test_a_wrong_theory_does_not_hold(explanations: dict[str, Explanation]) -> None:
    frame = explanations["pooled"].frame.copy()
    frame.loc[(frame.step == "rest") & (frame.layer == 2), "factor"] *= 2.0
    wrong = Explanation(frame, explanations["pooled"].ends, 60, "first_order")
    results = alexnet_variance._claim_results({"x": wrong}, CRITERION)
    assert [result.holds for result in results] == [True, False]


def test_the_waterfall_draws_the_visible_steps(explanations: dict[str, Explanation]) -> None:
    assert visible_steps([explanations["plain"]]) == ["width", "rest"]
    steps = visible_steps(list(explanations.values()))
    assert {"padding", "pooling", "width", "rest"} <= set(steps)
    assert not {"weight mean", "biases"} & set(steps)
    figure = waterfall(explanations)
    bars = [len(axis.patches) for axis in figure.axes]
    assert bars == [3 * len(steps)] * 2
    # The last bar of a layer ends at the measured value.
    axis, last = figure.axes[1], explanations["pooled"].ends
    end = axis.patches[-1]
    measured = last[last.quantity == "preact_m2"].measured.iloc[-1]
    low, high = end.get_y(), end.get_y() + end.get_height()
    assert min(abs(low / measured - 1), abs(high / measured - 1)) < 0.2


def uniform_alexnet(size: float, theory: float, se: float, norm: str = "none") -> UniformAlexNet:
    layers = {"layer": [1, 2], "layer_name": ["conv1", "fc1"], "draws": 8}
    moments = {"mean": [1.0, size**2], "theory": [1.0, theory**2]}
    table = pd.DataFrame(layers | moments | {"se": [0.0, se], "theory_se": [0.0, 0.0]})
    return UniformAlexNet("U(0, 1)", norm, table, draws=8, images=4, fan_in=256)


@pytest.mark.parametrize(
    ("size", "se", "agrees"),
    [(10.0, 0.0, True), (10.4, 0.0, True), (11.0, 0.0, False), (11.0, 15.0, True)],
)
def test_theory_agrees_within_a_factor_or_its_errors(size: float, se: float, agrees: bool) -> None:
    # In second moments: 10.4^2 is 1.08 times 10^2, 11^2 is 1.21 times; an se of 15 is 12 % of 121.
    assert uniform_alexnet(size, 10.0, se).agrees(1.1, 3.5) is agrees


def test_without_a_prediction_the_bound_decides() -> None:
    bound = (256**2 / 4 + 256 / 12) ** 0.5
    for size, holds in ((bound * 0.99, True), (bound * 1.01, False)):
        network = uniform_alexnet(size, np.nan, 0.0, "layer")
        assert alexnet_outputs._normalization_claim(network, 1.1, 3.5, 1e6).holds is holds
    network = uniform_alexnet(2e6, 2e6, 0.0, "batch")  # predicted correctly, but not small
    assert alexnet_outputs._normalization_claim(network, 1.1, 3.5, 1e6).holds is False


@pytest.mark.parametrize("mean_only", [1e5, 1e7])
def test_mean_subtraction_fails_if_outputs_stay_huge(mean_only: float) -> None:
    networks = []
    for init in alexnet_outputs.INITS.values():
        for norm in alexnet_outputs.STYLES:
            size = {"none": 1e9, "mean only": mean_only}.get(norm, 10.0)
            size = 10.0 if init == "U(-0.5, 0.5)" else size
            table = uniform_alexnet(size, size, 0.0, norm).table
            networks.append(UniformAlexNet(init, norm, table, 8, 4, 256))
    holds = [result.holds for result in alexnet_outputs.claim_results(networks, CRITERION)]
    assert holds[:2] == [mean_only > 1e6] * 2
    assert holds[2] is (mean_only / 10 > 1e6)


def normalized(trained: pd.DataFrame, moments: pd.DataFrame, act_means: pd.DataFrame) -> Networks:
    rest = {"seeds": 2, "learning_rates": (0.1,), "epochs": 1.0, "train_images": 1, "positions": 64}
    return Networks(trained, moments, act_means, **rest)


def trained(trains: Callable[[str, str], bool]) -> Networks:
    rows = [
        {"init": init, "model.norm": norm, "model.depth": depth, "model.width": 4}
        | {"accuracy": 0.9 if trains(norm, init) else 0.1, "diverged": False}
        for norm in NORM_LABELS
        for init in STYLES
        for depth in (3, 9)
    ]
    return normalized(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame())


def training_claims(networks: Networks) -> dict[str, ClaimResult]:
    results = normalized_networks._training_claims(networks, min_accuracy=0.5, min_gain=0.25)
    return {r.description.split(":")[0]: r for r in results if r.holds is not None}


def test_training_claims_count_trained_networks() -> None:
    results = training_claims(trained(lambda norm, init: norm == "batch" or init == "He"))
    assert results["batch normalization"].holds is True
    assert results["batch normalization"].measured == "4 of 4; without normalization 0 of 4"
    assert results["layer normalization"].holds is False
    assert results["means subtracted"].holds is True  # claimed not to help
    results = training_claims(trained(lambda norm, init: norm != "none"))
    assert results["means subtracted"].holds is False


def test_accuracy_is_that_of_the_best_learning_rate() -> None:
    kind = {"model.norm": "batch", "init": "He", "model.depth": 3, "model.width": 4}
    runs = pd.DataFrame(
        [
            kind | {"optim.lr": lr, "outcome": outcome, "test_accuracy": accuracy}
            for lr, outcome, accuracy in (
                *((0.1, "ok", 0.8), (0.1, "ok", 0.6)),  # higher mean than the next pair
                *((1.0, "ok", 1.0), (1.0, "diverged", np.nan)),
            )
        ]
    )
    (row,) = normalized_networks._best(runs).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.7)
    assert not row["diverged"]
    (row,) = normalized_networks._best(runs.assign(outcome="diverged")).to_dict("records")
    assert (row["accuracy"], row["diverged"]) == (0.1, True)


def test_a_draw_shared_by_cells_counts_once() -> None:
    kind = {"model.norm": "batch", "init": "He", "model.depth": 3, "model.width": 4}
    cells = pd.DataFrame([kind | {"cell_id": cell, "seed_weights": 0} for cell in "ab"])
    rows = {"image": -1, "layer": 1, "step": 0, "quantity": "act_m2"}
    layers = pd.DataFrame(
        [rows | {"cell_id": c, "draw": d, "value": float(d)} for c in "ab" for d in (0, 1)]
    )
    second = layers.assign(layer=2, value=layers["value"] + 1)
    draws = normalized_networks._draws(pd.concat([layers, second]), cells)
    rows = normalized_networks._mean_over_draws(draws, ["layer"])
    assert rows.draws.tolist() == [2, 2]
    assert rows.value.tolist() == [0.5, 1.5]
    by_network = normalized_networks._mean_over_layers(draws)
    (row,) = normalized_networks._mean_over_draws(by_network, ["init"]).to_dict("records")
    assert (row["draws"], row["value"], row["se"]) == (2, 1.0, 0.5)


def with_moment(value: float, changed_init: str) -> Networks:
    """Return networks with second moments of 1/2, except `value` for one init."""
    rows = [
        {"model.norm": norm, "init": init, "model.depth": 3, "model.width": 4, "layer": layer}
        | {"quantity": "act_m2", "se": 0.0, "draws": 8}
        | {"value": value if init == changed_init else 0.5}
        for norm in NORM_LABELS
        for init in STYLES
        for layer in (1, 2)
    ]
    table = pd.DataFrame(rows)
    return normalized(pd.DataFrame(), table, table[table.layer == 1])


@pytest.mark.parametrize("deviation", [0.0, 0.4])
def test_logits_depend_on_the_output_layer_alone(deviation: float) -> None:
    n = 64 * 4
    rows = [
        {"model.norm": norm, "init": "U(-1, 1)", "model.depth": depth, "model.width": 4}
        | {"layer": depth, "quantity": "preact_m2", "se": n / 60, "value": n / 6 * (1 + deviation)}
        for norm in NORM_LABELS
        for depth in (3, 9)
    ]
    networks = normalized(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame())
    results = normalized_networks._logit_claims(networks, se=3.5)
    assert [result.holds for result in results] == [deviation < 0.35] * 2


@pytest.mark.parametrize(
    ("value", "init", "holds"),
    [
        (0.5, "He", [True, True]),
        (0.56, "He", [False, True]),
        (0.44, "U(-1, 1)", [False, True]),
        (0.9, "U(0, 1)", [True, True]),
        (1.01, "U(0, 1)", [True, False]),
    ],
)
def test_moments_after_a_norm_are_compared_with_half_and_one(
    value: float, init: str, holds: list[bool]
) -> None:
    results = list(normalized_networks._moment_claims(with_moment(value, init), 1.1))
    assert [result.holds for result in results] == [None, None, *holds, *holds]


def test_an_unfinished_sweep_is_an_error(small: Results) -> None:
    criterion = {**CRITERION, "moment_factor": 1.1, "trained": 0.5, "more_trained": 0.25}
    for read in (
        lambda: alexnet_variance.study(small, criterion),
        lambda: alexnet_outputs.load_networks(small, measured_settings(small)),
        lambda: normalized_networks.load_networks(small),
    ):
        with pytest.raises(FaninError, match=str(small.folder.root)):
            read()
