"""The table: which head goes with which loss, in which form. What is not in it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from fanin.errors import ConfigError
from fanin.losses import forms
from fanin.losses.options import Form, Head, HeadName, Loss, LossName

Coding = Literal["label", "one_hot", "plus_minus_one"]


@dataclass(frozen=True)
class Row:
    """What one combination computes.

    Parameters
    ----------
    per_example
        The loss of each image.
    coding
        How a class label becomes a target: itself, one-hot in {0, 1} or one-hot in {-1, 1}.
    formula
        For people: z logits, t target, y label.
    regression
        Whether it has a meaning for real-valued targets.
    """

    per_example: forms.PerExample
    coding: Coding
    formula: str
    regression: bool = False


_LOG_SUM_EXP = Row(forms.cross_entropy, "label", "log sum exp(z) - z[y]")
_LOG_SOFTMAX = Row(forms.naive_cross_entropy, "label", "-log(softmax(z)[y])")
_WITH_LOGITS = Row(forms.binary_cross_entropy, "one_hot", "mean(softplus(z) - t z)")
_LOG_SIGMOID = Row(
    forms.naive_binary_cross_entropy,
    "one_hot",
    "-mean(t log sigmoid(z) + (1 - t) log(1 - sigmoid(z)))",
)

TABLE: dict[tuple[LossName, HeadName, Form], Row] = {
    ("cross_entropy", "none", "stable"): _LOG_SUM_EXP,
    ("cross_entropy", "none", "naive"): _LOG_SOFTMAX,
    ("cross_entropy", "softmax", "stable"): _LOG_SUM_EXP,
    ("cross_entropy", "softmax", "naive"): _LOG_SOFTMAX,
    ("cross_entropy", "softmax", "twice"): Row(
        forms.cross_entropy_twice, "label", "log sum exp(p) - p[y], p = softmax(z)"
    ),
    ("bce", "none", "stable"): _WITH_LOGITS,
    ("bce", "none", "naive"): _LOG_SIGMOID,
    ("bce", "sigmoid", "stable"): _WITH_LOGITS,
    ("bce", "sigmoid", "naive"): _LOG_SIGMOID,
    ("mse", "none", "stable"): Row(
        partial(forms.squared_error, head="none"), "one_hot", "mean((z - t)^2)", regression=True
    ),
    ("mse", "sigmoid", "stable"): Row(
        partial(forms.squared_error, head="sigmoid"), "one_hot", "mean((sigmoid(z) - t)^2)"
    ),
    ("mse", "softmax", "stable"): Row(
        partial(forms.squared_error, head="softmax"), "one_hot", "mean((softmax(z) - t)^2)"
    ),
    ("mse", "tanh", "stable"): Row(
        partial(forms.squared_error, head="tanh"),
        "plus_minus_one",
        "mean((tanh(z) - t)^2)",
        regression=True,
    ),
}

_WHY_NOT: dict[tuple[LossName, HeadName], str] = {
    ("cross_entropy", "sigmoid"): "sigmoids don't sum to 1 over the classes",
    ("cross_entropy", "tanh"): "a tanh is no probability: it can be negative",
    ("bce", "softmax"): "bce asks one yes-or-no question per output, a softmax answers one in all",
    ("bce", "tanh"): "a tanh is no probability: it can be negative",
}


def look_up(loss: Loss, head: Head, regression: bool) -> Row:
    """Find what a combination computes.

    Raises
    ------
    ConfigError
        It has no meaning; the text says why, and which heads or forms the loss goes with.
    """
    row = TABLE.get((loss.name, head.name, loss.form))
    if row is not None and (row.regression or not regression):
        return row
    allowed = [
        f"head={h} loss.form={form}"
        for (name, h, form), other in TABLE.items()
        if name == loss.name and (other.regression or not regression)
    ]
    goes_with = f"loss={loss.name} goes with {', '.join(allowed)}"
    if not allowed:
        goes_with = "real-valued targets go with loss=mse and head=none or head=tanh"
    asked = f"loss={loss.name} loss.form={loss.form} head={head.name}"
    raise ConfigError(f"{asked}: {_reason(loss, head, regression)}; {goes_with}")


def _reason(loss: Loss, head: Head, regression: bool) -> str:
    if regression and loss.name != "mse":
        return "this loss needs classes and the data have real-valued targets"
    if (loss.name, head.name) in _WHY_NOT:
        return _WHY_NOT[loss.name, head.name]
    if loss.form == "twice":
        return "only a softmax head with cross_entropy has a softmax to apply twice"
    if loss.form == "naive":
        return "the squared error has one form, which is stable"
    return f"the data have real-valued targets and {head.name} stays between 0 and 1"


def markdown() -> str:
    """The table as docs/losses.md shows it."""
    lines = [
        "| loss | head | form | per image | target of a class | regression |",
        "| --- " * 6 + "|",
    ]
    targets = {"label": "y", "one_hot": "one-hot, 0 or 1", "plus_minus_one": "one-hot, -1 or 1"}
    for (loss, head, form), row in TABLE.items():
        cells = (loss, head, form, f"`{row.formula}`", targets[row.coding])
        lines.append(f"| {' | '.join(cells)} | {'yes' if row.regression else 'no'} |")
    return "\n".join(lines) + "\n"
