"""Tests of tensors recorded element by element."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cell import run_cell
from fanin.errors import ConfigError
from fanin.probes.measure import LossFunctions, measure

SMALL = ("data.side=7", "data.n_train=8", "data.n_test=8", "probe.draws=1", "model.channels=2")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3, bias=False)
    return nn.Sequential(*layers).double()


def record(model: nn.Module, x: Tensor, y: Tensor, *quantities: str) -> pd.DataFrame:
    losses = LossFunctions(lambda z, t: F.cross_entropy(z, t, reduction="none"), F.cross_entropy)
    tables = measure(
        model,
        x,
        torch.ones(len(x), 3),
        single_images=(0, 2),
        targets=y,
        losses=losses,
        tensors=quantities,
    )
    return pd.DataFrame(tables.tensors)


def tensor(table: pd.DataFrame, quantity: str, layer: int, image: int) -> Tensor:
    rows = table.query("quantity == @quantity and layer == @layer and image == @image")
    assert rows["index"].tolist() == list(range(len(rows)))
    (shape,) = rows["shape"].unique()
    return torch.tensor(rows["value"].to_numpy()).view(*map(int, shape.split("x")))


def test_recorded_tensors_match_the_network():
    model, x, y = network(), torch.randn(3, 1, 5, 5).double(), torch.tensor([0, 1, 2])
    table = record(model, x, y, "weight", "bias", "input", "preact", "act")
    preact = model[0](x).detach()
    assert torch.equal(tensor(table, "weight", 1, -1), model[0].weight.detach())
    assert torch.equal(tensor(table, "bias", 1, -1), model[0].bias.detach())
    for image in (0, 2):
        assert torch.equal(tensor(table, "input", 1, image), x[image])
        assert torch.equal(tensor(table, "preact", 1, image), preact[image])
        assert torch.equal(tensor(table, "act", 1, image), preact[image].relu())
        assert torch.equal(tensor(table, "input", 2, image), preact[image].relu().flatten())
    assert set(table["image"]) == {-1, 0, 2}
    # The last layer has no bias and no activation.
    assert set(table[table["layer"] == 2]["quantity"]) == {"weight", "input", "preact"}


def test_input_grad_is_the_gradient_of_each_loss():
    model, x, y = network(), torch.randn(3, 1, 5, 5).double(), torch.tensor([0, 1, 2])
    table = record(model, x, y, "input_grad")
    # d loss / d z = softmax(z) - one-hot, not divided by the number of images.
    logit_gradient = model(x).softmax(1).detach() - F.one_hot(y, 3)
    expected = logit_gradient @ model[3].weight.detach()
    for image in (0, 2):
        torch.testing.assert_close(tensor(table, "input_grad", 2, image), expected[image])


def test_tensors_are_recorded_only_on_request():
    model, x = network(), torch.randn(3, 1, 5, 5).double()
    assert record(model, x, torch.zeros(3, dtype=torch.int64)).empty
    tables = measure(model, x, torch.ones(3, 3), single_images=(0,), tensors=("input_grad",))
    assert tables.tensors["value"] == []


def test_a_cell_records_tensors_before_and_after_steps(cell_config):
    overrides = ("probe.tensors=[weight]", "train.steps=2", "probe.steps=[1,2]", "probe.images=[0]")
    result = run_cell(cell_config(*SMALL, *overrides), torch.device("cpu"))
    table = pd.DataFrame(result.tables["tensors"])
    rows = table[table["layer"] == 1]
    assert rows.groupby("step").size().to_dict() == {0: 18, 1: 18, 2: 18}
    values = [rows[rows["step"] == step]["value"].tolist() for step in (0, 1, 2)]
    assert values[0] != values[1] != values[2]


def test_an_unknown_tensor_is_rejected(cell_config):
    with pytest.raises(
        ConfigError, match=r"probe\.tensors: invalid value 'activations'; valid: act, bias"
    ):
        cell_config(*SMALL, "probe.tensors=[activations]")
