"""Tests of the study `dying_relu` and of its closed-form theory of one filter."""

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
from analysis.figures.dying_relu.claims import _working_rates, killing_thresholds
from analysis.figures.dying_relu.report_claims import report_claims
from experiments.clip import BiasGradient
from experiments.sweep.store.plan_file import read_plan
from experiments.training.loader import BatchOrder
from fanin.errors import FaninError

# `probe.tensors` marks these cells as the part "report".
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
    folder = tmp_path_factory.mktemp("dying")
    grid = (RATES, "seed=range(3)", "scaling=raw", "train.steps=4", "probe.steps=[1,2,4]")
    return run_sweep(folder, "s", *REPORT, *grid, small=["runner=inline"])


@pytest.fixture(scope="module")
def sweep(results: Results) -> SweepCells:
    configs = {name: record["config"] for name, record in read_plan(results.folder).items()}
    cells = results.cells.set_index("cell_id")
    return SweepCells(results, _cell_table(cells, results.layers, configs), configs)


def test_cross_step_is_the_first_step_on_the_cross(sweep: SweepCells) -> None:
    assert set(sweep.table["part"]) == {"report"}
    assert set(sweep.table["remedy"]) == {"none"}
    for cell_id, row in sweep.table.iterrows():
        labels = sweep.labels(str(cell_id))
        first = int(BatchOrder(2, 1, int(row["seed_data"])).at(0))
        assert row["cross_step"] == (1 if labels[first] == CROSS else 2)
    assert set(sweep.table["cross_step"]) == {1, 2}  # the seeds include both orders of the images


def test_a_dead_map_has_negative_preactivations(sweep: SweepCells) -> None:
    for cell_id, row in sweep.table.iterrows():
        theory = sweep.theory(str(cell_id))
        weight = sweep.tensor(str(cell_id), "conv1", "weight", int(row["cross_step"]), -1)
        # The bias is not saved here; it changes by the mean change of the weights, from about 1/2.
        if row["optim.lr"] == 1.0:
            assert row["dead"]
            assert bool((theory.patches @ weight.flatten() < 0).all())
        elif row["optim.lr"] == 1e-6:
            assert not row["dead"]


def test_the_killing_threshold_agrees_with_its_prediction(sweep: SweepCells) -> None:
    thresholds = killing_thresholds(sweep, sweep.table, ["scaling", "seed"])
    assert len(thresholds) == 3
    assert (thresholds["largest_alive"] < thresholds["smallest_dead"]).all()
    assert (thresholds["measured"] ** 2).tolist() == pytest.approx(
        (thresholds["largest_alive"] * thresholds["smallest_dead"]).tolist()
    )
    # Rates are a factor of 10 apart; the spread of the weights shifts the threshold by less.
    assert (thresholds["predicted"] > thresholds["largest_alive"] / 3).all()
    assert (thresholds["predicted"] < thresholds["smallest_dead"] * 3).all()


def test_thresholds_outside_the_grid_are_zero_or_infinite(sweep: SweepCells) -> None:
    never = killing_thresholds(
        sweep, sweep.table[sweep.table["optim.lr"] < 1e-5], ["scaling", "seed"]
    )
    assert (never["smallest_dead"] == float("inf")).all()
    always = killing_thresholds(
        sweep, sweep.table[sweep.table["optim.lr"] == 1.0], ["scaling", "seed"]
    )
    assert (always["largest_alive"] == 0).all()


def test_a_reported_number_holds_only_if_it_was_measured(sweep: SweepCells) -> None:
    fast = SweepCells(sweep.results, sweep.table[sweep.table["optim.lr"] == 1.0], sweep._configs)
    weights = [
        float(fast.tensor(str(name), "conv1", "weight", int(row["cross_step"]), -1).mean())
        for name, row in fast.table.iterrows()
    ]
    reported = {"circle": [-12.0, -5.0], "cross": [1000.0, 2000.0], "factor": 2.0}
    black, weight, gradients, _ = report_claims(fast, {**reported, "filter": min(weights)})
    assert (black.holds, weight.holds, gradients.holds) == (True, True, False)
    _, weight, *_ = report_claims(fast, {**reported, "filter": 10 * min(weights)})
    assert weight.holds is False
    # Actual gradients: large and positive for the circle, 0 for the cross, where p is 0.
    actual = {"circle": [100.0, 5000.0], "cross": [-1.0, 0.5]}
    *_, gradients, _ = report_claims(fast, {**reported, **actual, "filter": min(weights)})
    assert gradients.holds is True


def test_a_tensor_that_was_not_saved_is_an_error(sweep: SweepCells) -> None:
    with pytest.raises(FaninError, match=r"act of layer fc1 at step 1 was not saved"):
        sweep.tensor(str(sweep.table.index[0]), "fc1", "act", 1, 0)


