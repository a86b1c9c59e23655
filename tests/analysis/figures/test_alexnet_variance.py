"""He's formula for AlexNets, outputs in the millions, and normalized networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analysis import Results
from analysis.figures import alexnet_outputs, alexnet_variance, normalized_networks
from analysis.figures.alexnet_outputs import Outputs
from analysis.figures.alexnet_variance import steps_that_matter, waterfall
from analysis.figures.normalized_networks import NORMS, STYLES, Networks
from analysis.figures.study import ClaimResult
from analysis.settings import measured_settings
from fanin.errors import FaninError
from fanin.inits import HeNormal
from fanin.theory import explain
from fanin.theory.explain import Explanation

CRITERION = {"formula": 1.1, "theory": 1.1, "se": 3.5, "huge": 1e6}


def explained(*pool: nn.Module, side: int, padding_mode: str) -> Explanation:
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
def networks() -> dict[str, Explanation]:
    """One that the formula is made for, and one that it isn't."""
    return {
        "plain": explained(side=8, padding_mode="circular"),
        "pooled": explained(nn.MaxPool2d(2), side=4, padding_mode="zeros"),
    }


def test_the_formula_is_called_false_only_where_it_is(networks: dict[str, Explanation]) -> None:
    lines = list(alexnet_variance._claim_results(networks, CRITERION))
    formula, theory = lines[::2], lines[1::2]
    assert [line.holds for line in formula] == [False, True]
    assert "fc" not in formula[1].measured
    assert [line.holds for line in theory] == [True, True]


def test_a_theory_that_is_off_does_not_hold(networks: dict[str, Explanation]) -> None:
    wrong = networks["pooled"].frame.copy()
    wrong.loc[(wrong.step == "rest") & (wrong.layer == 2), "factor"] *= 2.0
    off = Explanation(wrong, networks["pooled"].ends, 60)
    assert [line.holds for line in alexnet_variance._claim_results({"x": off}, CRITERION)] == [
        True,
        False,
    ]


def test_a_waterfall_draws_the_steps_that_matter(networks: dict[str, Explanation]) -> None:
    assert steps_that_matter([networks["plain"]]) == ["width", "rest"]
    both = steps_that_matter(list(networks.values()))
    assert {"padding", "pooling", "width", "rest"} <= set(both)
    assert not {"weight mean", "biases"} & set(both)
    figure = waterfall(networks)
    bars = [len(axis.patches) for axis in figure.axes]
    assert bars == [3 * len(both)] * 2
    # The bars of a layer end where it was measured.
    axis, last = figure.axes[1], networks["pooled"].ends
    end = axis.patches[-1]
    measured = last[last.quantity == "preact_m2"].measured.iloc[-1]
    low, high = end.get_y(), end.get_y() + end.get_height()
    assert min(abs(low / measured - 1), abs(high / measured - 1)) < 0.2


def outputs(size: float, theory: float, se: float, norm: str = "none") -> Outputs:
    numbers = {"layer": [1, 2], "layer_name": ["conv1", "fc1"], "draws": 8}
    moments = {"mean": [1.0, size**2], "theory": [1.0, theory**2]}
    table = pd.DataFrame(numbers | moments | {"se": [0.0, se], "theory_se": [0.0, 0.0]})
    return Outputs("U(0, 1)", norm, table, draws=8, images=4, fan_in=256)


@pytest.mark.parametrize(
    ("size", "se", "agrees"),
    [(10.0, 0.0, True), (10.4, 0.0, True), (11.0, 0.0, False), (11.0, 15.0, True)],
)
def test_theory_agrees_within_a_factor_or_its_errors(size: float, se: float, agrees: bool) -> None:
    # Of second moments: 10.4^2 is 1.08 times 10^2, 11^2 1.21 times; an se of 15 is 12 % of 121.
    assert outputs(size, 10.0, se).agrees(1.1, 3.5) is agrees


def test_what_has_no_theory_is_held_against_the_bound() -> None:
    bound = (256**2 / 4 + 256 / 12) ** 0.5
    for size, holds in ((bound * 0.99, True), (bound * 1.01, False)):
        each = outputs(size, np.nan, 0.0, "layer")
        assert alexnet_outputs._normalized(each, 1.1, 3.5, 1e6).holds is holds
    each = outputs(2e6, 2e6, 0.0, "batch")  # as predicted, but not kept down
    assert alexnet_outputs._normalized(each, 1.1, 3.5, 1e6).holds is False


@pytest.mark.parametrize("kept", [1e5, 1e7])
def test_subtracting_means_fails_where_outputs_stay_huge(kept: float) -> None:
    found = []
    for init in alexnet_outputs.INITS.values():
        for norm in alexnet_outputs.STYLES:
            size = {"none": 1e9, "mean only": kept}.get(norm, 10.0)
            size = 10.0 if init == "U(-0.5, 0.5)" else size
            each = outputs(size, size, 0.0, norm)
            found.append(Outputs(init, norm, each.table, 8, 4, 256))
    holds = [line.holds for line in alexnet_outputs.claim_results(found, CRITERION)]
    assert holds[:2] == [kept > 1e6] * 2
    assert holds[2] is (kept / 10 > 1e6)


