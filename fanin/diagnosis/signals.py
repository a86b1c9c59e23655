"""Checks of the signals between layers: overflow, dead units, exploding and vanishing gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isfinite, prod

import torch
from torch import nn

from fanin.diagnosis.finding import Cause, Finding
from fanin.diagnosis.recording import Call, Recording

# He et al. (2015, section 2.2 and figure 3): with gradients of 2^-10.5 = 1 / 1,400 in the first of
# 22 layers a network trains slowly; with 2^-14.5 = 1 / 23,000 in the first of 30 it does not train.
MAX_CHANGE = 1e3
MAX_WEIGHT_CHANGE = 100.0  # norm of a weight's gradient / norm of the weight
MAX_LOSS_RATIO = 10.0  # loss / loss with outputs of 0
MAX_OUTPUT = 10.0  # rms of outputs up to which the loss is not compared
MIN_SPREAD = 1e-3  # standard deviation of the outputs over the batch
MIN_STEP = 1e-4  # relative change of a weight in one step; at less, 10,000 steps replace it
SELECTIONS = {"masked_fill", "masked_fill_", "where"}  # put constants, for example -inf, in place
MAX_DEAD = 0.9  # half of the units are zero on one image, so fewer is common in small batches


def check_overflow(recording: Recording) -> Iterator[Finding]:
    """Yield a finding for the first call, or else the last gradient, that is not finite.

    Infinite values that reach neither the output nor a gradient are no problem: attention masks
    have them.
    """
    if recording.is_finite:
        return
    for call in recording.calls:
        if _makes_nonfinite(call):
            yield _overflow(call)
            return
    if recording.loss is not None and not isfinite(recording.loss):
        values = recording.output[recording.output.isfinite()].double()
        largest = float(values.abs().max()) if len(values) else float("nan")
        yield Finding(
            "overflow",
            f"the outputs are finite, but the loss is {recording.loss}.",
            "loss",
            {"largest output": largest},
            _higher_precision(recording.output.dtype)
            or "loss = nn.CrossEntropyLoss()  # a loss of logits; or scale the outputs down",
        )
        return
    for call in reversed(recording.calls):
        if call.gradient is not None and call.gradient.nonfinite:
            yield Finding(
                "overflow",
                f"all outputs are finite, but the gradient of {call.name} has"
                f" {call.gradient.nonfinite} NaN or infinite values ({_dtype(call)}).",
                call.name,
                {"largest output": call.output.largest},
                _higher_precision(call.output.dtype)
                or "torch.autograd.set_detect_anomaly(True)  # names the operation",
            )
            return


def check_dead_units(recording: Recording) -> Iterator[Finding]:
    """Yield a finding for the first rectifier most of whose units are 0 on the whole batch."""
    dead = [call for call in recording.calls if call.dead is not None and call.dead > MAX_DEAD]
    if not dead:
        return
    call = dead[0]
    index = recording.calls.index(call)
    before = next((c for c in reversed(recording.calls[:index]) if _has_parameters(c)), None)
    layer = before.name if before else call.name
    share = f"{call.dead:.0%}" if call.dead is not None else ""
    fix = f'layer = model.get_submodule("{layer}")\n'
    if before is not None and before.module is not None and not _has_weight(before):
        fix += "layer.reset_parameters()"  # a normalization layer
    else:
        fix += "nn.init.kaiming_normal_(layer.weight)"
        if before is None or getattr(before.module, "bias", None) is not None:
            fix += "; nn.init.zeros_(layer.bias)"
    yield Finding(
        "dead_units",
        f"{share} of the {call.units} units of layer {layer} are 0 after the activation for every"
        " sample of the batch. They get no gradient and stay 0.",
        layer,
        {"share of dead units": call.dead or 0.0},
        f"{fix}  # then use a smaller learning rate, or nn.LeakyReLU",
    )


@dataclass(frozen=True)
class Symptom:
    """Exploding or vanishing gradients or outputs."""

    cause: Cause
    text: str
    layer: str
    evidence: dict[str, float]


def find_symptom(
    model: nn.Module,
    recording: Recording,
    loss_of_zero: float | None,
    steps: Mapping[str, float] | None,
) -> Symptom | None:
    """Return the strongest sign of exploding or vanishing gradients, or None.

    Parameters
    ----------
    model, recording
        The model, and its forward and backward pass.
    loss_of_zero
        Loss for outputs of 0; None without a loss.
    steps
        Norm of the change of each weight in one step of the user's optimizer, divided by the norm
        of the weight; None without an optimizer.
    """
    return (
        _gradient_change(model, recording)
        or _large_weight_gradient(model, recording, steps)
        or _large_output(recording, loss_of_zero)
        or _constant_output(model, recording, steps)
    )


def gradient_norms(recording: Recording) -> dict[str, float]:
    """Return the norm of the gradient of each weight layer's output, by name."""
    by_layer: dict[str, float] = {}
    for call in recording.calls:
        if _has_weight(call) and call.gradient is not None:
            # A layer of a recurrent network runs several times.
            by_layer[call.name] = hypot(by_layer.pop(call.name, 0.0), _norm(call))
    return by_layer


