"""Cells of `dying_relu` and their numbers, and one filter in closed form."""

from __future__ import annotations

from typing import get_args

import pandas as pd
import pytest
import torch
from small_sweep import run_sweep
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d

from analysis import Results
from analysis.figures.dying_relu import study
from analysis.figures.dying_relu.cells import (
    CROSS,
    Layer,
    SingleFilterTheory,
    SweepCells,
    _cell_table,
    patches_of,
)
from analysis.figures.dying_relu.claims import _window, killing_thresholds, reported
from experiments.clip import BiasGradient
from experiments.sweep.store.plan_file import read_plan
from experiments.training.loader import BatchOrder
from fanin.errors import FaninError

# The first grid alone is told from the others by what it keeps.
REPORT = (
    *("data=shapes", "data.train_size=2", "data.test_size=2", "data.side=8"),
    *("model=two_layer", "model.channels=1", "model.pool=false"),
    *("init=uniform", "init.a=0.0", "init.b=1.0", "init.bias={mean:0.5,std:0.2887}"),
    *("head=sigmoid", "loss=bce", "clip.bias=mean_of_weights", "train.batch_size=1"),
    *("probe.draws=1", "probe.size=2", "probe.images=[0,1]", "probe.layer_sharpness=true"),
    "probe.tensors=[weight,input_grad]",
)
RATES = "optim.lr=1e-6,1e-5,1e-4,1e-3,1.0"
SIDE = 6


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    where = tmp_path_factory.mktemp("dying")
    words = (RATES, "seed=range(3)", "scaling=raw", "train.steps=4", "probe.steps=[1,2,4]")
    return run_sweep(where, "s", *REPORT, *words, small=["runner=inline"])


@pytest.fixture(scope="module")
def runs(results: Results) -> SweepCells:
    configs = {name: line["config"] for name, line in read_plan(results.folder).items()}
    cells = results.cells.set_index("cell_id")
    return SweepCells(results, _cell_table(cells, results.layers, configs), configs)


def test_a_cell_is_looked_at_after_its_first_step_on_the_cross(runs: SweepCells) -> None:
    assert set(runs.cells["part"]) == {"report"}
    assert set(runs.cells["remedy"]) == {"none"}
    for cell_id, row in runs.cells.iterrows():
        labels = runs.labels(str(cell_id))
        first = int(BatchOrder(2, 1, int(row["seed_data"])).at(0))
        assert row["cross_step"] == (1 if labels[first] == CROSS else 2)
    assert set(runs.cells["cross_step"]) == {1, 2}  # both orders are among the seeds


def test_a_black_map_is_a_filter_that_sees_nothing(runs: SweepCells) -> None:
    for cell_id, row in runs.cells.iterrows():
        theory = runs.theory(str(cell_id))
        weight = runs.values(str(cell_id), "conv1", "weight", int(row["cross_step"]), -1)
        # The bias is not kept here; it moves as the mean of the weights does, from near 1/2.
        if row["optim.lr"] == 1.0:
            assert row["dead"]
            assert bool((theory.patches @ weight.flatten() < 0).all())
        elif row["optim.lr"] == 1e-6:
            assert not row["dead"]


def test_the_onset_lies_between_two_rates_and_by_the_predicted_one(runs: SweepCells) -> None:
    found = killing_thresholds(runs, runs.cells, ["scaling", "seed"])
    assert len(found) == 3
    assert (found["largest_alive"] < found["smallest_dead"]).all()
    assert (found["measured"] ** 2).tolist() == pytest.approx(
        (found["largest_alive"] * found["smallest_dead"]).tolist()
    )
    # Rates are a factor of 10 apart; the weights' scatter moves the onset by less than that.
    assert (found["predicted"] > found["largest_alive"] / 3).all()
    assert (found["predicted"] < found["smallest_dead"] * 3).all()


def test_onsets_beyond_the_rates_tried_are_told(runs: SweepCells) -> None:
    never = killing_thresholds(runs, runs.cells[runs.cells["optim.lr"] < 1e-5], ["scaling", "seed"])
    assert (never["smallest_dead"] == float("inf")).all()
    always = killing_thresholds(runs, runs.cells[runs.cells["optim.lr"] == 1.0], ["scaling", "seed"])
    assert (always["largest_alive"] == 0).all()


def test_the_reports_numbers_hold_only_where_they_are_measured(runs: SweepCells) -> None:
    fast = SweepCells(runs.results, runs.cells[runs.cells["optim.lr"] == 1.0], runs._configs)
    weights = [
        float(fast.values(str(name), "conv1", "weight", int(row["cross_step"]), -1).mean())
        for name, row in fast.cells.iterrows()
    ]
    asked = {"circle": [-12.0, -5.0], "cross": [1000.0, 2000.0], "factor": 2.0}
    black, both_correct, gradients, _ = reported(fast, {**asked, "filter": min(weights)})
    assert (black.holds, both_correct.holds, gradients.holds) == (True, True, False)
    _, wrong, *_ = reported(fast, {**asked, "filter": 10 * min(weights)})
    assert wrong.holds is False
    # What is there: large positive ones on the circle, none on the cross, where p is 0.
    turned = {"circle": [100.0, 5000.0], "cross": [-1.0, 0.5]}
    *_, gradients, _ = reported(fast, {**asked, **turned, "filter": min(weights)})
    assert gradients.holds is True


def test_what_was_not_kept_is_said(runs: SweepCells) -> None:
    with pytest.raises(FaninError, match=r"fc1 act at step 1 was not kept"):
        runs.values(str(runs.cells.index[0]), "fc1", "act", 1, 0)


