"""The user's own model, loss, optimizer, schedule and activation, from a module in a folder."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.cell import CellRun, run_cell
from experiments.config.catalog import config_loader
from experiments.schema import build_cell
from experiments.sweep.cli import run_command
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.stackable import why_serial
from fanin.errors import ConfigError

NUMBERS = count()
SMALL = ("data.n_train=64", "data.n_test=32", "train.steps=3", "train.batch_size=16")
PROBE = ("probe.draws=2", "probe.images=1", "probe.size=8")
CPU = torch.device("cpu")

NETS = """
import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, input_shape, n_outputs, width: int = None, act=nn.Tanh):
        super().__init__()
        width = width or 4
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.randn(1, width, 1, 1))
        self.fc = nn.Linear(width, n_outputs)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(x + self.bn(self.conv2(x))) * self.scale, 2)
        return self.fc(self.drop(x.mean((2, 3)).view(len(x), -1)))


def stackable(n_outputs, activation, width=8):
    first = nn.LazyLinear(width)
    return nn.Sequential(nn.Flatten(), first, activation(), nn.Linear(width, n_outputs))


class Frozen(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10), nn.Linear(10, 10))
        self[1].requires_grad_(False)


class Recurrent(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.embed = nn.Linear(28, 6)
        self.rnn = nn.LSTM(6, 5, batch_first=True)
        self.fc = nn.Linear(5, n_outputs)

    def forward(self, x):
        return self.fc(self.rnn(self.embed(x[:, 0]))[0][:, -1])


def focal(logits, targets, gamma=2.0):
    loss = F.cross_entropy(logits, targets, reduction="none")
    return (1 - (-loss).exp()) ** gamma * loss


def focal_mean(logits, targets, gamma=2.0):
    return focal(logits, targets, gamma).mean()


class Smoothed(nn.CrossEntropyLoss):
    pass


def halving(step, total, times=3):
    return 0.5 ** (times * step // total)


def squared_relu(x):
    return torch.relu(x) ** 2


def rank(layer):
    return torch.linalg.matrix_rank(layer.module.weight)


def largest(layer):
    return layer.preactivation.flatten(1).abs().amax(1)
"""
Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Return a function that writes a module to the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"own_{next(NUMBERS)}"  # a new name, because Python imports a module once
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


@pytest.fixture
def nets(module: Module) -> str:
    return module(NETS)


def plan(tmp_path: Path, *overrides: str, mode: str = "plan") -> int:
    sweep = ("runner=inline", "sweep.name=s", f"sweep.mode={mode}", f"sweep.results={tmp_path}")
    return run_command(config_loader(), "config", [*SMALL, *PROBE, *overrides, *sweep])


# --- models -----------------------------------------------------------------------------------


def test_a_module_with_batch_norm_and_dropout_repeats_bit_for_bit(cell_config, nets):
    config = cell_config(*SMALL, *PROBE, f"model._target_={nets}.Residual", "model.width=5")
    assert config["model"] == {"_target_": f"{nets}.Residual", "width": 5}
    torch.manual_seed(1)
    first = run_cell(config, CPU)
    torch.manual_seed(2)
    second = run_cell(config, CPU)
    assert {**first.row, "seconds": 0} == {**second.row, "seconds": 0}
    assert first.tables == second.tables
    assert set(first.tables["layers"]["layer_name"]) == {"", "conv1", "conv2", "fc"}
    assert "has a buffer (bn.running_mean)" in (why_serial(build_cell(config)) or "")


def test_other_parameters_differ_between_draws_and_seeds(cell_config, nets):
    def scale(seed: int, draw: int) -> torch.Tensor:
        target = f"model._target_={nets}.Residual"
        run = CellRun.start(cell_config(*SMALL, *PROBE, target, f"seed={seed}"), CPU)
        run.draw_weights(draw)
        return run.model.scale.detach().clone()

    assert torch.equal(scale(0, 0), scale(0, 0))
    assert not torch.equal(scale(0, 0), scale(0, 1))
    assert not torch.equal(scale(0, 0), scale(1, 0))


def test_probes_normalize_with_the_batch_and_keep_the_running_statistics(cell_config, nets):
    target = f"model._target_={nets}.Residual"
    run = CellRun.start(cell_config(*SMALL, *PROBE, target, "init.gain=100"), CPU)
    run.measure_draws()
    assert torch.equal(run.model.bn.running_mean, torch.zeros(4))
    assert run.model.bn.track_running_stats
    run.model.bn.running_var.fill_(1e6)  # would change the measurement
    run.model.eval()
    assert run.measure(0).layers == run.draws[0].layers


def test_a_resumed_cell_is_bit_identical(cell_config, nets, tmp_path):
    overrides = (f"model._target_={nets}.Residual", "optim._target_=torch.optim.NAdam")
    config = cell_config(*SMALL, *PROBE, *overrides, f"loss._target_={nets}.focal", "optim.lr=0.01")
    expected = run_cell(config, CPU)
    polls = iter([False, False, False, True])  # two draws, then two steps
    checkpointer = Checkpointer(tmp_path / "c.pt", stop=lambda: next(polls), poll_every=0.0)
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=checkpointer)
    resumed = run_cell(config, CPU, checkpointer=Checkpointer(tmp_path / "c.pt"))
    assert {**resumed.row, "seconds": 0} == {**expected.row, "seconds": 0}
    assert resumed.tables == expected.tables


def test_a_function_of_a_sequence_is_stackable_and_gets_the_activation(cell_config, nets):
    config = cell_config(*SMALL, f"model._target_={nets}.stackable", "activation=tanh")
    cell = build_cell(config)
    network = cell.network()
    assert network[1].in_features == 784
    assert isinstance(network[2], nn.Tanh)
    assert why_serial(cell) is None


def test_frozen_parameters_are_not_trained(cell_config, nets):
    config = cell_config(*SMALL, *PROBE, "probe.steps=[2]", f"model._target_={nets}.Frozen")
    layers = run_cell(config, CPU).tables["layers"]
    columns = ("layer_name", "quantity", "draw", "step", "value")
    rows = zip(*map(layers.__getitem__, columns), strict=True)
    values = {tuple(row): value for *row, value in rows}
    assert values["1", "weight_m2", 0, 2] == values["1", "weight_m2", 0, 0]
    assert values["2", "weight_m2", 0, 2] != values["2", "weight_m2", 0, 0]


def test_weights_that_are_not_covered_are_named_once(cell_config, nets):
    with pytest.warns(UserWarning, match="rnn.weight_ih_l0, rnn.weight_hh_l0") as caught:
        config = cell_config(*SMALL, *PROBE, f"model._target_={nets}.Recurrent")
    assert len([w for w in caught if "linear and convolution" in str(w.message)]) == 1
    result = run_cell(config, CPU)
    assert set(result.tables["layers"]["layer_name"]) == {"", "embed", "fc"}


# --- losses, optimizers, schedules, activations -----------------------------------------------


@pytest.mark.parametrize("name", ["focal", "focal_mean"])
def test_a_loss_function_trains_like_the_same_loss_of_fanin(cell_config, nets, name):
    own = cell_config(*SMALL, *PROBE, f"loss._target_={nets}.{name}", "loss.gamma=0.0")
    expected = run_cell(cell_config(*SMALL, *PROBE), CPU)
    result = run_cell(own, CPU)
    # Two formulas of the cross entropy: a few roundings of float32 apart.
    assert result.row["test_loss"] == pytest.approx(expected.row["test_loss"], rel=1e-5)
    columns = [tables.tables["layers"] for tables in (result, expected)]
    for got, want in zip(columns[0]["value"], columns[1]["value"], strict=True):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-12, nan_ok=True)


def test_torch_loss_classes_get_labels_or_one_hot_targets(cell_config, nets):
    slow = (*SMALL, "optim.lr=0.001")
    mse = run_cell(cell_config(*slow, "loss=mse"), CPU).row["test_loss"]
    own = run_cell(cell_config(*slow, "loss._target_=torch.nn.MSELoss"), CPU).row["test_loss"]
    assert own == pytest.approx(mse, rel=1e-5)
    smoothed = (f"loss._target_={nets}.Smoothed", "loss.label_smoothing=0.1")
    loss = build_cell(cell_config(*SMALL, *smoothed)).objective.loss
    logits, y = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
    assert loss(logits, y) == nn.CrossEntropyLoss(label_smoothing=0.1)(logits, y)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("NAdam", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {}),
        ("Rprop", {}),
        ("Adagrad", {}),
        ("Adamax", {}),
    ],
)
def test_an_adapted_optimizer_equals_the_one_of_torch(name, options, cell_config):
    pairs = [f"optim.{key}={value}" for key, value in options.items()]
    config = cell_config(f"optim._target_=torch.optim.{name}", "optim.lr=0.05", *pairs)
    adapted = build_cell(config).optim
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, generator=generator) for _ in range(5)]
    leaf = torch.ones(3, requires_grad=True)
    optimizer = getattr(torch.optim, name)([leaf], lr=0.05, **options)
    params = {"w": torch.ones(3)}
    state = adapted.init(params)
    for number, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + number)
        leaf.grad = gradient.clone()
        optimizer.step()
        params, state = adapted.update(params, {"w": gradient}, state, 0.05 / (1 + number))
        assert torch.equal(params["w"], leaf.detach())
    assert "updates its tensors in place" in (why_serial(build_cell(config)) or "")


def test_functions_are_schedules_and_activations(cell_config, nets):
    own = (f"schedule._target_={nets}.halving", f"activation._target_={nets}.squared_relu")
    cell = build_cell(cell_config(*SMALL, "schedule.times=2", *own))
    assert [cell.schedule.factor(step, 4) for step in range(4)] == [1.0, 1.0, 0.5, 0.5]
    assert cell.activation()(torch.tensor([-1.0, 3.0])).tolist() == [0.0, 9.0]


def test_a_function_of_a_layer_is_a_probe_quantity(cell_config, nets):
    own = f"probe.quantities=[{nets}.rank,{nets}.largest]"
    layers = run_cell(cell_config(*SMALL, *PROBE, "model=linear", own), CPU).tables["layers"]
    rows = zip(layers["quantity"], layers["image"], layers["draw"], layers["value"], strict=True)
    values = {(quantity, image, draw): value for quantity, image, draw, value in rows}
    assert values["rank", -1, 1] == 10.0
    assert values["largest", 0, 0] ** 2 >= values["preact_m2", 0, 0]
    assert ("largest", -1, 0) in values


# --- errors -----------------------------------------------------------------------------------

MODEL = "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, n_outputs):\n"
BUILDS = MODEL + "        super().__init__(nn.Flatten(), nn.Linear(784, n_outputs))\n"
FORWARD = BUILDS + "    def forward(self, x):\n"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (MODEL + "        raise ValueError('no luck')\n", "model", ":4: ValueError: no luck"),
        (
            FORWARD + "        return x.no\n",
            "model",
            ":6: AttributeError: ",
        ),
        ("def Net(logits, targets):\n    return logits / 'a'\n", "loss", ":2: TypeError: "),
        ("def Net(logits, targets):\n    1 / 0\n", "loss", ":2: ZeroDivisionError: "),
        ("def Net(layer): 1 / 0\n", "probe", ":1: ZeroDivisionError: "),
        ("import torch\n1 / 0\n", "model", ":2: ZeroDivisionError: division by zero"),
        ("import torchvisionn\n", "model", ":1: ModuleNotFoundError: No module named"),
    ],
)
def test_planning_names_file_and_line_in_one_line(module, tmp_path, capsys, text, key, message):
    name = module(text)
    override = "probe.quantities=[{}.Net]" if key == "probe" else f"{key}._target_={{}}.Net"
    assert plan(tmp_path, override.format(name), "seed=0,1") == 2
    error = capsys.readouterr().err
    assert f"{name}.py{message}" in error
    assert error.count("\n") == 1, error


def test_the_error_distinguishes_a_missing_module_from_a_misspelled_name(nets, tmp_path, capsys):
    assert plan(tmp_path, f"model._target_={nets}.Residul") == 2
    assert f"{nets} has no Residul; did you mean Residual?" in capsys.readouterr().err
    assert plan(tmp_path, f"model._target_={nets}x.Residual") == 2
    error = capsys.readouterr().err
    assert f"No module named '{nets}x'; it is neither an installed package nor a file in" in error
    assert f"did you mean {nets}?" in error or f" or {nets}?" in error


def test_a_file_hidden_by_an_installed_module_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("def net(): pass\n")
    assert plan(tmp_path, "model._target_=json.net") == 2
    assert f"{json.__file__} hides {tmp_path}/json.py; rename" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["model", "loss", "optim"])
def test_another_object_shows_the_five_lines_to_write(module, tmp_path, capsys, group):
    name = module("class Thing: pass\n")
    assert plan(tmp_path, f"{group}._target_={name}.Thing") == 2
    error = capsys.readouterr().err
    assert "got a Thing. For example:" in error
    code = [line.removeprefix("    ") for line in error.splitlines() if line.startswith("    ")]
    assert len(code) == 5
    own = module("\n".join(code))
    written = {"model": "net", "loss": "focal", "optim": "Halved"}[group]
    assert plan(tmp_path, f"{group}._target_={own}.{written}") == 0


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("def f(n_outputs): return 3\n", "model", "f must return a torch.nn.Module, got a int"),
        (
            "from torch.nn import *\ndef f(): return Sequential(Flatten(), Linear(784, 7))\n",
            "model",
            "the network must return logits of shape (3, 10), got (3, 7)",
        ),
        (
            "from torch import nn\ndef f(): return nn.Flatten()\n",
            "model",
            "no trainable parameters",
        ),
        ("def f(logits, targets): return logits.T\n", "loss", "it returned shape (10, 3)"),
    ],
)
def test_a_wrong_result_is_reported_before_the_sweep(module, tmp_path, capsys, text, key, message):
    assert plan(tmp_path, f"{key}._target_={module(text)}.f") == 2
    assert message in capsys.readouterr().err


def test_wrong_keys_and_values_are_refused(nets, cell_config):
    target = f"model._target_={nets}.Residual"
    with pytest.raises(ConfigError, match="did you mean width"):
        cell_config(target, "model.widht=3")
    with pytest.raises(ConfigError, match=r"optim: Invalid learning rate: -1"):
        cell_config("optim._target_=torch.optim.NAdam", "optim.lr=-1")
    with pytest.raises(ConfigError, match="gets the logits; use head=none"):
        cell_config(f"loss._target_={nets}.focal", "head=softmax")


def test_a_failed_cell_keeps_the_users_traceback_only(module, tmp_path, capsys):
    text = FORWARD + (
        "        if len(x) == 16: check(x)\n"
        "        return super().forward(x)\n"
        "def check(x):\n"
        "    raise ValueError('only in training')\n"
    )
    name = module(text)
    assert plan(tmp_path, f"model._target_={name}.Net", mode="run") == 1
    assert "ValueError: only in training" in capsys.readouterr().out
    (path,) = (tmp_path / "s/errors").glob("*.txt")
    traceback = path.read_text()
    assert f'{name}.py", line 6, in forward' in traceback
    assert f'{name}.py", line 9, in check' in traceback
    assert "experiments/" not in traceback
    assert "fanin/" not in traceback
