"""Cells of the residual models and of VGG: training on digits, every init, refusals in planning."""

from math import isfinite, log

import pandas as pd
import pytest
import torch

from experiments.cell import CellRun, run_cell
from experiments.config.groups import CONF
from experiments.inputs import probe_images
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.stackable import why_serial
from fanin.errors import ConfigError

CPU = torch.device("cpu")
DIGITS = ("data=digits", "data.n_train=128", "data.n_test=40", "train.batch_size=32")
PROBE = ("probe.draws=1", "probe.size=4", "probe.images=[0]")
RESNET = ("model=resnet", "model.depth=8", "model.width=4")
SKIPINIT = (*RESNET, "model.norm=none", "model.scalars=multiplier", "init=skipinit")
FIXUP = (*RESNET, "model.norm=none", "model.scalars=fixup", "init=fixup")
VGG = ("model=vgg", "model.depth=11", "model.width=2", "data.side=32")
CASES = {
    "v1": (*RESNET, "model.zero_init=true"),
    "v2": (*RESNET, "model.version=v2", "model.norm=group", "model.shortcut=B"),
    "skipinit": SKIPINIT,
    "fixup": FIXUP,
    "vgg": VGG,
    "vgg with batch norm": (*VGG, "model.norm=batch"),
}
INITS = sorted(path.stem for path in (CONF / "init").glob("*.yaml"))
# `custom` has no scheme of its own; `certified` needs theory, which has no residual models.
ALL_INITS = [name for name in INITS if name not in ("custom", "certified")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cell_trains_on_digits(cell_config, case):
    steps = 8 if "model=resnet" in case else 2
    overrides = (*DIGITS, *PROBE, *case, f"train.steps={steps}", "optim.lr=0.05")
    config = cell_config(*overrides)
    result = run_cell(config, CPU)
    assert result.row["outcome"] == "ok"
    assert isfinite(result.row["train_loss"])
    assert isfinite(result.row["test_loss"])
    layers = result.tables["layers"]
    assert {"preact_m2", "act_m2", "grad_m2", "weight_vjp_m2"} <= set(layers["quantity"])
    if config["init"]["_target_"].endswith("Fixup"):  # the logits start at 0
        assert result.tables["curves"]["value"][0] == pytest.approx(log(10), rel=1e-6)
    assert why_serial(build_cell(config)) is None


@pytest.mark.parametrize("case", ["v1", "v2", "fixup"])
def test_a_stack_of_residual_cells_agrees_with_serial_cells(cell_config, case):
    """Compare three steps in float64, far above rounding and far below the change of the loss."""
    overrides = (*DIGITS, *PROBE, *CASES[case], "train.steps=3", "train.dtype=float64")
    configs = [cell_config(*overrides, f"seed={seed}") for seed in (0, 1)]
    stacked = dict(run_stack(configs, CPU))
    for index, config in enumerate(configs):
        serial = run_cell(config, CPU)
        assert stacked[index].row["train_loss"] == pytest.approx(serial.row["train_loss"], rel=1e-9)
        assert repr(stacked[index].tables["layers"]) == repr(serial.tables["layers"])  # has NaN


def test_sums_are_measured_beside_the_weight_layers(cell_config):
    """A weight layer has the same values; the sum of a block is the block's output in `v2`."""
    overrides = (*DIGITS, *PROBE, *CASES["v2"], "train.steps=0", "train.dtype=float64")
    config = cell_config(*overrides, "probe.sums=true")
    rows = pd.DataFrame(run_cell(config, CPU).tables["layers"])
    weights = pd.DataFrame(run_cell(cell_config(*overrides), CPU).tables["layers"])
    keys = ["image", "layer_name", "quantity"]
    both = weights.merge(rows, on=keys, suffixes=("", "_beside_sums"))
    assert len(both) == len(weights)
    assert both["value_beside_sums"].tolist() == pytest.approx(both["value"], rel=1e-9, nan_ok=True)
    sums = rows[rows["layer_name"].str.endswith(".add") & (rows["image"] == -1)]
    assert sums["layer_name"].unique().tolist() == [f"block{n}.add" for n in (1, 2, 3)]
    assert {"preact_m2", "vjp_m2", "grad_m2"} <= set(sums["quantity"])
    run = CellRun.start(config, CPU)
    run.draw_weights(0)
    blocks = {}
    for name in ("block1", "block2", "block3"):
        run.model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: blocks.update({name: output})
        )
    run.model(probe_images(run.cell, run.data, run.scaling))
    values = sums[sums["quantity"] == "preact_m2"]["value"]
    expected = [float(output.detach().square().mean()) for output in blocks.values()]
    assert values.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("init", ALL_INITS)
def test_every_init_draws_a_residual_network(cell_config, init):
    overrides = (*DIGITS, *PROBE, *RESNET, "model.norm=none", "model.scalars=fixup")
    result = run_cell(cell_config(*overrides, f"init={init}", "train.steps=1"), CPU)
    assert result.row["outcome"] in ("ok", "diverged")
    assert set(result.tables["layers"]["layer_name"]) >= {"conv1", "block3.branch.conv2", "fc1"}


def test_batch_norm_has_no_state_besides_parameters(cell_config):
    """Networks of the suite use the batch's statistics, so checkpoints need no buffers."""
    for case in CASES.values():
        assert not list(build_cell(cell_config(*DIGITS, *case)).network().buffers())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=mlp", "init=fixup"), "init=fixup needs a model with residual branches"),
        (("model=vgg", "data.side=32", "init=skipinit"), "init=skipinit needs a model with resid"),
        (("model=resnet", "init=fixup"), r"Fixup is for networks without normalization"),
        (("model=resnet", "init=skipinit"), "use model.scalars=multiplier"),
        (("model=resnet", "activation=maxout"), "activation=maxout changes the number of channels"),
        (("model=resnet", "model.depth=21"), "the nearest are 20 and 26"),
        (
            ("model=mlp", "+init.layers.fc1._target_=fanin.inits.Fixup"),
            "init=fixup needs a model with residual branches",
        ),
    ],
)
def test_planning_refuses_parts_that_do_not_fit(cell_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cell_config(*DIGITS, *overrides)


def test_overrides_name_layers_of_blocks_by_their_path(cell_config):
    layer = "block2.branch.conv1"
    overrides = (f"init.layers.{layer}.gain=0.5", f"+clip.factors.{layer}=0.25")
    config = cell_config(*DIGITS, *RESNET, *overrides)
    assert config["init"]["layers"] == {layer: {"gain": 0.5}}
    assert config["clip"]["factors"] == {layer: 0.25}
    cell = build_cell(config)
    assert cell.init.for_model(cell.network())[layer].gain == 0.5
    with pytest.raises(ConfigError, match=r"layers\.block2\.branch\.conv9: no such layer; did you"):
        cell_config(*DIGITS, *RESNET, "init.layers.block2.branch.conv9.gain=0.5")
    with pytest.raises(ConfigError, match=r"factors\.block2\.branch\.conv9: no such layer; did"):
        cell_config(*DIGITS, *RESNET, "+clip.factors.block2.branch.conv9=0.5")
