"""The table of losses: which head goes with which loss, in which form. All else is refused.

No formula looks at a value to decide what to do, so `torch.func.grad` and `vmap` go through them,
and each works in the logits' own dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fanin.errors import ConfigError

HeadName = Literal["none", "sigmoid", "softmax", "tanh"]
LossName = Literal["cross_entropy", "mse", "bce"]
Form = Literal["stable", "naive", "twice"]
TargetEncoding = Literal["label", "one_hot", "plus_minus_one"]

PerExample = Callable[[Tensor, Tensor], Tensor]
"""(logits [batch, output], coded targets) to losses [batch]."""


def identity(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Leave the logits as they are."""
    return logits


def softmax(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Probabilities that sum to 1 over the outputs."""
    return torch.softmax(logits, dim=-1)


HEADS: dict[HeadName, Callable[[Tensor], Tensor]] = {
    "none": identity,
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Head:
    """The activation after the last layer, which makes a network's output out of its logits."""

    name: HeadName

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Return the output.

        Examples
        --------
        >>> Head("softmax")(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
        """
        return HEADS[self.name](logits)


@dataclass(frozen=True)
class Loss:
    """Loss that training minimizes.

    Parameters
    ----------
    name
        Which loss.
    form
        How it is computed: `stable`, as a library does; `naive`, the formula of the textbook
        taken literally; `twice`, softmax in the network and once more in the loss.
    """

    name: LossName
    form: Form = "stable"


def cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Log sum exp(z) - z[label]: finite as long as the logits are."""
    return torch.logsumexp(logits, dim=-1) - _at_label(logits, label)


def naive_cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """-log(softmax(z)[label]): inf once the softmax has underflowed to 0."""
    return -_at_label(softmax(logits), label).log()


def cross_entropy_twice(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The cross entropy of probabilities taken for logits: a softmax of a softmax."""
    return cross_entropy(softmax(logits), label)


def binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """softplus(z) - t z, without overflow; the mean over outputs."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)


def naive_binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """-(t log p + (1 - t) log(1 - p)), p = sigmoid(z): NaN from 0 * log 0 once p is 0 or 1."""
    p = torch.sigmoid(logits)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean(-1)


def squared_error(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"], head: HeadName
) -> Float[Tensor, " batch"]:
    """(head(z) - t)^2, the mean over outputs."""
    return (HEADS[head](logits) - target).square().mean(-1)


def _at_label(scores: Tensor, label: Tensor) -> Tensor:
    return scores.gather(-1, label.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class LossImplementation:
    """One combination of loss, head and form, and what it computes.

    Parameters
    ----------
    per_example
        The loss of each image.
    target_encoding
        How a class label becomes a target: itself, one-hot in {0, 1} or one-hot in {-1, 1}.
    formula
        For people: z logits, t target, y label.
    regression
        Whether it has a meaning for real-valued targets.
    """

    per_example: PerExample
    target_encoding: TargetEncoding
    formula: str
    regression: bool = False


_LOG_SUM_EXP = LossImplementation(cross_entropy, "label", "log sum exp(z) - z[y]")
_LOG_SOFTMAX = LossImplementation(naive_cross_entropy, "label", "-log(softmax(z)[y])")
_WITH_LOGITS = LossImplementation(binary_cross_entropy, "one_hot", "mean(softplus(z) - t z)")
_LOG_SIGMOID = LossImplementation(
    naive_binary_cross_entropy,
    "one_hot",
    "-mean(t log sigmoid(z) + (1 - t) log(1 - sigmoid(z)))",
)

TABLE: dict[tuple[LossName, HeadName, Form], LossImplementation] = {
    ("cross_entropy", "none", "stable"): _LOG_SUM_EXP,
    ("cross_entropy", "none", "naive"): _LOG_SOFTMAX,
    ("cross_entropy", "softmax", "stable"): _LOG_SUM_EXP,
    ("cross_entropy", "softmax", "naive"): _LOG_SOFTMAX,
    ("cross_entropy", "softmax", "twice"): LossImplementation(
        cross_entropy_twice, "label", "log sum exp(p) - p[y], p = softmax(z)"
    ),
    ("bce", "none", "stable"): _WITH_LOGITS,
    ("bce", "none", "naive"): _LOG_SIGMOID,
    ("bce", "sigmoid", "stable"): _WITH_LOGITS,
    ("bce", "sigmoid", "naive"): _LOG_SIGMOID,
    ("mse", "none", "stable"): LossImplementation(
        partial(squared_error, head="none"), "one_hot", "mean((z - t)^2)", regression=True
    ),
    ("mse", "sigmoid", "stable"): LossImplementation(
        partial(squared_error, head="sigmoid"), "one_hot", "mean((sigmoid(z) - t)^2)"
    ),
    ("mse", "softmax", "stable"): LossImplementation(
        partial(squared_error, head="softmax"), "one_hot", "mean((softmax(z) - t)^2)"
    ),
    ("mse", "tanh", "stable"): LossImplementation(
        partial(squared_error, head="tanh"),
        "plus_minus_one",
        "mean((tanh(z) - t)^2)",
        regression=True,
    ),
}

INVALID_REASONS: dict[tuple[LossName, HeadName], str] = {
    ("cross_entropy", "sigmoid"): "sigmoids don't sum to 1 over the classes",
    ("cross_entropy", "tanh"): "a tanh is no probability: it can be negative",
    ("bce", "softmax"): "bce asks one yes-or-no question per output, a softmax answers one in all",
    ("bce", "tanh"): "a tanh is no probability: it can be negative",
}


def find_implementation(loss: Loss, head: Head, regression: bool) -> LossImplementation:
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
    if (loss.name, head.name) in INVALID_REASONS:
        return INVALID_REASONS[loss.name, head.name]
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
        cells = (loss, head, form, f"`{row.formula}`", targets[row.target_encoding])
        lines.append(f"| {' | '.join(cells)} | {'yes' if row.regression else 'no'} |")
    return "\n".join(lines) + "\n"
