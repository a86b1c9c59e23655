"""Table of the valid combinations of loss, head and form.

No formula branches on a value, so `torch.func.grad` and `vmap` work with all of them. Each computes
in the logits' dtype.
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
"""Function of logits [batch, output] and encoded targets that returns losses [batch]."""


def identity(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Return the logits."""
    return logits


def softmax(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Return probabilities, which sum to 1 over the outputs."""
    return torch.softmax(logits, dim=-1)


HEADS: dict[HeadName, Callable[[Tensor], Tensor]] = {
    "none": identity,
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Head:
    """Activation after the last layer, which maps logits to the network's output.

    Parameters
    ----------
    name
        `none`, `sigmoid`, `softmax` or `tanh`.
    """

    name: HeadName

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Apply the activation to the logits.

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
        `cross_entropy`, `mse` or `bce`.
    form
        `stable` is numerically stable, as in torch. `naive` evaluates the textbook formula
        literally. `twice` applies softmax in the network and again in the loss.
    """

    name: LossName
    form: Form = "stable"


def cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return log sum exp(z) - z[label], which is finite for finite logits."""
    if logits.device.type != "cuda":
        return F.cross_entropy(logits, label, reduction="none")
    # On a GPU the gradient of an indexing operation is not deterministic, or waits for the device.
    return torch.logsumexp(logits, dim=-1) - _selected(logits, label)


def _selected(logits: Tensor, label: Tensor) -> Tensor:
    """Return z[label] as a sum over all classes."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(label.unsqueeze(-1) == classes, logits, 0.0).sum(-1)


def naive_cross_entropy(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return -log(softmax(z)[label]), which is inf where the softmax underflows to 0."""
    return -_at_label(softmax(logits), label).log()


def cross_entropy_twice(
    logits: Float[Tensor, "batch output"], label: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return the cross entropy with softmax(z) in place of the logits z."""
    return cross_entropy(softmax(logits), label)


def binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """Return the mean over outputs of softplus(z) - t z, without overflow."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)


def naive_binary_cross_entropy(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """Return the mean over outputs of -(t log p + (1 - t) log(1 - p)) with p = sigmoid(z).

    If p is rounded to 0 or 1, the loss is NaN (0 * log 0) where p equals t, and inf where it does
    not.
    """
    p = torch.sigmoid(logits)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean(-1)


def squared_error(
    logits: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"], head: HeadName
) -> Float[Tensor, " batch"]:
    """Return the mean over outputs of (head(z) - t)^2."""
    return (HEADS[head](logits) - target).square().mean(-1)


def _at_label(scores: Tensor, label: Tensor) -> Tensor:
    return scores.gather(-1, label.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class LossImplementation:
    """Formula of one combination of loss, head and form.

    Parameters
    ----------
    per_example
        Function that returns the loss of each image.
    target_encoding
        Encoding of a class label: `label` (unchanged), `one_hot` in {0, 1} or `plus_minus_one`,
        one-hot in {-1, 1}.
    formula
        Text for the documentation, with logits z, target t and label y.
    regression
        True if the combination accepts real-valued targets.
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
    ("cross_entropy", "tanh"): "a tanh can be negative, so it is not a probability",
    ("bce", "softmax"): "bce needs an independent probability for each output, and softmax outputs "
    "sum to 1",
    ("bce", "tanh"): "a tanh can be negative, so it is not a probability",
}


def find_implementation(loss: Loss, head: Head, regression: bool) -> LossImplementation:
    """Return the implementation of a combination.

    Raises
    ------
    ConfigError
        The combination is invalid; the message gives the reason and the valid heads and forms.
    """
    implementation = TABLE.get((loss.name, head.name, loss.form))
    if implementation is not None and (implementation.regression or not regression):
        return implementation
    valid = [
        f"head={head_name} loss.form={form}"
        for (loss_name, head_name, form), candidate in TABLE.items()
        if loss_name == loss.name and (candidate.regression or not regression)
    ]
    hint = f"valid with loss={loss.name}: {', '.join(valid)}"
    if not valid:
        hint = "for real-valued targets use loss=mse and head=none or head=tanh"
    combination = f"loss={loss.name} loss.form={loss.form} head={head.name}"
    raise ConfigError(f"{combination}: {_reason(loss, head, regression)}; {hint}")


def _reason(loss: Loss, head: Head, regression: bool) -> str:
    if regression and loss.name != "mse":
        return "this loss needs classes, but the data have real-valued targets"
    if (loss.name, head.name) in INVALID_REASONS:
        return INVALID_REASONS[loss.name, head.name]
    if loss.form == "twice":
        return "loss.form=twice needs loss=cross_entropy and head=softmax"
    if loss.form == "naive":
        return "loss=mse has only loss.form=stable"
    return f"the data have real-valued targets, but {head.name} outputs lie between 0 and 1"


def markdown() -> str:
    """Return the table of docs/losses.md."""
    lines = [
        "| loss | head | form | loss of an image | class target | regression |",
        "| --- " * 6 + "|",
    ]
    targets = {"label": "y", "one_hot": "one-hot, 0 or 1", "plus_minus_one": "one-hot, -1 or 1"}
    for (loss, head, form), entry in TABLE.items():
        columns = (loss, head, form, f"`{entry.formula}`", targets[entry.target_encoding])
        lines.append(f"| {' | '.join(columns)} | {'yes' if entry.regression else 'no'} |")
    return "\n".join(lines) + "\n"
