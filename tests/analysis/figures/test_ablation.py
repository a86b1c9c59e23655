"""A matrix of suspects and remedies, from a small real sweep of its own."""

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
# Of a later remedy: what the row's suspect has in place, and what takes it away.
KINDS = {
    "none": ["own", "in place", "own", "none"],
    "weights": ["own", "undone", "own", "none"],
    "rate": ["own", "in place", "own", "none"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("ablation")
    (root / "conf" / "sweep").mkdir(parents=True)
    (root / "conf" / "sweep" / "suspects.yaml").write_text(SWEEP)
    small = ("data.side=7", "data.n_train=64", "data.n_test=40", "probe.size=4", "probe.draws=1")
    words = ("sweep=suspects", "probe.steps=[1,3]", "runner=inline")
    return run_sweep(root, "suspects", *words, config_dir=root / "conf", small=small)


def by_name(found: list[Combination]) -> dict[tuple[str, str], Combination]:
    return {(field.suspect, field.remedy): field for field in found}


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ({"init": "normal", "init.std": 1}, {"init": "zeros"}, {"init": "zeros"}),
        # A key that all options of the group share outlives the option.
        (
            {"clip": "none", "clip.factors.fc1": 3},
            {"clip": "norm"},
            {"clip": "norm", "clip.factors.fc1": 3},
        ),
        ({"optim.lr": 0.1}, {"optim.lr": 1.0}, {"optim.lr": 1.0}),
        ({"loss": "mse"}, {}, {"loss": "mse"}),
        # A name that only begins like the group's.
        ({"train.dtype": "float16"}, {"tra": 1}, {"train.dtype": "float16", "tra": 1}),
    ],
)
def test_a_change_is_made_as_options_are_composed(
    base: dict[str, Any], change: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert apply_change(base, change) == expected


def test_each_field_has_its_cells_and_says_whose_they_are(results: Results) -> None:
    found = by_name(combinations(results, CRITERION))
    kinds = {
        suspect: [found[suspect, remedy].kind for remedy in CRITERION["remedies"]]
        for suspect in CRITERION["suspects"]
    }
    assert kinds == KINDS
    cells = results.cells.set_index("cell_id")
    clipped = cells.loc[list(found["weights", "clip"].cell_ids)]
    assert clipped["init"].tolist() == ["normal"] * 2
    assert clipped["clip"].tolist() == ["norm"] * 2
    assert sorted(clipped["seed"]) == [0, 1]
    assert found["weights", "He"].cell_ids == found["none", "nothing"].cell_ids
    assert found["none", "tanh"].cell_ids == ()


def test_a_remedy_may_mean_something_else_for_a_suspect(results: Results) -> None:
    other = {**CRITERION, "overrides": {"weights": {"He": {"clip": "norm"}}}}
    found = by_name(combinations(results, other))
    assert found["weights", "He"].kind == "own"
    assert found["weights", "He"].cell_ids == found["weights", "clip"].cell_ids


def test_a_cell_that_no_suspect_explains_is_an_error(results: Results) -> None:
    suspects = {name: CRITERION["suspects"][name] for name in ("none", "weights")}
    with pytest.raises(FaninError, match="none of the criterion's suspects"):
        # The learning rate is still a key that the criterion knows, through `healthy`.
        combinations(results, {**CRITERION, "suspects": suspects})


def test_sizes_are_of_the_network_that_trains(results: Results) -> None:
    found, cells = by_name(combinations(results, CRITERION)), measure_outputs(results)
    layers = results.layers
    (cell, _) = found["weights", "clip"].cell_ids
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
    # Without a head what is handed out are the logits.
    assert row["handed_out"] == row["end"]
    assert not row["headed"]
    assert math.isnan(row["explained"])


def test_a_network_that_diverged_has_no_end(results: Results) -> None:
    found, cells = by_name(combinations(results, CRITERION)), measure_outputs(results)
    gone = cells.loc[list(found["rate", "nothing"].cell_ids)]
    assert gone["diverged"].all()
    assert gone["end"].isna().all()
    assert (gone["largest"] >= gone["start"]).all()


def test_of_a_regression_the_explained_variance_counts(tmp_path: Path) -> None:
    words = ("data=gaussian", "data.image_side=6", "data.task=regression", "data.noise=0.5")
    small = ("data.train_size=64", "data.test_size=40", "probe.size=4", "probe.draws=1")
    more = ("loss=mse", "train.steps=2", "optim.lr=1e-3", "runner=inline")
    found = run_sweep(tmp_path, "regression", *words, *more, small=small)
    row = measure_outputs(found).iloc[0]
    # The target's variance is 1 + 0.5^2, by the data's own words.
    assert row["explained"] == 1 - found.cells["test_loss"].iloc[0] / 1.25
    assert math.isnan(row["accuracy"])


def test_every_claim_of_the_sweep_names_its_suspects_and_remedies() -> None:
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


def test_a_remedy_that_changes_nothing_is_in_place(results: Results) -> None:
    found = combinations(results, {**CRITERION, "remedies": {**CRITERION["remedies"], "He": {}}})
    assert {field.kind for field in found if field.remedy == "He"} == {"in place"}
