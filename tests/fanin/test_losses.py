"""Heads and losses: one table, its numbers against torch's, and where the naive forms break."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from experiments.config.instantiate import instantiate, validate
from fanin.errors import ConfigError
from fanin.losses import Head, Loss, Objective, make_objective
from fanin.losses.table import TABLE, markdown

ROOT = Path(__file__).parents[2]
HEADS = ("none", "sigmoid", "softmax", "tanh")
LOSSES = ("cross_entropy", "mse", "bce")
FORMS = ("stable", "naive", "twice")
LABELS = torch.tensor([0, 2, 1, 2])


def objective(loss: str, head: str, form: str = "stable", n_classes: int | None = 3) -> Objective:
    return make_objective(Loss(loss, form), Head(head), n_classes)


def logits(dtype: torch.dtype = torch.float64, outputs: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, outputs, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("head/*")), ids=lambda p: p.stem)
def test_each_head_is_named_as_its_file(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate(node) == node
    assert instantiate(node) == Head(path.stem)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("loss/*")), ids=lambda p: p.stem)
def test_each_loss_is_named_as_its_file_and_stable_by_default(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"], "name": path.stem}) == node
    assert instantiate(node) == Loss(path.stem)


@pytest.mark.parametrize(("loss", "head", "form"), [*itertools.product(LOSSES, HEADS, FORMS)])
def test_a_combination_is_in_the_table_or_refused_with_what_would_work(loss, head, form):
    if (loss, head, form) in TABLE:
        assert objective(loss, head, form).loss(logits(), LABELS).isfinite()
        return
    with pytest.raises(ConfigError) as refusal:
        objective(loss, head, form)
    works = [f"head={h} loss.form={f}" for name, h, f in TABLE if name == loss]
    assert all(way in str(refusal.value) for way in works)


@pytest.mark.parametrize(
    ("loss", "head", "why"),
    [
        ("cross_entropy", "sigmoid", "don't sum to 1"),
        ("cross_entropy", "tanh", "can be negative"),
        ("bce", "softmax", "an independent probability for each output"),
        ("bce", "tanh", "can be negative"),
    ],
)
def test_a_refusal_says_why(loss: str, head: str, why: str):
    with pytest.raises(ConfigError, match=why):
        objective(loss, head)


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
def test_the_loss_is_torchs(loss: str, head: str, form: str):
    z, one_hot = logits(), F.one_hot(LABELS, 3).double()
    output = objective(loss, head, form).output(z)
    expected = {
        "cross_entropy": F.cross_entropy(output if form == "twice" else z, LABELS),
        "bce": F.binary_cross_entropy(torch.sigmoid(z), one_hot),
        "mse": F.mse_loss(output, 2 * one_hot - 1 if head == "tanh" else one_hot),
    }
    torch.testing.assert_close(objective(loss, head, form).loss(z, LABELS), expected[loss])


def test_the_output_is_the_heads():
    z = logits()
    assert objective("mse", "none").output(z) is z
    assert torch.equal(objective("mse", "tanh").output(z), z.tanh())
    assert torch.equal(objective("bce", "sigmoid").output(z), z.sigmoid())
    assert torch.equal(objective("cross_entropy", "softmax").output(z), z.softmax(dim=1))


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.integers(0, 2))
def test_naive_and_stable_agree_while_nothing_underflows(values: list[float], label: int):
    z, y = torch.tensor([values], dtype=torch.float64), torch.tensor([label])
    naive, stable = (objective("cross_entropy", "softmax", form) for form in ("naive", "stable"))
    # An exponential of z and a logarithm near z each round by a few ulps of |z|.
    tolerance = 8 * torch.finfo(z.dtype).eps * (1 + z.abs().max())
    assert (naive.loss(z, y) - stable.loss(z, y)).abs() <= tolerance


def test_the_naive_cross_entropy_is_infinite_where_the_stable_one_is_200():
    z, y = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([1])
    assert objective("cross_entropy", "softmax", "naive").loss(z, y).item() == math.inf
    assert objective("cross_entropy", "softmax", "stable").loss(z, y).item() == 200


def test_the_naive_binary_cross_entropy_is_nan_even_where_the_network_is_right():
    z, y = torch.tensor([[200.0]]), torch.tensor([1])
    right, wrong = y, 1 - y
    naive = objective("bce", "sigmoid", "naive", n_classes=2)
    stable = objective("bce", "sigmoid", "stable", n_classes=2)
    assert math.isnan(naive.loss(z, right).item())
    assert stable.loss(z, right).item() == 0
    assert stable.loss(z, wrong).item() == 200


def test_softmax_twice_never_falls_below_its_floor():
    """A perfect network still pays log(e + K - 1) - 1, and hardly learns from a mistake."""
    z, right = torch.tensor([[60.0] + [0.0] * 9], dtype=torch.float64), torch.tensor([0])
    twice = objective("cross_entropy", "softmax", "twice", n_classes=10)
    once = objective("cross_entropy", "softmax", "stable", n_classes=10)
    assert twice.loss(z, right).item() == pytest.approx(math.log(math.e + 9) - 1, rel=1e-12)
    wrong = 1 - right
    assert grad(lambda z: once.loss(z, wrong))(z).abs().max() == pytest.approx(1)
    assert grad(lambda z: twice.loss(z, wrong))(z).abs().max() < 1e-20


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_gradients_flow_in_every_dtype_and_through_vmap(loss, head, form, dtype):
    chosen = objective(loss, head, form)
    cells = torch.stack([logits(dtype), 2 * logits(dtype)])
    gradients = vmap(grad(chosen.loss), in_dims=(0, None))(cells, LABELS)
    assert gradients.dtype == dtype
    assert gradients.isfinite().all()
    alone = torch.stack([grad(chosen.loss)(cell, LABELS) for cell in cells])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradients, alone, rtol=8 * eps, atol=8 * eps)


def test_the_loss_is_the_mean_over_images():
    for loss, head, form in TABLE:
        chosen = objective(loss, head, form)
        each = chosen.per_example(logits(), LABELS)
        assert each.shape == (4,)
        assert torch.equal(chosen.loss(logits(), LABELS), each.mean())


def test_bce_needs_one_output_for_two_classes_and_one_each_for_more():
    assert objective("bce", "sigmoid", n_classes=2).n_outputs == 1
    assert objective("bce", "sigmoid", n_classes=3).n_outputs == 3
    assert objective("cross_entropy", "softmax", n_classes=2).n_outputs == 2
    assert objective("mse", "softmax", n_classes=2).n_outputs == 2


def test_binary_bce_asks_how_probable_class_one_is():
    z, y = torch.tensor([[3.0], [-3.0], [3.0]]), torch.tensor([1, 0, 0])
    binary = objective("bce", "sigmoid", n_classes=2)
    assert binary.correct(z, y).tolist() == [True, True, False]
    near_zero = torch.tensor([[0.1], [-0.1]])  # class 1 is predicted above logit 0
    assert binary.correct(near_zero, torch.tensor([1, 0])).tolist() == [True, True]
    expected = F.binary_cross_entropy_with_logits(z[:, 0], y.float())
    torch.testing.assert_close(binary.loss(z, y), expected)


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
def test_correct_is_the_largest_output(loss: str, head: str, form: str):
    chosen, z = objective(loss, head, form), logits()
    assert torch.equal(chosen.correct(z, LABELS), chosen.output(z).argmax(dim=1) == LABELS)


@pytest.mark.parametrize("head", ["none", "tanh"])
def test_a_regression_has_one_output_and_nothing_to_be_correct_about(head: str):
    regression = objective("mse", head, n_classes=None)
    z, y = logits(torch.float32, outputs=1), torch.tensor([0.5, -0.5, 0.1, 0.0])
    assert regression.n_outputs == 1
    assert regression.correct(z, y) is None
    expected = F.mse_loss(regression.output(z)[:, 0], y)
    torch.testing.assert_close(regression.loss(z, y), expected)


@pytest.mark.parametrize(
    ("loss", "head", "why"),
    [
        ("cross_entropy", "softmax", "needs classes .* loss=mse and head=none or head=tanh"),
        ("bce", "sigmoid", "needs classes"),
        ("mse", "sigmoid", "sigmoid outputs lie between 0 and 1; .* head=none .* head=tanh"),
        ("mse", "softmax", "softmax outputs lie between 0 and 1"),
    ],
)
def test_a_regression_refuses_losses_and_heads_for_classes(loss: str, head: str, why: str):
    with pytest.raises(ConfigError, match=why):
        objective(loss, head, n_classes=None)


def test_the_documented_table_is_the_one_in_the_code():
    assert markdown() in (ROOT / "docs" / "losses.md").read_text()