def _bypassed(recording: Recording, norms: Mapping[str, float], smallest: float) -> set[str]:
    """Return the layers around which a skip connection carries the gradient to earlier layers.

    Such a branch may have small gradients, as a residual branch that starts at zero: the layers
    before it learn.
    """
    return {
        call.name
        for call in recording.calls
        for name in call.upstream - {call.name}
        if norms.get(name, 0.0) >= smallest
    }


def _gradient_change(model: nn.Module, recording: Recording) -> Symptom | None:
    by_layer = gradient_norms(recording)
    # A zero layer blocks the gradient at the first step only.
    has_zero_layer = _has_zero_layer(model)
    norms = [(name, norm) for name, norm in by_layer.items() if norm > 0 or not has_zero_layer]
    if len(norms) < 2:
        return None
    last_name, last = norms[-1]
    bypassed = _bypassed(recording, by_layer, last / MAX_CHANGE) if last > 0 else set()
    norms = [(n, norm) for n, norm in norms if n not in bypassed or norm * MAX_CHANGE >= last]
    name, norm = max(norms, key=lambda entry: abs(_log_ratio(entry[1], last)))
    ratio = norm / last if last > 0 else float("inf")
    if 1 / MAX_CHANGE <= ratio <= MAX_CHANGE or (last == 0 and norm == 0):
        return None
    grows = ratio > 1
    times = f"{ratio if grows else 1 / ratio:,.3g} times" if ratio > 0 else "to 0"
    return Symptom(
        "exploding_gradients" if grows else "vanishing_gradients",
        f"gradients {'grow' if grows else 'shrink'} {times} from {last_name} back to {name}",
        name,
        {f"gradient norm at {name}": norm, f"gradient norm at {last_name}": last},
    )


def _large_weight_gradient(
    model: nn.Module, recording: Recording, steps: Mapping[str, float] | None
) -> Symptom | None:
    ratios = {
        name: float(gradient.double().norm() / norm)
        for name, weight in model.named_parameters()
        if weight.ndim > 1
        and (gradient := recording.gradients[name]) is not None
        and (norm := float(weight.detach().double().norm())) > 0
    }
    if recording.loss is None or not ratios:
        return None
    name, ratio = max(ratios.items(), key=lambda entry: entry[1])
    if ratio <= MAX_WEIGHT_CHANGE or (steps is not None and steps.get(name, 0.0) <= 1):
        return None  # Adam, for example, divides gradients by their size
    return Symptom(
        "exploding_gradients",
        f"the gradient of {name} is {ratio:,.3g} times as large as the weights, so that a usual"
        " learning rate replaces them in one step",
        name.rpartition(".")[0],
        {"norm of gradient / norm of weights": ratio, "loss": recording.loss},
    )


def _large_output(recording: Recording, loss_of_zero: float | None) -> Symptom | None:
    if recording.loss is None or loss_of_zero is None:
        return None
    rms = float(recording.output.double().square().mean().sqrt())
    if rms <= MAX_OUTPUT or recording.loss <= MAX_LOSS_RATIO * loss_of_zero:
        return None
    return Symptom(
        "exploding_gradients",
        f"the outputs have a root mean square of {rms:,.3g}, and the loss is {recording.loss:,.3g},"
        f" against {loss_of_zero:.3g} for outputs of 0",
        "output",
        {"rms of the outputs": rms, "loss": recording.loss, "loss of outputs of 0": loss_of_zero},
    )


