"""Tests of suspects and remedies, on a small real sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_sweep import run_sweep

from analysis import Results
from analysis.figures.ablation import Combination, apply_change, combinations, measure_outputs
from experiments.config.catalog import CONF
from fanin.errors import FaninError

SWEEP = """
question: How large?
fixed: {train.steps: 3, model.channels: 2}
grid:
  - suspect: [{}, {init: normal, init.std: 1.0}, {optim.lr: 1.0e+30}]
    remedy: [{}, {clip: norm}]
    seed: range(2)
"""
CRITERION: dict[str, Any] = {
    "healthy": {"init": "he_normal", "optim.lr": 0.1, "clip": "none", "head": "none"},
    "suspects": {
        "none": {},
        "weights": {"init": "normal", "init.std": 1.0},
        "rate": {"optim.lr": 1e30},
    },
    "remedies": {
        "nothing": {},
        "He": {"init": "he_normal"},
        "clip": {"clip": "norm"},
        "tanh": {"head": "tanh"},
    },
}
# By suspect: the kind of each remedy, in the order of the criterion.
KINDS = {
    "none": ["distinct", "redundant", "distinct", "absent"],
    "weights": ["distinct", "reverted", "distinct", "absent"],
    "rate": ["distinct", "redundant", "distinct", "absent"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("ablation")
    (root / "conf" / "sweep").mkdir(parents=True)
    (root / "conf" / "sweep" / "suspects.yaml").write_text(SWEEP)
    small = ("data.side=7", "data.n_train=64", "data.n_test=40", "probe.size=4", "probe.draws=1")
    arguments = ("sweep=suspects", "probe.steps=[1,3]", "runner=inline")
    return run_sweep(root, "suspects", *arguments, config_dir=root / "conf", small=small)


def by_name(pairs: list[Combination]) -> dict[tuple[str, str], Combination]:
    return {(pair.suspect, pair.remedy): pair for pair in pairs}


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ({"init": "normal", "init.std": 1}, {"init": "zeros"}, {"init": "zeros"}),
        # A key that all options of the group share is kept.
        (
            {"clip": "none", "clip.factors.fc1": 3},
            {"clip": "norm"},
            {"clip": "norm", "clip.factors.fc1": 3},
        ),
        ({"optim.lr": 0.1}, {"optim.lr": 1.0}, {"optim.lr": 1.0}),
        ({"loss": "mse"}, {}, {"loss": "mse"}),
        # A group whose name is a prefix of another group's name.
        ({"train.dtype": "float16"}, {"tra": 1}, {"train.dtype": "float16", "tra": 1}),
    ],
)
def test_a_change_replaces_the_keys_of_the_previous_option(
    base: dict[str, Any], change: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert apply_change(base, change) == expected


def test_each_combination_has_its_cells_and_kind(results: Results) -> None:
    pairs = by_name(combinations(results, CRITERION))
    kinds = {
        suspect: [pairs[suspect, remedy].kind for remedy in CRITERION["remedies"]]
        for suspect in CRITERION["suspects"]
    }
    assert kinds == KINDS
    cells = results.cells.set_index("cell_id")
    clipped = cells.loc[list(pairs["weights", "clip"].cell_ids)]
    assert clipped["init"].tolist() == ["normal"] * 2
    assert clipped["clip"].tolist() == ["norm"] * 2
    assert sorted(clipped["seed"]) == [0, 1]
    assert pairs["weights", "He"].cell_ids == pairs["none", "nothing"].cell_ids
    assert pairs["none", "tanh"].cell_ids == ()


def test_overrides_replace_a_remedy_for_one_suspect(results: Results) -> None:
    other = {**CRITERION, "overrides": {"weights": {"He": {"clip": "norm"}}}}
    pairs = by_name(combinations(results, other))
    assert pairs["weights", "He"].kind == "distinct"
    assert pairs["weights", "He"].cell_ids == pairs["weights", "clip"].cell_ids


def test_a_cell_that_matches_no_suspect_is_an_error(results: Results) -> None:
    suspects = {name: CRITERION["suspects"][name] for name in ("none", "weights")}
    with pytest.raises(FaninError, match="matches no suspect and remedy"):
        # `healthy` still lists the learning rate, so it is one of the criterion's keys.
        combinations(results, {**CRITERION, "suspects": suspects})


def test_sizes_are_those_of_the_trained_network(results: Results) -> None:
    pairs, cells = by_name(combinations(results, CRITERION)), measure_outputs(results)
    layers = results.layers
    (cell, _) = pairs["weights", "clip"].cell_ids
    m2 = layers[
        (layers["cell_id"] == cell)
        & (layers["quantity"] == "preact_m2")
        & (layers["layer_name"] == "fc1")
        & (layers["image"] == -1)
    ].set_index("step")["value"]
    row: Mapping[Any, Any] = cells.loc[cell]
    assert sorted(m2.index) == [0, 1, 3]
    assert row["start"] == math.sqrt(m2[0])
    assert row["end"] == math.sqrt(m2[3])
    assert row["largest"] == math.sqrt(m2.max())
    # Without a head the network's outputs are the logits.
    assert row["output"] == row["end"]
    assert not row["has_head"]
    assert math.isnan(row["explained"])


def test_a_diverged_network_has_no_end(results: Results) -> None:
    pairs, cells = by_name(combinations(results, CRITERION)), measure_outputs(results)
    diverged = cells.loc[list(pairs["rate", "nothing"].cell_ids)]
    assert diverged["diverged"].all()
    assert diverged["end"].isna().all()
    assert (diverged["largest"] >= diverged["start"]).all()


def test_a_regression_is_scored_by_explained_variance(tmp_path: Path) -> None:
    data = ("data=gaussian", "data.image_side=6", "data.task=regression", "data.noise=0.5")
    small = ("data.train_size=64", "data.test_size=40", "probe.size=4", "probe.draws=1")
    training = ("loss=mse", "train.steps=2", "optim.lr=1e-3", "runner=inline")
    results = run_sweep(tmp_path, "regression", *data, *training, small=small)
    row = measure_outputs(results).iloc[0]
    # The variance of the targets is 1 + noise^2 = 1 + 0.5^2.
    assert row["explained"] == 1 - results.cells["test_loss"].iloc[0] / 1.25
    assert math.isnan(row["accuracy"])


def test_the_sweeps_claims_name_existing_suspects_and_remedies() -> None:
    text = (CONF / "sweep" / "large_outputs.yaml").read_text(encoding="utf-8")
    criterion = yaml.safe_load(text)["criterion"]
    suspects, remedies = set(criterion["suspects"]), set(criterion["remedies"])
    assert {*criterion["huge"], *criterion["cures"]} <= suspects
    assert {name for claimed in criterion["cures"].values() for name in claimed} <= remedies
    for suspect, other in criterion["overrides"].items():
        assert suspect in suspects
        assert set(other) <= remedies
    assert set(criterion["reference"]) <= suspects
    assert set(criterion["reference"].values()) <= remedies


def test_a_remedy_that_changes_nothing_is_redundant(results: Results) -> None:
    pairs = combinations(results, {**CRITERION, "remedies": {**CRITERION["remedies"], "He": {}}})
    assert {pair.kind for pair in pairs if pair.remedy == "He"} == {"redundant"}