def plain(trained: pd.DataFrame, moments: pd.DataFrame, behind: pd.DataFrame) -> Networks:
    rest = {"seeds": 2, "rates": (0.1,), "epochs": 1.0, "images": 1, "positions": 64}
    return Networks(trained, moments, behind, **rest)


def trained(learns: Callable[[str, str], bool]) -> Networks:
    rows = [
        {"init": init, "model.norm": norm, "model.depth": depth, "model.width": 4}
        | {"accuracy": 0.9 if learns(norm, init) else 0.1, "diverged": False}
        for norm in NORMS
        for init in STYLES
        for depth in (3, 9)
    ]
    return plain(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame())


def claimed(found: Networks) -> dict[str, ClaimResult]:
    lines = normalized_networks._training(found, learns=0.5, more=0.25)
    return {line.description.split(":")[0]: line for line in lines if line.holds is not None}


def test_training_is_counted_by_what_learns() -> None:
    lines = claimed(trained(lambda norm, init: norm == "batch" or init == "He"))
    assert lines["batch normalization"].holds is True
    assert lines["batch normalization"].measured == "4 of 4; with nothing 0 of 4"
    assert lines["layer normalization"].holds is False
    assert lines["means subtracted"].holds is True  # it doesn't help, as the asker thought
    assert claimed(trained(lambda norm, init: norm != "none"))["means subtracted"].holds is False


def test_a_network_is_taken_at_its_best_learning_rate() -> None:
    kind = {"model.norm": "batch", "init": "He", "model.depth": 3, "model.width": 4}
    runs = pd.DataFrame(
        [
            kind | {"optim.lr": lr, "outcome": outcome, "test_accuracy": accuracy}
            for lr, outcome, accuracy in (
                *((0.1, "ok", 0.8), (0.1, "ok", 0.6)),  # on average better than
                *((1.0, "ok", 1.0), (1.0, "diverged", np.nan)),
            )
        ]
    )
    (row,) = normalized_networks._best(runs).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.7)
    assert not row["diverged"]
    (lost,) = normalized_networks._best(runs.assign(outcome="diverged")).to_dict("records")
    assert (lost["accuracy"], lost["diverged"]) == (0.1, True)


def test_draws_that_cells_share_count_once() -> None:
    kind = {"model.norm": "batch", "init": "He", "model.depth": 3, "model.width": 4}
    cells = pd.DataFrame([kind | {"cell_id": cell, "seed_weights": 0} for cell in "ab"])
    rows = {"image": -1, "layer": 1, "step": 0, "quantity": "act_m2"}
    layers = pd.DataFrame(
        [rows | {"cell_id": c, "draw": d, "value": float(d)} for c in "ab" for d in (0, 1)]
    )
    second = layers.assign(layer=2, value=layers["value"] + 1)
    draws = normalized_networks._draws(pd.concat([layers, second]), cells)
    rows = normalized_networks._over_draws(draws, ["layer"])
    assert rows.draws.tolist() == [2, 2]
    assert rows.value.tolist() == [0.5, 1.5]
    of_network = normalized_networks._of_network(draws)
    (row,) = normalized_networks._over_draws(of_network, ["init"]).to_dict("records")
    assert (row["draws"], row["value"], row["se"]) == (2, 1.0, 0.5)


def behind(value: float, init: str = "He") -> Networks:
    rows = [
        {"model.norm": norm, "init": each, "model.depth": 3, "model.width": 4, "layer": layer}
        | {"quantity": "act_m2", "se": 0.0, "draws": 8, "value": value if each == init else 0.5}
        for norm in NORMS
        for each in STYLES
        for layer in (1, 2)
    ]
    table = pd.DataFrame(rows)
    return plain(pd.DataFrame(), table, table[table.layer == 1])


@pytest.mark.parametrize("off", [0.0, 0.4])
def test_outputs_are_their_own_layers_alone(off: float) -> None:
    n = 64 * 4
    rows = [
        {"model.norm": norm, "init": "U(-1, 1)", "model.depth": depth, "model.width": 4}
        | {"layer": depth, "quantity": "preact_m2", "se": n / 60, "value": n / 6 * (1 + off)}
        for norm in NORMS
        for depth in (3, 9)
    ]
    lines = normalized_networks._logits(
        plain(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame()), se=3.5
    )
    assert [line.holds for line in lines] == [off < 0.35] * 2


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
def test_moments_behind_a_norm_are_held_against_half_and_one(
    value: float, init: str, holds: list[bool]
) -> None:
    lines = list(normalized_networks._moments(behind(value, init), 1.1))
    assert [line.holds for line in lines] == [None, None, *holds, *holds]


def test_a_sweep_that_has_not_ended_is_an_error(small: Results) -> None:
    criterion = {**CRITERION, "half": 1.1, "learns": 0.5, "more": 0.25}
    for read in (
        lambda: alexnet_variance.study(small, criterion),
        lambda: alexnet_outputs.outputs(small, measured_settings(small)),
        lambda: normalized_networks.networks(small),
    ):
        with pytest.raises(FaninError, match=str(small.folder.root)):
            read()