def _constant_output(
    model: nn.Module, recording: Recording, steps: Mapping[str, float] | None
) -> Symptom | None:
    output = recording.output.double()
    if output.ndim < 2 or len(output) < 2 or _has_zero_layer(model):
        return None
    spread = float(output.std(0, correction=0).square().mean().sqrt())
    if steps and min(steps.values()) >= MIN_STEP:
        return None
    if spread >= MIN_SPREAD:
        return None
    return Symptom(
        "vanishing_gradients",
        f"the outputs hardly depend on the input: their standard deviation over the batch is"
        f" {spread:.2g}",
        "output",
        {"std of the outputs over the batch": spread},
    )


def _has_parameters(call: Call) -> bool:
    return call.module is not None and any(True for _ in call.module.parameters())


def _has_weight(call: Call) -> bool:
    if call.module is None or isinstance(call.module, nn.Embedding):
        return False
    return any(p.ndim > 1 for p in call.module.parameters())


def _has_zero_layer(model: nn.Module) -> bool:
    """Return True if a weight or a scale of a normalization is entirely 0."""
    return any(
        name.rpartition(".")[2] == "weight" and not bool(p.detach().any())
        for name, p in model.named_parameters()
    )


def _norm(call: Call) -> float:
    gradient = call.gradient
    return 0.0 if gradient is None else gradient.rms * prod(gradient.shape) ** 0.5


def _log_ratio(a: float, b: float) -> float:
    if a <= 0 or b <= 0:
        return float("inf") if a != b else 0.0
    return float(torch.tensor(a / b, dtype=torch.float64).log())


def _makes_nonfinite(call: Call) -> bool:
    if call.module is None and call.name.split(" ")[0] in SELECTIONS:
        return False
    if call.input_is_masked:
        return call.output.nan > 0  # for example the softmax of a row that is entirely masked
    return call.output.nonfinite > 0 and call.input_is_finite


def _overflow(call: Call) -> Finding:
    largest = call.output.largest
    if call.input_is_masked:
        return Finding(
            "overflow",
            f"{call.name} returns {call.output.nan} NaN values, because a whole row of its input is"
            " masked with -inf.",
            call.name,
            {"NaN values": call.output.nan},
            "leave at least one position of each row unmasked, or mask with"
            " torch.finfo(scores.dtype).min",
        )
    return Finding(
        "overflow",
        f"{call.name} is the first layer whose output has NaN or infinite values"
        f" ({call.output.nonfinite} of {prod(call.output.shape)}). {_dtype(call)} overflows at"
        f" {torch.finfo(call.output.dtype).max:.3g}.",
        call.name,
        {"largest finite output": largest},
        _higher_precision(call.output.dtype) or "model.float()  # and smaller weights or inputs",
    )


def _higher_precision(dtype: torch.dtype) -> str:
    if dtype == torch.float16:
        return "model.bfloat16()  # or float32; with autocast: dtype=torch.bfloat16"
    return ""


def _dtype(call: Call) -> str:
    return str(call.output.dtype).removeprefix("torch.")


def batchnorm_layers(model: nn.Module) -> Sequence[str]:
    """Return the batch normalization layers that use batch statistics."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]


def check_batchnorm(model: nn.Module, samples: int) -> Iterator[Finding]:
    """Yield a finding if a batch of one sample meets batch normalization in training mode."""
    layers = batchnorm_layers(model)
    if samples != 1 or not layers:
        return
    yield Finding(
        "batchnorm_batch_of_one",
        f"layer {layers[0]} normalizes a batch of one sample by its own mean and variance, which"
        " removes what distinguishes the sample. Outputs in training and in evaluation differ.",
        layers[0],
        {"samples": 1, "batch normalization layers": len(layers)},
        "loader = DataLoader(data, batch_size=32, drop_last=True)  # or nn.GroupNorm",
    )
