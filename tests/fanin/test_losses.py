"""Tests of heads and losses: the table of combinations, torch's values and the naive forms."""

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
def test_each_head_has_the_name_of_its_file(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate(node) == node
    assert instantiate(node) == Head(path.stem)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("loss/*")), ids=lambda p: p.stem)
def test_each_loss_has_the_name_of_its_file_and_is_stable(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"], "name": path.stem}) == node
    assert instantiate(node) == Loss(path.stem)


@pytest.mark.parametrize(("loss", "head", "form"), [*itertools.product(LOSSES, HEADS, FORMS)])
def test_a_combination_is_valid_or_rejected_with_a_hint(loss, head, form):
    if (loss, head, form) in TABLE:
        assert objective(loss, head, form).loss(logits(), LABELS).isfinite()
        return
    with pytest.raises(ConfigError) as error:
        objective(loss, head, form)
    valid = [f"head={h} loss.form={f}" for name, h, f in TABLE if name == loss]
    assert all(combination in str(error.value) for combination in valid)


@pytest.mark.parametrize(
    ("loss", "head", "reason"),
    [
        ("cross_entropy", "sigmoid", "don't sum to 1"),
        ("cross_entropy", "tanh", "can be negative"),
        ("bce", "softmax", "an independent probability for each output"),
        ("bce", "tanh", "can be negative"),
    ],
)
def test_an_invalid_combination_gives_the_reason(loss: str, head: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        objective(loss, head)


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
def test_losses_match_torch(loss: str, head: str, form: str):
    z, one_hot = logits(), F.one_hot(LABELS, 3).double()
    output = objective(loss, head, form).output(z)
    expected = {
        "cross_entropy": F.cross_entropy(output if form == "twice" else z, LABELS),
        "bce": F.binary_cross_entropy(torch.sigmoid(z), one_hot),
        "mse": F.mse_loss(output, 2 * one_hot - 1 if head == "tanh" else one_hot),
    }
    torch.testing.assert_close(objective(loss, head, form).loss(z, LABELS), expected[loss])


def test_output_applies_the_head():
    z = logits()
    assert objective("mse", "none").output(z) is z
    assert torch.equal(objective("mse", "tanh").output(z), z.tanh())
    assert torch.equal(objective("bce", "sigmoid").output(z), z.sigmoid())
    assert torch.equal(objective("cross_entropy", "softmax").output(z), z.softmax(dim=1))


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.integers(0, 2))
def test_naive_and_stable_agree_without_underflow(values: list[float], label: int):
    z, y = torch.tensor([values], dtype=torch.float64), torch.tensor([label])
    naive, stable = (objective("cross_entropy", "softmax", form) for form in ("naive", "stable"))
    # An exponential of z and a logarithm near z each have rounding errors of a few ulps of |z|.
    tolerance = 8 * torch.finfo(z.dtype).eps * (1 + z.abs().max())
    assert (naive.loss(z, y) - stable.loss(z, y)).abs() <= tolerance


def test_naive_cross_entropy_overflows():
    z, y = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([1])
    assert objective("cross_entropy", "softmax", "naive").loss(z, y).item() == math.inf
    assert objective("cross_entropy", "softmax", "stable").loss(z, y).item() == 200


def test_naive_binary_cross_entropy_is_nan():
    z, correct = torch.tensor([[200.0]]), torch.tensor([1])
    naive = objective("bce", "sigmoid", "naive", n_classes=2)
    stable = objective("bce", "sigmoid", "stable", n_classes=2)
    assert math.isnan(naive.loss(z, correct).item())
    assert stable.loss(z, correct).item() == 0
    assert stable.loss(z, 1 - correct).item() == 200


def test_softmax_twice_has_a_positive_minimum():
    """A perfect network has a loss of log(e + K - 1) - 1, and a wrong one almost no gradient."""
    z, correct = torch.tensor([[60.0] + [0.0] * 9], dtype=torch.float64), torch.tensor([0])
    twice = objective("cross_entropy", "softmax", "twice", n_classes=10)
    stable = objective("cross_entropy", "softmax", "stable", n_classes=10)
    assert twice.loss(z, correct).item() == pytest.approx(math.log(math.e + 9) - 1, rel=1e-12)
    wrong = 1 - correct
    assert grad(lambda z: stable.loss(z, wrong))(z).abs().max() == pytest.approx(1)
    assert grad(lambda z: twice.loss(z, wrong))(z).abs().max() < 1e-20


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_gradients_work_in_every_dtype_and_under_vmap(loss, head, form, dtype):
    loss_of = objective(loss, head, form).loss
    stacked = torch.stack([logits(dtype), 2 * logits(dtype)])
    gradients = vmap(grad(loss_of), in_dims=(0, None))(stacked, LABELS)
    assert gradients.dtype == dtype
    assert gradients.isfinite().all()
    expected = torch.stack([grad(loss_of)(z, LABELS) for z in stacked])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradients, expected, rtol=8 * eps, atol=8 * eps)


