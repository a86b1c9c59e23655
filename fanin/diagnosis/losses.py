"""Checks of the loss: its form, its inputs and its targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn

from fanin.diagnosis.finding import Finding
from fanin.diagnosis.recording import Call, LossCall, Recording

MAX_TARGET_RATIO = 30.0  # of the rms of the targets to that of the outputs (at least 1)
REGRESSION = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
LOGS = {"log", "log2", "log10"}
# Functions that keep the values of a tensor.
SHAPE_FUNCTIONS = {
    *("__getitem__", "__get__", "clone", "contiguous", "double", "flatten", "float", "half"),
    *("movedim", "permute", "reshape", "reshape_as", "squeeze", "swapaxes", "to", "transpose"),
    *("type", "unflatten", "unsqueeze", "view", "view_as"),
}
BOUNDED = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softmax": (0.0, 1.0), "relu": (0.0, None)}


def check_loss(recording: Recording) -> Iterator[Finding]:
    """Yield the problems of the recorded loss."""
    zero = _log_of_zero(recording)
    if zero is not None:
        yield zero
    for call in recording.loss_calls:
        finding = _check_call(call, recording.calls)
        if finding is not None:
            yield finding
            return


def _check_call(call: LossCall, calls: Sequence[Call]) -> Finding | None:
    if not call.inputs or not call.inputs[0].numel():
        return None
    output = call.inputs[0]
    targets = call.inputs[1] if len(call.inputs) > 1 else None
    last = _last_activation(calls)
    if call.function == "cross_entropy":
        return _cross_entropy(output, last)
    if call.function == "nll_loss":
        return _nll(output)
    if call.function == "binary_cross_entropy_with_logits" and last == "sigmoid":
        return Finding(
            "loss_mismatch",
            "the model ends with a sigmoid, and BCEWithLogitsLoss applies another one. The"
            " probabilities stay between 0.5 and 0.73.",
            "loss",
            {"smallest output": float(output.min()), "largest output": float(output.max())},
            "loss = nn.BCELoss()  # or remove the sigmoid from the model",
        )
    if call.function in REGRESSION and targets is not None:
        return _regression(call.function, output, targets, last)
    return None


def _cross_entropy(output: Tensor, last: str) -> Finding | None:
    if output.ndim < 2:
        return None
    evidence = {"smallest output": float(output.min()), "largest output": float(output.max())}
    if output.shape[1] == 1:
        return Finding(
            "loss_mismatch",
            "the model has one output, and the cross entropy of a single class is always 0.",
            "loss",
            {"outputs": 1, "loss": 0.0},
            "loss = nn.BCEWithLogitsLoss()  # targets: floats of the outputs' shape",
        )
    if _are_probabilities(output):
        return Finding(
            "double_softmax",
            "the model returns probabilities (a softmax), and the cross entropy applies another"
            " softmax. The loss cannot fall to 0, and the gradients are small.",
            "output",
            evidence,
            "remove the softmax from the model; for probabilities use model(x).softmax(1)",
        )
    if last == "sigmoid":
        return Finding(
            "loss_mismatch",
            "the model ends with a sigmoid, and the cross entropy expects logits. The loss cannot"
            " fall to 0.",
            "output",
            evidence,
            "remove the sigmoid from the model",
        )
    return None


def _nll(output: Tensor) -> Finding | None:
    if output.ndim < 2:
        return None
    total = output.double().logsumexp(1)
    if not total.isfinite().all() or float(total.abs().max()) < _tolerance(output):
        return None
    kind = "probabilities" if _are_probabilities(output) else "raw logits"
    return Finding(
        "loss_mismatch",
        f"NLLLoss expects log-probabilities and gets {kind}. The loss has no lower limit, or its"
        " gradients do not depend on the other classes.",
        "loss",
        {"smallest output": float(output.min()), "largest output": float(output.max())},
        "loss = nn.CrossEntropyLoss()  # on logits; or end the model with nn.LogSoftmax(1)",
    )


def _regression(function: str, output: Tensor, targets: Tensor, last: str) -> Finding | None:
    evidence = {
        "rms of the outputs": _rms(output),
        "rms of the targets": _rms(targets),
        "smallest target": float(targets.min()),
        "largest target": float(targets.max()),
    }
    if _mixes_samples(output, targets):
        return Finding(
            "loss_mismatch",
            f"the outputs have shape {tuple(output.shape)} and the targets {tuple(targets.shape)}."
            f" {function} broadcasts them, so it compares each output with the targets of other"
            " samples.",
            "loss",
            {},
            "targets = targets.view_as(output)",
        )
    if not targets.is_floating_point() or _are_one_hot(targets):
        return Finding(
            "loss_mismatch",
            f"the targets are classes, and {function} treats them as numbers. Its gradients vanish"
            " where a probability is near 0 or 1, or the order of the classes counts.",
            "loss",
            evidence,
            "loss = nn.CrossEntropyLoss()  # on logits, with class indices as targets",
        )
    low, high = BOUNDED.get(last, (None, None))
    slack = _tolerance(targets)
    if (low is not None and float(targets.min()) < low - slack) or (
        high is not None and float(targets.max()) > high + slack
    ):
        return Finding(
            "loss_mismatch",
            f"the model ends with {last}, whose values cannot reach the targets"
            f" ({float(targets.min()):.3g} to {float(targets.max()):.3g}).",
            "output",
            evidence,
            f"remove the {last} from the model, or scale the targets into its range",
        )
    if _rms(targets) > MAX_TARGET_RATIO * max(_rms(output), 1.0):
        return Finding(
            "loss_mismatch",
            f"the targets (rms {_rms(targets):.3g}) are far outside the range of the outputs (rms"
            f" {_rms(output):.3g}). The first gradients are proportional to the targets.",
            "targets",
            evidence,
            "targets = (targets - targets.mean()) / targets.std()  # of the training set",
        )
    return None


def _mixes_samples(output: Tensor, targets: Tensor) -> bool:
    """Return True if broadcasting compares outputs with the targets of other samples.

    One target for all outputs, or for all outputs of a sample, is intended.
    """
    if output.shape == targets.shape or targets.numel() == 1:
        return False
    if output.ndim != targets.ndim:
        return True
    both = torch.broadcast_shapes(output.shape, targets.shape)
    return prod(both) > max(output.numel(), targets.numel())


def _log_of_zero(recording: Recording) -> Finding | None:
    zeros = 0
    for call in recording.loss_calls:
        if call.function in LOGS and call.inputs:
            zeros += int((call.inputs[0] == 0).sum())
    for step in recording.calls:
        if step.module is None and step.input_is_finite and step.name.split(" ")[0] in LOGS:
            zeros += step.output.nonfinite
    if not zeros:
        return None
    return Finding(
        "log_of_zero",
        f"the loss takes the logarithm of {zeros} values that are 0, and is inf or NaN. They are"
        " probabilities (a softmax or sigmoid of large inputs underflows to 0) or targets of 0.",
        "loss",
        {"zeros": zeros},
        "loss = F.cross_entropy(logits, targets)  # or F.log_softmax; for a sigmoid F.logsigmoid",
    )


def _last_activation(calls: Sequence[Call]) -> str:
    """Return the name of the activation at the end of a model: `softmax`, `sigmoid`, ... or ""."""
    for call in reversed(calls):
        if isinstance(call.module, nn.Flatten | nn.Identity | nn.Unflatten):
            continue
        name = type(call.module).__name__ if call.module else call.name.split(" ")[0]
        name = name.lower().rstrip("_")
        if name in SHAPE_FUNCTIONS:
            continue
        return name if name in BOUNDED else ""
    return ""


def _are_probabilities(output: Tensor) -> bool:
    sums = output.double().sum(1)
    return bool((output >= 0).all()) and float((sums - 1).abs().max()) < _tolerance(output)


def _are_one_hot(targets: Tensor) -> bool:
    if targets.ndim < 2 or targets.shape[1] < 2:
        return False
    is_binary = bool(((targets == 0) | (targets == 1)).all())
    return is_binary and bool((targets.sum(1) == 1).all())


def _tolerance(tensor: Tensor) -> float:
    """Return a bound on the rounding error of a sum over classes."""
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    terms = tensor.shape[1] if tensor.ndim > 1 else 1
    largest = max(1.0, float(tensor.abs().max()))
    return 4 * torch.finfo(dtype).eps * terms * largest


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())