def test_max_curvature_of_logistic_regression(sweep: SweepCells) -> None:
    name = str(sweep.table.index[0])
    x = sweep.theory(name).patches[:, :, 4::9].flatten(1)  # center of each patch: the image
    block = x.T @ x / 8
    assert sweep.max_curvature(name) == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]))


def test_an_unfinished_sweep_is_an_error(results: Results) -> None:
    with pytest.raises(FaninError, match="no cell of the part 'remedies' has finished"):
        study(results, {})


@pytest.mark.parametrize(
    ("correct", "text"),
    [
        ([0, 4, 4, 0], "2 of 4 rates (0.1 to 1)"),
        ([0, 0, 0, 4], "1 of 4 rates (10)"),
        ([0, 3, 1, 0], "none of 4 rates; at best 3 of 4 runs (at 0.1)"),
        ([0, 0, 0, 0], "none of 4 rates; no run is correct at any rate"),
    ],
)
def test_working_rates_are_formatted(correct: list[int], text: str) -> None:
    rates = [0.01, 0.1, 1.0, 10.0]
    assert _working_rates(pd.Series(correct, rates), pd.Series([4] * 4, rates)) == text


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
def test_killing_rate_is_exact_for_weights_of_variance_zero(rule: BiasGradient) -> None:
    x = images()
    weights = constant(x, 0.5, 0.3)
    rate = SingleFilterTheory(patches_of(x, 3), 0.5, 0.0, 0.3).killing_rate(
        torch.tensor([0.0, 1.0], dtype=torch.float64), rule
    )
    w, b, *_ = torch.autograd.grad(logits(x, *weights)[1], weights)
    b = {"own": b, "mean_of_weights": w.mean().reshape(1), "zero": torch.zeros_like(b)}[rule]
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        feature_map = conv2d(x, *stepped, padding=1).relu()
        assert bool((feature_map == 0).all()) is black


def test_killing_rate_of_a_full_batch_step() -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    theory = SingleFilterTheory(patches_of(x, 3), 0.05, 0.0, 0.1)
    rate = theory.killing_rate(theory.logit_gradients(y), "own")
    loss = binary_cross_entropy_with_logits(logits(x, *weights), y)
    w, b = torch.autograd.grad(loss, weights[:2])
    for share, black in ((0.999, False), (1.001, True)):
        stepped = [p - share * rate * g for p, g in zip(weights[:2], (w, b), strict=True)]
        assert bool((conv2d(x, *stepped, padding=1) <= 0).all()) is black


def test_a_step_that_increases_preactivations_never_kills() -> None:
    theory = SingleFilterTheory(patches_of(images(), 3), 0.5, 0.0)
    logit_gradients = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    assert theory.killing_rate(logit_gradients, "mean_of_weights") == float("inf")


@pytest.mark.parametrize("layer", get_args(Layer))
def test_curvature_equals_the_hessians_for_weights_of_variance_zero(layer: Layer) -> None:
    x, y = images(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = constant(x, 0.05, 0.1)
    index = {"filter": 0, "linear": 2}[layer]

    def loss(tensor: Tensor) -> Tensor:
        replaced = [*weights[:index], tensor, *weights[index + 1 :]]
        return binary_cross_entropy_with_logits(logits(x, *replaced), y)

    size = weights[index].numel()
    hessian = torch.autograd.functional.hessian(loss, weights[index]).reshape(size, size)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    predicted = SingleFilterTheory(patches_of(x, 3), 0.05, 0.0, 0.1).curvature(layer)
    assert predicted == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("layer", get_args(Layer))
def test_derivative_gram_is_the_mean_over_draws(layer: Layer) -> None:
    x, draws = images(), 4000
    theory = SingleFilterTheory(patches_of(x, 3), 0.5, 1 / 12)
    generator = torch.Generator().manual_seed(1)
    grams = []
    for _ in range(draws):
        w = torch.rand(27, generator=generator, dtype=torch.float64)
        v = torch.rand(SIDE**2, generator=generator, dtype=torch.float64)
        patches = theory.patches
        derivative = torch.einsum("iqk,q->ik", patches, v) if layer == "filter" else patches @ w
        grams.append(derivative @ derivative.T)
    measured = torch.stack(grams)
    error = measured.std(0) / draws**0.5
    # Five standard errors for three distinct numbers.
    assert ((measured.mean(0) - theory.derivative_gram(layer)).abs() < 5 * error).all()


def test_curvature_ratio_grows_with_positions_and_is_one_at_mean_zero() -> None:
    x = torch.ones(1, 3, 40, 40)
    with_mean = SingleFilterTheory(patches_of(x, 3), 0.5, 0.0).curvature_ratio()
    # Constant images give positions / taps, except at the border, where patches contain zeros.
    assert with_mean == pytest.approx(1600 / 27, rel=0.1)
    assert SingleFilterTheory(patches_of(x, 3), 0.0, 1.0).curvature_ratio() == pytest.approx(1.0)
