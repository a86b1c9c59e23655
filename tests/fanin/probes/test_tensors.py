"""Tensors kept whole: the numbers that were there, in the order in which they lay."""

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


def kept(model: nn.Module, x: Tensor, y: Tensor, *quantities: str) -> pd.DataFrame:
    losses = LossFunctions(lambda z, t: F.cross_entropy(z, t, reduction="none"), F.cross_entropy)
    found = measure(
        model,
        x,
        torch.ones(len(x), 3),
        single_images=(0, 2),
        targets=y,
        losses=losses,
        tensors=quantities,
    )
    return pd.DataFrame(found.tensors)


def tensor(table: pd.DataFrame, quantity: str, layer: int, image: int) -> Tensor:
    mine = table.query("quantity == @quantity and layer == @layer and image == @image")
    assert mine["index"].tolist() == list(range(len(mine)))
    (shape,) = mine["shape"].unique()
    return torch.tensor(mine["value"].to_numpy()).view(*map(int, shape.split("x")))


def test_each_is_what_the_network_holds_and_makes():
    model, x, y = network(), torch.randn(3, 1, 5, 5).double(), torch.tensor([0, 1, 2])
    table = kept(model, x, y, "weight", "bias", "input", "preact", "act")
    made = model[0](x)
    assert torch.equal(tensor(table, "weight", 1, -1), model[0].weight.detach())
    assert torch.equal(tensor(table, "bias", 1, -1), model[0].bias.detach())
    for image in (0, 2):
        assert torch.equal(tensor(table, "input", 1, image), x[image])
        assert torch.equal(tensor(table, "preact", 1, image), made[image].detach())
        assert torch.equal(tensor(table, "act", 1, image), made[image].relu().detach())
        assert torch.equal(tensor(table, "input", 2, image), made[image].relu().flatten().detach())
    assert set(table["image"]) == {-1, 0, 2}
    # The readout has neither bias nor activation.
    assert set(table[table["layer"] == 2]["quantity"]) == {"weight", "input", "preact"}


def test_what_a_layer_sends_back_is_the_derivative_of_each_images_own_loss():
    model, x, y = network(), torch.randn(3, 1, 5, 5).double(), torch.tensor([0, 1, 2])
    table = kept(model, x, y, "input_grad")
    # d loss / d z = softmax(z) - one-hot, not divided by the number of images.
    off = model(x).softmax(1).detach() - F.one_hot(y, 3)
    expected = off @ model[3].weight.detach()
    for image in (0, 2):
        torch.testing.assert_close(tensor(table, "input_grad", 2, image), expected[image])


def test_none_is_kept_unasked_and_no_derivative_without_a_loss():
    model, x = network(), torch.randn(3, 1, 5, 5).double()
    assert kept(model, x, torch.zeros(3, dtype=torch.int64)).empty
    bare = measure(model, x, torch.ones(3, 3), single_images=(0,), tensors=("input_grad",))
    assert bare.tensors["value"] == []


def test_a_cell_keeps_them_before_and_after_its_steps(cell_config):
    words = ("probe.tensors=[weight]", "train.steps=2", "probe.steps=[1,2]", "probe.images=[0]")
    found = run_cell(cell_config(*SMALL, *words), torch.device("cpu"))
    table = pd.DataFrame(found.tables["tensors"])
    mine = table[table["layer"] == 1]
    assert mine.groupby("step").size().to_dict() == {0: 18, 1: 18, 2: 18}
    values = [mine[mine["step"] == step]["value"].tolist() for step in (0, 1, 2)]
    assert values[0] != values[1] != values[2]


def test_a_tensor_that_is_none_of_these_is_refused(cell_config):
    with pytest.raises(
        ConfigError, match=r"probe\.tensors: no such choice as activations; valid: act, bias"
    ):
        cell_config(*SMALL, "probe.tensors=[activations]")
