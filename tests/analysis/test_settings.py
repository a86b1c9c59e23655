"""Tests of settings: cells that share a prediction, and their replicates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import Results
from analysis.settings import group_settings, initial_draws
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from experiments.sweep.store.plan_file import read_plan


@pytest.fixture
def records(small: Results) -> list[dict[str, Any]]:
    return list(read_plan(small.folder).values())


def test_cells_that_differ_in_training_are_one_setting(
    records: list[dict[str, Any]],
) -> None:
    settings = group_settings(records)
    assert len(records) == 80
    assert len(settings) == 20  # two networks, two activations, five inits
    assert all(len(setting.cell_ids) == 4 for setting in settings)
    assert {c for setting in settings for c in setting.cell_ids} == {c["cell_id"] for c in records}


def test_labels_are_unique_and_use_command_line_notation(
    records: list[dict[str, Any]],
) -> None:
    labels = [setting.label for setting in group_settings(records)]
    assert len(set(labels)) == len(labels)
    assert "plain depth=4 width=4 tanh uniform a=0.0 b=1.0" in labels
    assert not any("lr" in label or "seed" in label for label in labels)


def test_a_single_setting_is_labeled_all_cells(records: list[dict[str, Any]]) -> None:
    (setting,) = group_settings(records[:1])
    assert (setting.label, setting.axis_values) == ("all cells", {})
    assert group_settings([]) == []


def test_the_data_folder_does_not_split_a_setting(records: list[dict[str, Any]]) -> None:
    moved = copy.deepcopy(records[0])
    moved["cell_id"] = "the-other"
    moved["config"]["seed_weights"] = 7
    moved["config"]["data"]["root"] = moved["assignment"]["data.root"] = "/elsewhere"
    (setting,) = group_settings([records[0], moved])
    assert setting.label == "all cells"


def test_losses_are_different_settings(sweep: Callable[..., Results]) -> None:
    """Gradients differ, and for two classes bce has one logit, cross_entropy two."""
    results = sweep("binary", "data=shapes", "loss=bce,cross_entropy", "train.steps=0")
    labels = [comparison.setting.label for comparison in compare_to_theory(results)]
    assert labels == ["bce", "cross_entropy"]


def test_shared_draws_count_once_and_seeds_are_replicates(
    by_label: dict[str, TheoryComparison],
) -> None:
    draws = by_label["two_layer channels=4 relu he_normal"].draws
    first = draws[(draws.quantity == "preact_m2") & (draws.image == -1) & (draws.layer == 1)]
    assert sorted(zip(first.seed_weights, first.draw, strict=True)) == [
        (seed, draw) for seed in (0, 1) for draw in range(4)
    ]
    assert first.value.nunique() == len(first)
    assert first.cell_id.nunique() == 2  # of four cells, because the learning rates share draws


def test_cells_with_one_weight_seed_measure_the_same_draws(small: Results) -> None:
    """`initial_draws` relies on this."""
    layers = small.layers[small.layers.step == 0].merge(
        small.cells[["cell_id", "model", "activation", "init", "seed_weights", "optim.lr"]]
    )
    keys = ["model", "activation", "init", "seed_weights", "draw", "image", "layer", "quantity"]
    same = layers.groupby(keys, observed=True).value.agg(["nunique", "size"])
    assert (same["size"] == 2).all()
    assert (same["nunique"] <= 1).all()


def _tables(*cells: tuple[str, int, bool]) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.DataFrame(
        {"cell_id": [c for c, _, _ in cells], "seed_weights": [seed for _, seed, _ in cells]}
    )
    rows = [
        {"cell_id": cell, "draw": draw, "step": step, "value": 10.0 * seed + draw}
        for cell, seed, measured in cells
        if measured
        for draw in range(2)
        for step in (0, 5)
    ]
    columns = ["cell_id", "draw", "step", "value"]
    return table, pd.DataFrame(rows, columns=columns).astype({"cell_id": "category"})


def test_a_failed_cell_does_not_lose_the_draws_of_its_seed(records: list[dict[str, Any]]) -> None:
    (setting,) = group_settings([records[0] | {"cell_id": cell} for cell in "abc"])
    cells, layers = _tables(("a", 0, False), ("b", 0, True), ("c", 1, True))
    (draws,) = initial_draws([setting], cells, layers)
    assert draws.value.tolist() == [0.0, 1.0, 10.0, 11.0]
    assert set(draws.step) == {0}
    assert list(draws.cell_id.astype(str)) == ["b", "b", "c", "c"]


def test_an_unmeasured_setting_has_no_draws(records: list[dict[str, Any]]) -> None:
    first, second = records[0] | {"cell_id": "a"}, records[-1] | {"cell_id": "b"}
    cells, layers = _tables(("a", 0, False), ("b", 0, True))
    unmeasured, measured = initial_draws(group_settings([first, second]), cells, layers)
    assert unmeasured.empty
    assert measured.value.tolist() == [0.0, 1.0]
    assert list(unmeasured.columns) == list(measured.columns)


def test_a_second_launch_adds_seeds_to_a_setting(
    sweep: Callable[..., Results], tmp_path: Path
) -> None:
    sweep("twice", "seed=range(2)", "train.steps=0")
    results = sweep("twice", "seed=range(1,3)", "train.steps=0", f"data.root={tmp_path}")
    (comparison,) = compare_to_theory(results)
    assert len(comparison.setting.cell_ids) == 3
    seeds = comparison.draws.seed_weights
    assert comparison.draws.groupby(seeds).draw.nunique().to_dict() == {0: 4, 1: 4, 2: 4}