def test_the_loss_is_the_mean_over_images():
    for loss, head, form in TABLE:
        combination = objective(loss, head, form)
        losses = combination.per_example(logits(), LABELS)
        assert losses.shape == (4,)
        assert torch.equal(combination.loss(logits(), LABELS), losses.mean())


def test_number_of_outputs():
    assert objective("bce", "sigmoid", n_classes=2).n_outputs == 1
    assert objective("bce", "sigmoid", n_classes=3).n_outputs == 3
    assert objective("cross_entropy", "softmax", n_classes=2).n_outputs == 2
    assert objective("mse", "softmax", n_classes=2).n_outputs == 2


def test_binary_bce_predicts_class_one():
    z, y = torch.tensor([[3.0], [-3.0], [3.0]]), torch.tensor([1, 0, 0])
    binary = objective("bce", "sigmoid", n_classes=2)
    assert binary.correct(z, y).tolist() == [True, True, False]
    near_zero = torch.tensor([[0.1], [-0.1]])  # class 1 is predicted above logit 0
    assert binary.correct(near_zero, torch.tensor([1, 0])).tolist() == [True, True]
    expected = F.binary_cross_entropy_with_logits(z[:, 0], y.float())
    torch.testing.assert_close(binary.loss(z, y), expected)


@pytest.mark.parametrize(("loss", "head", "form"), TABLE)
def test_correct_is_the_largest_output(loss: str, head: str, form: str):
    combination, z = objective(loss, head, form), logits()
    predicted = combination.output(z).argmax(dim=1)
    assert torch.equal(combination.correct(z, LABELS), predicted == LABELS)


@pytest.mark.parametrize("head", ["none", "tanh"])
def test_a_regression_has_one_output_and_no_accuracy(head: str):
    regression = objective("mse", head, n_classes=None)
    z, y = logits(torch.float32, outputs=1), torch.tensor([0.5, -0.5, 0.1, 0.0])
    assert regression.n_outputs == 1
    assert regression.correct(z, y) is None
    expected = F.mse_loss(regression.output(z)[:, 0], y)
    torch.testing.assert_close(regression.loss(z, y), expected)


@pytest.mark.parametrize(
    ("loss", "head", "reason"),
    [
        ("cross_entropy", "softmax", "needs classes, .* loss=mse and head=none or head=tanh"),
        ("bce", "sigmoid", "needs classes"),
        ("mse", "sigmoid", "sigmoid outputs lie between 0 and 1; .* head=none .* head=tanh"),
        ("mse", "softmax", "softmax outputs lie between 0 and 1"),
    ],
)
def test_a_regression_rejects_losses_and_heads_for_classes(loss: str, head: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        objective(loss, head, n_classes=None)


def test_the_documented_table_matches_the_code():
    assert markdown() in (ROOT / "docs" / "losses.md").read_text()
