"""What is compared, tuned and grouped, on small real sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.compare.spec import ComparisonSpec
from analysis.compare.trials import trials
from fanin.errors import FaninError

TINY = (
    *("data.side=8", "model.channels=1", "train.steps=1", "train.batch_size=8", "probe=none"),
    *("runner=inline", "seed=range(3)"),
)
Sweep = Callable[..., Results]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Run a tiny sweep, or more cells of the same one."""
    return lambda *words: run_sweep(tmp_path, "tiny", *words, small=TINY)


def of(results: Results, column: str, question: ComparisonSpec | None = None) -> list[str]:
    return list(dict.fromkeys(trials(results, question or ComparisonSpec())[column]))


def test_a_number_is_one_value_however_it_was_typed(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    found = trials(sweep("init=he_normal", "init.gain=1.0,2.0", "seed=3,4"), ComparisonSpec())
    assert found.groupby("strategy")["seed"].nunique().to_dict() == {"gain=1": 5, "gain=2": 5}


def test_what_is_probed_makes_no_setting(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    found = trials(results, ComparisonSpec())
    assert len(found) == 6
    assert found["setting"].nunique() == 1
    assert of(results, "group", ComparisonSpec(within=("probe",))) == ["draws=0", "draws=1"]


def test_data_without_classes_have_no_accuracy_and_that_is_said(sweep: Sweep) -> None:
    real = ("data=gaussian", "data.task=regression", "data.image_side=8", "loss=mse")
    small = [text for text in TINY if text != "data.side=8"]
    root = sweep("init=zeros,he_normal").folder.root.parent
    results = run_sweep(root, "real", "init=zeros,he_normal", *real, small=small)
    with pytest.raises(FaninError, match="these data have no classes; --metric test_loss"):
        trials(results, ComparisonSpec())
    assert not trials(results, ComparisonSpec(metric="test_loss"))["diverged"].any()


def test_an_option_that_nobody_gave_a_value_is_tuned_at_its_default(sweep: Sweep) -> None:
    sweep("init=zeros,he_normal", "optim=sgd", "optim.lr=0.1,0.2")
    results = sweep("init=zeros,he_normal", "optim=adam")
    found = trials(results, ComparisonSpec(within=("optim",)))
    assert set(found.loc[found["group"] == "adam", "tuned"]) == {0.001}
    assert of(results, "group", ComparisonSpec(within=("optim",))) == ["sgd", "adam"]


def test_the_narrower_axis_has_the_key(sweep: Sweep) -> None:
    results = sweep("init=he_normal,xavier_normal", "init.gain=1,2")
    gains = ComparisonSpec(by="init.gain", within=("init",))
    assert of(results, "strategy", gains) == ["gain=1", "gain=2"]
    assert of(results, "group", gains) == ["he_normal", "xavier_normal"]
    inits = ComparisonSpec(by="init", within=("init.gain",))
    assert of(results, "strategy", inits) == ["he_normal", "xavier_normal"]
    assert of(results, "group", inits) == ["gain=1", "gain=2"]


def test_an_option_without_the_key_is_named_so(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    results = sweep("init=zeros")
    question = ComparisonSpec(by="init.gain", within=("init",))
    assert of(results, "strategy", question) == ["gain=1", "gain=2", "without gain"]


def test_nothing_is_left_of_an_axis_that_is_tuned(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "optim.lr=0.1,0.2")
    with pytest.raises(FaninError, match=r"optim: nothing but what is tuned .* --tune none"):
        trials(results, ComparisonSpec(by="optim"))


def test_losses_of_different_kinds_are_not_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "loss=cross_entropy,mse")
    assert of(results, "strategy", ComparisonSpec(by="loss")) == ["cross_entropy", "mse"]
    with pytest.raises(FaninError, match="--metric test_accuracy"):
        trials(results, ComparisonSpec(by="loss", metric="test_loss"))


def test_an_init_that_cannot_be_imported_here_is_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros")
    cells = results.folder.root / "cells.jsonl"
    cells.write_text(cells.read_text().replace("fanin.inits.HeNormal", "gone.Mine"))
    assert len(trials(results, ComparisonSpec())) == 6


def test_a_replicate_is_the_seeds_of_weights_and_batches_together(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "seed=0", "seed_weights=0,1", "seed_data=0,1")
    assert trials(results, ComparisonSpec())["seed"].nunique() == 4


def test_a_cell_that_was_only_probed_is_no_trial_that_ended(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "train.steps=0,1", "seed=0")
    found = trials(results, ComparisonSpec(within=("train",)))
    assert found.groupby("group")["done"].all().to_dict() == {"steps=0": False, "steps=1": True}


def test_of_cells_that_differ_in_their_probe_the_one_that_ended_counts(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    first = results.cells["cell_id"].isin(trials(results, ComparisonSpec()).index)
    assert first.sum() == 6
    found = trials(dataclasses.replace(results, cells=results.cells[~first]), ComparisonSpec())
    assert len(found) == 6
    assert found["done"].all()