def test_logistic_regression_is_steepest_at_one_half(runs: SweepCells) -> None:
    name = str(runs.cells.index[0])
    x = runs.theory(name).patches[:, :, 4::9].flatten(1)  # the middle taps: the images
    block = x.T @ x / 8
    assert runs.max_curvature(name) == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]))


def test_a_sweep_that_is_not_done_has_no_study(results: Results) -> None:
    with pytest.raises(FaninError, match="none of its cells of remedies is done yet"):
        study(results, {})


@pytest.mark.parametrize(
    ("both_correct", "words"),
    [
        ([0, 4, 4, 0], "2 of 4 (0.1 to 1)"),
        ([0, 0, 0, 4], "1 of 4 (10)"),
        ([0, 3, 1, 0], "none of 4, at best 3 of 4 runs (at 0.1)"),
        ([0, 0, 0, 0], "none of 4, and no run at any"),
    ],
)
def test_rates_that_work_in_words(both_correct: list[int], words: str) -> None:
    rates = [0.01, 0.1, 1.0, 10.0]
    assert _window(pd.Series(both_correct, rates), pd.Series([4] * 4, rates)) == words


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def logits(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return conv2d(x, w, b, padding=1).relu().flatten(1) @ v + c


def constant(x: Tensor, value: float, bias: float) -> list[Tensor]:
    like = {"dtype": torch.float64}
    n = x.shape[-1] ** 2
    sizes = ((1, 3, 3, 3), value), ((1,), bias), ((n,), value), ((), bias)
    return [torch.full(size, number, **like).requires_grad_() for size, number in sizes]


def test_patches_give_the_convolution() -> None:
    x, w = images(), torch.randn(1, 3, 3, 3, dtype=torch.float64)
    by_patches = patches_of(x, 3) @ w.flatten()
    torch.testing.assert_close(by_patches, conv2d(x, w, padding=1).flatten(1))


@pytest.mark.parametrize("rule", get_args(BiasGradient))
def test_the_killing_rate_is_where_weights_without_spread_go_black(rule: BiasGradient) -> None:
    """Weights of variance 0 are their mean, so the expectation is what happens."""
    x = images()
    weights = constant(x, 0.5, 0.3)
    rate = SingleFilterTheory(patches_of(x, 3), 0.5, 0.0, 0.3).killing_rate(
        torch.tensor([0.0, 1.0], dtype=torch.float64), rule
    )
    w, b, *_ = torch.autograd.grad(logits(x, *weights)[1], weights)
    b = {"own": b, "mean_of_weights": w.mean().reshape(1), "zero": torch.zeros_like(b)}[rule]
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        made = conv2d(x, *stepped, padding=1).relu()
        assert bool((made == 0).all()) is black


def test_a_step_of_both_images_kills_where_it_is_told_to() -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    theory = SingleFilterTheory(patches_of(x, 3), 0.05, 0.0, 0.1)
    rate = theory.killing_rate(theory.logit_gradients(y), "own")
    loss = binary_cross_entropy_with_logits(logits(x, *weights), y)
    w, b = torch.autograd.grad(loss, weights[:2])
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        assert bool((conv2d(x, *stepped, padding=1) <= 0).all()) is black


def test_a_step_that_brightens_a_map_kills_at_no_rate() -> None:
    theory = SingleFilterTheory(patches_of(images(), 3), 0.5, 0.0)
    logit_gradients = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    assert theory.killing_rate(logit_gradients, "mean_of_weights") == float("inf")


@pytest.mark.parametrize("layer", get_args(Layer))
def test_without_spread_a_curvature_is_the_hessians(layer: Layer) -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    place = {"filter": 0, "linear": 2}[layer]

    def loss(tensor: Tensor) -> Tensor:
        placed = [*weights[:place], tensor, *weights[place + 1 :]]
        return binary_cross_entropy_with_logits(logits(x, *placed), y)

    size = weights[place].numel()
    hessian = torch.autograd.functional.hessian(loss, weights[place]).reshape(size, size)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    told = SingleFilterTheory(patches_of(x, 3), 0.05, 0.0, 0.1).curvature(layer)
    assert told == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("layer", get_args(Layer))
def test_the_gram_matrix_is_the_mean_over_draws(layer: Layer) -> None:
    x, draws = images(), 4000
    theory = SingleFilterTheory(patches_of(x, 3), 0.5, 1 / 12)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(draws):
        w = torch.rand(27, generator=generator, dtype=torch.float64)
        v = torch.rand(SIDE**2, generator=generator, dtype=torch.float64)
        patches = theory.patches
        derivative = torch.einsum("iqk,q->ik", patches, v) if layer == "filter" else patches @ w
        found.append(derivative @ derivative.T)
    measured = torch.stack(found)
    error = measured.std(0) / draws**0.5
    # Five standard errors, of three numbers.
    assert ((measured.mean(0) - theory.derivative_gram(layer)).abs() < 5 * error).all()


def test_the_ratio_grows_with_the_positions_and_is_1_without_a_mean() -> None:
    x = torch.ones(1, 3, 40, 40)
    with_mean = SingleFilterTheory(patches_of(x, 3), 0.5, 0.0).curvature_ratio()
    # Constant images: positions / taps, but for the rim, whose patches hold zeros.
    assert with_mean == pytest.approx(1600 / 27, rel=0.1)
    assert SingleFilterTheory(patches_of(x, 3), 0.0, 1.0).curvature_ratio() == pytest.approx(1.0)
