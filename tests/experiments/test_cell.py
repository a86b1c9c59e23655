"""Results of a cell: draws, tables, schedules and divergence."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments.cell import CellRun, run_cell
from experiments.inputs import prepared
from experiments.result import CellResult
from experiments.schema import build_cell
from experiments.training.loader import BatchOrder
from experiments.training.loop import SYNC_INTERVAL

SMALL = ("data.side=7", "data.n_train=128", "data.n_test=64", "train.batch_size=32")
ALEXNET = ("model=alexnet", "model.width=8", "model.dense=16", "data.side=15")
CPU = torch.device("cpu")


@pytest.fixture
def run(cell_config):
    def run_small(*overrides: str) -> CellResult:
        keys = {text.partition("=")[0] for text in overrides}
        small = [text for text in SMALL if text.partition("=")[0] not in keys]
        return run_cell(cell_config(*small, *overrides), CPU)

    return run_small


def layers(result: CellResult) -> pd.DataFrame:
    return pd.DataFrame(result.tables["layers"])


def values(result: CellResult, quantity: str, **conditions: object) -> list[float]:
    table = layers(result)
    table = table[table.quantity == quantity]
    for column, value in conditions.items():
        table = table[table[column] == value]
    return table.value.tolist()


def curve(result: CellResult, metric: str) -> dict[int, float]:
    table = pd.DataFrame(result.tables["curves"])
    table = table[table.metric == metric]
    return dict(zip(table.step, table.value, strict=True))


def outcome(result: CellResult) -> tuple:
    return tuple(result.row[f"outcome{end}"] for end in ("", "_step", "_tensor", "_reason"))


# --- draws ------------------------------------------------------------------------------------


def test_draw_0_is_the_network_that_trains(run):
    one_draw = run("train.steps=2", "probe.draws=1", "optim.lr=0", "probe.steps=[1]")
    draws = run("train.steps=2", "probe.draws=4", "optim.lr=0", "probe.steps=[1]")
    start = values(draws, "preact_m2", draw=0, step=0)
    assert start == values(draws, "preact_m2", step=1) == values(one_draw, "preact_m2", step=0)


def test_random_directions_differ_over_draws(run):
    """Use constant weights, which are the same in every draw."""
    result = run("init=constant", "init.value=0.1", "train.steps=0", "probe.draws=5")
    assert len(set(values(result, "weight_m2", layer=1))) == 1
    assert len(set(values(result, "vjp_m2", layer=1, image=-1))) == 5


def test_draws_differ(run):
    weights = values(run("train.steps=0", "probe.draws=5"), "weight_m2", layer=1)
    assert len(set(weights)) == 5


def test_cells_that_differ_in_learning_rate_share_their_draws(run):
    first, second = (run("train.steps=0", f"optim.lr={lr}") for lr in (0.1, 0.01))
    assert first.tables == second.tables


def test_cells_that_differ_in_init_share_batches_and_random_directions(run):
    # zeros and constant(0) give equal weights, so only the other random numbers could differ.
    settings = ("train.steps=6", "probe.steps=[6]")
    zeros = run("init=zeros", *settings)
    constant = run("init=constant", "init.value=0", *settings)
    assert repr(zeros.tables) == repr(constant.tables)  # repr, as NaN is not equal to itself
    he, xavier = (run(f"init={init}", "train.steps=0") for init in ("he_normal", "xavier_normal"))
    logits = layers(he).layer.max()
    assert values(he, "vjp_m2", layer=logits) == values(xavier, "vjp_m2", layer=logits)


def test_the_depth_does_not_change_the_draws_of_the_first_layers(run):
    shallow, deep = (
        run("model=plain", f"model.depth={depth}", "train.steps=0", "probe.draws=2")
        for depth in (3, 6)
    )
    for layer in ("conv1", "conv2"):
        weights = values(shallow, "weight_m2", layer_name=layer)
        assert weights == values(deep, "weight_m2", layer_name=layer)


@pytest.mark.parametrize(("seed", "equal"), [("seed_data", True), ("seed_weights", False)])
def test_the_data_seed_does_not_change_the_weights(run, seed, equal):
    first, second = (run("train.steps=0", f"{seed}={value}") for value in (1, 2))
    assert (first.tables["layers"] == second.tables["layers"]) is equal


# --- the tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=two_layer", "probe.histograms=true", "probe.sharpness=true", "probe.draws=2"),
        (*ALEXNET, "model.dropout=0.5", "probe.draws=1"),
    ],
    ids=["two_layer", "alexnet"],
)
def test_running_a_cell_twice_gives_the_same_bits(run, overrides):
    first, second = (run(*overrides, "train.steps=6", "probe.steps=[3]") for _ in range(2))
    assert repr(first.tables) == repr(second.tables)
    first.row.pop("seconds")
    second.row.pop("seconds")
    assert repr(first.row) == repr(second.row)


def test_dropout_masks_come_from_the_seed(run):
    shared = (
        *(*ALEXNET, "train.steps=3", "probe=none"),
        *("seed_weights=0", "seed_data=0"),
    )

    def losses(*overrides: str) -> dict[int, float]:
        return curve(run(*shared, *overrides), "train_loss")

    dropped = losses("model.dropout=0.5", "seed=0")
    assert dropped == losses("model.dropout=0.5", "seed=0")
    assert dropped != losses("model.dropout=0.5", "seed=1")
    assert losses("seed=0") == losses("seed=1")


def test_a_probe_measures_the_network_before_its_step(run):
    result = run("train.steps=5", "probe.steps=[2,5]", "probe.draws=1", "probe.images=[]")
    shorter = run("train.steps=2", "probe.steps=[2]", "probe.draws=1", "probe.images=[]")
    assert sorted(set(layers(result).step)) == [0, 2, 5]
    assert values(result, "weight_m2", step=2) == values(shorter, "weight_m2", step=2)
    weights = [tuple(values(result, "weight_m2", step=step)) for step in (0, 2, 5)]
    assert len(set(weights)) == 3


def test_probes_do_not_change_training(run):
    probed = run("train.steps=5", "probe.steps=[1,3]", "train.evaluate_every=2")
    plain = run("train.steps=5", "probe=none")
    assert curve(probed, "train_loss") == curve(plain, "train_loss")
    assert probed.row["test_loss"] == plain.row["test_loss"]


def test_the_row_of_a_cell_has_its_outcome(run):
    row = run("train.epochs=2").row
    assert row["outcome"] == "ok"
    assert row["outcome_step"] is row["outcome_tensor"] is row["outcome_reason"] is None
    assert 0 <= row["test_accuracy"] <= 1
    assert row["seconds"] > 0
    assert row["optim.lr"] == 0.1


def test_train_loss_is_the_mean_over_the_last_epoch(run):
    result = run("train.epochs=3")
    losses = curve(result, "train_loss")
    assert list(losses) == list(range(12))
    last = [losses[step] for step in range(8, 12)]
    assert result.row["train_loss"] == pytest.approx(sum(last) / 4)


def test_curves_have_the_evaluations_at_the_configured_steps(run):
    result = run("train.steps=7", "train.evaluate_every=3")
    assert list(curve(result, "test_loss")) == list(curve(result, "test_accuracy")) == [3, 6]


def test_zero_steps_run_probes_only(run):
    result = run("train.steps=0", "probe.draws=2")
    assert result.row["outcome"] == "ok"
    assert math.isnan(result.row["test_accuracy"])
    assert set(layers(result).draw) == {0, 1}
    assert not result.tables["curves"]


def test_without_probes_a_cell_only_trains(run):
    result = run("probe=none", "train.steps=2")
    assert not result.tables["layers"]
    assert result.row["outcome"] == "ok"


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.dtype=float64",),
        ("train.dtype=bfloat16",),
        (*ALEXNET, "model.lrn=true", "model.dropout=0.5", "model.groups=2", "train.dtype=float16"),
        ("data=gaussian", "data.task=regression", "data.image_side=8", "loss=mse"),
        ("data=shapes", "loss=bce", "data.side=14"),
        ("model=linear",),
        ("model=mlp", "optim=adamw", "schedule=cosine"),
        ("model=plain", "model.depth=3", "model.norm=layer"),
        ("model=mlp", "model.norm=mean_only"),
        ("model=mlp", "model.norm=batch", "data.n_test=200", "init=lsuv"),
        ("data.n_train=20", "train.batch_size=64", "probe.size=64"),
    ],
    ids=" ".join,
)
def test_every_kind_of_cell_trains(run, overrides):
    if "data=gaussian" in overrides:
        overrides = (*overrides, "data.side=null")
    result = run(*overrides, "train.steps=3", "probe.draws=1", "optim.lr=0.01")
    assert result.row["outcome"] == "ok"
    assert len(curve(result, "train_loss")) == 3
    assert math.isfinite(result.row["test_loss"])
    assert math.isnan(result.row["test_accuracy"]) == ("data.task=regression" in overrides)
    assert layers(result).query("quantity == 'preact_m2'").value.notna().all()


# --- schedules --------------------------------------------------------------------------------


def test_a_learning_rate_of_0_changes_no_weight(run):
    stops = ("schedule=step", "schedule.milestones=[0.5]", "schedule.gamma=0")
    result = run(*stops, "train.steps=6", "probe.steps=[2,3,4,6]", "probe.draws=0")
    two, three, four, six = (values(result, "weight_m2", step=step) for step in (2, 3, 4, 6))
    assert two != three == four == six


def test_a_warmup_starts_at_a_fraction_of_the_learning_rate(run):
    # The factors are 1/2 and then 1; a loss is computed before the update of its step.
    warmup = run("schedule=warmup", "schedule.warmup=0.5", "train.steps=4", "optim.lr=0.1")
    constant = run("train.steps=4", "optim.lr=0.05")
    losses, expected = curve(warmup, "train_loss"), curve(constant, "train_loss")
    assert [losses[step] == expected[step] for step in range(3)] == [True, True, False]


# --- divergence -------------------------------------------------------------------------------


def test_divergence_names_a_first_layer_that_overflows(run):
    result = run("train.dtype=float16", "init=normal", "init.std=1e5", "train.steps=3")
    status, step, tensor, reason = outcome(result)
    assert (status, step, tensor) == ("diverged", 0, "conv1")
    assert reason in ("inf", "nan")  # conv1's weights are inf, and inf * 0 or inf - inf is NaN
    assert curve(result, "train_loss").keys() == {0}


def test_divergence_names_a_later_layer_that_overflows(run):
    # With weights of 1 and pixels in [0, 1] nothing is negative, so inf - inf cannot occur.
    huge = ("init=constant", "init.value=1", "scaling=unit", "init.layers.fc1.gain=3e38")
    assert outcome(run(*huge, "train.steps=3")) == ("diverged", 0, "fc1", "inf")


def test_divergence_names_the_input_for_a_missing_pixel(run):
    result = run(
        "data.corrupt.share=0.1", "data.corrupt.kind=missing", "scaling=unit", "train.steps=8"
    )
    assert outcome(result) == ("diverged", 0, "input", "nan")


def test_divergence_names_a_parameter_that_overflows(run):
    status, step, tensor, reason = outcome(run("optim.lr=1e38", "init.gain=10", "train.steps=3"))
    assert (status, step) == ("diverged", 0)
    assert (tensor.rpartition(".")[2], reason) == ("weight", "inf")


def test_a_loss_above_the_bound_is_divergence(run):
    result = run("train.loss_bound=1", "train.steps=3")
    assert outcome(result) == ("diverged", 0, "loss", "loss above bound")
    assert result.row["train_loss"] == curve(result, "train_loss")[0] > 1


def test_the_naive_loss_overflows_where_the_stable_one_does_not(run):
    wide = ("init.layers.fc1.gain=1000", "head=softmax", "train.steps=1", "optim.lr=0")
    assert outcome(run(*wide, "loss.form=naive")) == ("diverged", 0, "loss", "inf")
    assert outcome(run(*wide))[0] == "ok"


@pytest.mark.parametrize(
    ("bad_step", "total"),
    [(0, 37), (SYNC_INTERVAL - 1, 37), (SYNC_INTERVAL, 37), (36, 37), (4, 5)],
)
def test_the_step_of_divergence_does_not_depend_on_the_sync_interval(
    run, cell_config, monkeypatch, bad_step, total
):
    corrupt = ("data.corrupt.share=0.008", "data.corrupt.kind=missing", "scaling=unit")
    data, _ = prepared(build_cell(cell_config(*SMALL, *corrupt)), CPU)
    bad = data.train.x.isnan().flatten(1).any(1)
    assert bad.sum() == 1

    def good_until_bad(order: BatchOrder, step: int) -> Tensor:
        return (bad if step == bad_step else ~bad).nonzero()[:, 0].repeat(32)[:32]

    monkeypatch.setattr(BatchOrder, "at", good_until_bad)
    length = (f"train.steps={total}", "train.evaluate_every=5", f"probe.steps=[3,{total}]")
    result = run(*corrupt, *length, "optim.lr=1e-3", "probe.draws=0")
    assert outcome(result) == ("diverged", bad_step, "input", "nan")
    assert list(curve(result, "train_loss")) == list(range(bad_step + 1))
    # A diverged network is neither evaluated nor probed.
    assert list(curve(result, "test_loss")) == [s for s in range(5, total, 5) if s <= bad_step]
    assert ("layer" in result.tables["layers"]) == (bad_step >= 3)


def test_an_overflow_after_the_last_update_is_divergence(cell_config):
    config = cell_config(
        "model=linear", "data.n_train=64", "train.steps=1", "optim.lr=1e30", "probe=none"
    )
    row = run_cell(config, CPU).row
    assert (row["outcome"], row["outcome_step"]) == ("diverged", 1)
    assert math.isnan(row["test_loss"])


def test_outputs_are_measured_after_the_head(run):
    """Compare cells with and without softmax, which cross entropy trains identically."""
    bare, softmax = (
        run("train.steps=2", "probe.steps=[2]", f"head={head}") for head in ("none", "softmax")
    )
    logits = values(bare, "preact_m2", layer=layers(bare).layer.max())
    assert values(bare, "output_m2") == logits
    assert values(softmax, "preact_m2", layer=layers(softmax).layer.max()) == logits
    # The mean square of ten probabilities is between 0.01 and 0.1, up to float32 rounding.
    for value in values(softmax, "output_m2"):
        assert 0.01 * (1 - 1e-6) <= value <= 0.1 * (1 + 1e-6)


def test_lsuv_weights_do_not_depend_on_the_probe_set(cell_config):
    small = ("init=lsuv", "model=mlp", "data.n_train=64", "train.steps=3")
    losses = [
        run_cell(cell_config(*small, *probe), CPU).tables["curves"]["value"]
        for probe in (["probe=none"], ["probe.size=8", "probe.draws=2"], ["probe.size=32"])
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(("name", "selected"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_cell_selects_its_gpu(cell_config, monkeypatch, name, selected):
    class Loading(Exception):
        """The cell starts to load its data."""

    def load(cell, device):
        raise Loading

    devices = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: devices.append(str(device)))
    monkeypatch.setattr("experiments.cell.use_arithmetic", lambda dtype, device: None)
    monkeypatch.setattr("experiments.cell.prepared", load)
    with pytest.raises(Loading):
        CellRun.start(cell_config(*SMALL), torch.device(name))
    assert devices == selected
