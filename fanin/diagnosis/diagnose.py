"""`diagnose` finds out by measurement why a network does not train."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from fanin.diagnosis.arguments import Case, make_case
from fanin.diagnosis.finding import Diagnosis, Finding
from fanin.diagnosis.initialization import initialized_copy
from fanin.diagnosis.inputs import check_inputs, check_targets, corrected_input
from fanin.diagnosis.losses import check_loss
from fanin.diagnosis.prediction import predicted_gradient_norms, prescribed_gains
from fanin.diagnosis.recording import Recording, record, stored_values
from fanin.diagnosis.signals import (
    Symptom,
    check_batchnorm,
    check_dead_units,
    check_overflow,
    find_symptom,
    gradient_norms,
)
from fanin.diagnosis.training_steps import check_learning_rate, needs_closure, relative_steps
from fanin.diagnosis.weights import check_identical_units, check_weights, invalid_values

Loss = Callable[..., Any]
# Copies with a standard init. One healthy copy shows that the init is the cause; in a narrow
# network, some copies are unhealthy by chance.
COPIES = 5
ARCHITECTURE_FIXES = {
    "exploding_gradients": "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    "  # before optimizer.step(); or add normalization layers",
    "vanishing_gradients": "add normalization layers or residual connections, or use nn.ReLU"
    " instead of saturating activations",
}


def diagnose(
    model: nn.Module,
    batch: Any,
    targets: Any = None,
    loss: Loss | str | None = None,
    optimizer: Optimizer | float | None = None,
) -> Diagnosis:
    """Find out why a network does not train: NaN loss, huge outputs, dead ReLUs.

    The model runs forward and backward on one batch, and each possible cause is tested in the order
    in which causes act. After a finding, its fix is applied to a copy, so that later findings are
    problems of their own and not consequences of the first. All work is done on copies: weights,
    buffers, gradients, mode, hooks and random state stay as they are.

    Parameters
    ----------
    model
        Any module, in the mode in which it is trained.
    batch
        A batch as the model receives it: a tensor or numpy array, a tuple of several inputs, a
        dictionary of keyword arguments, any of these with the targets as the last element, or a
        DataLoader, which gives its first batch.
    targets
        Targets of the loss. If the batch contains them, they can be omitted.
    loss
        Function (output, targets) that returns the mean loss, or its name in torch.nn.functional.
        Default: cross entropy for integer targets, mean squared error for floating-point targets.
    optimizer
        The optimizer of this model's parameters, or a learning rate of SGD. Without it, the
        learning rate is not checked.

    Returns
    -------
    Diagnosis
        `ok`, and `findings` with the root cause first. Print it to read it.

    Raises
    ------
    InputError
        An argument has the wrong type or form.
    Exception
        Errors of the model and the loss are passed on.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
    >>> batch = torch.rand(8, 1, 8, 8), torch.arange(8)
    >>> diagnose(model, batch).findings[0].cause
    'double_softmax'
    """
    with _restored_random_state():
        torch.manual_seed(0)
        case = make_case(model, batch, targets, loss, optimizer)
        return _Diagnoser(case).run()


class _Diagnoser:
    """Runs the checks in order and corrects the case after each finding."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.findings: list[Finding] = []
        self.not_checked: list[str] = []

    def run(self) -> Diagnosis:
        self._check_inputs()
        self._check_weights()
        batchnorm = list(check_batchnorm(self.case.model, self.case.samples))
        if batchnorm:
            self.findings += batchnorm
            self.case.model.eval()  # a batch of one may raise an error in training mode
        recording = _record(self.case)
        loss_findings = list(check_loss(recording)) if self.case.loss is not None else []
        is_loss_wrong = bool(loss_findings)
        # In evaluation mode, batch normalization does not normalize an untrained network.
        self._check_signals(recording, loss_findings, check_gradients=not batchnorm)
        if batchnorm:
            self.not_checked.append("dead units, gradients, learning rate (pass a larger batch)")
        if self.case.loss is None:
            self.not_checked.append("the loss (pass targets or loss)")
        if self.case.optimizer is None:
            self.not_checked.append("the learning rate (pass optimizer)")
        elif needs_closure(self.case.optimizer):
            self.not_checked.append("the learning rate (the optimizer needs a closure)")
        elif self.case.loss is not None and not is_loss_wrong and not batchnorm:
            self.findings += check_learning_rate(
                self.case.model, self.case.optimizer, self.case.loss_of_model
            )
        return Diagnosis(tuple(self.findings), self._checked(), tuple(self.not_checked))

    def _can_step(self) -> bool:
        return self.case.optimizer is not None and not needs_closure(self.case.optimizer)

    def _checked(self) -> tuple[str, ...]:
        checks = ["inputs", "weights", "overflow", "dead units", "gradients"]
        if self.case.loss is not None:
            checks.insert(2, "loss")
            if self._can_step():
                checks.append("learning rate")
        return tuple(checks)

    def _check_inputs(self) -> None:
        # The search is repeated, because non-finite values and outliers hide the scale.
        for _ in range(3):
            found = list(check_inputs(self.case.inputs))
            if not found:
                break
            known = {finding.cause for finding in self.findings}
            self.findings += _first_of_each_cause([f for f in found if f.cause not in known])
            self.case = self.case.with_inputs(partial(_corrected, found))
        if isinstance(self.case.targets, Tensor):
            found = list(check_targets(self.case.targets))
            self.findings += found
            if found:
                self.case = replace(self.case, targets=torch.nan_to_num(self.case.targets))

    def _check_weights(self) -> None:
        found = list(check_weights(self.case.model))
        self.findings += found
        if found:
            tensors: dict[str, Tensor] = dict(self.case.model.named_buffers())
            tensors.update(self.case.model.named_parameters())
            for name, where in invalid_values(self.case.model).items():
                stored_values(tensors[name])[where] = 0.0

    def _check_signals(
        self, recording: Recording, loss_findings: list[Finding], *, check_gradients: bool
    ) -> None:
        is_log_of_zero = any(finding.cause == "log_of_zero" for finding in loss_findings)
        overflow = [] if is_log_of_zero else list(check_overflow(recording))
        identical = list(check_identical_units(self.case.model, recording.gradients))
        # Identical units are often all 0.
        dead = list(check_dead_units(recording)) if check_gradients and not identical else []
        self.findings += [*overflow, *dead, *loss_findings]
        symptom = None
        if check_gradients and not dead and not identical:
            symptom = self._symptom(self.case, recording)
        if overflow or symptom:
            self._check_init(recording, symptom)
        self.findings += identical
        if dead or identical:
            self.case = self.case.with_model(initialized_copy(self.case.model, recording)[0])

    def _symptom(self, case: Case, recording: Recording) -> Symptom | None:
        if not recording.output.isfinite().all():
            return None
        if recording.loss is not None and not recording.gradients_are_finite:
            recording = _record(replace(case, loss=None))  # the loss is wrong, not the network
        steps = None
        if recording.loss is not None and self._can_step():
            assert case.optimizer is not None
            steps = relative_steps(case.model, case.optimizer, case.loss_of_model)
        return find_symptom(case.model, recording, _loss_of_zero(case, recording), steps)

    def _check_init(self, recording: Recording, symptom: Symptom | None) -> None:
        """Compare the network with copies that have a standard init."""
        for seed in range(COPIES):
            model, code = initialized_copy(self.case.model, recording, seed)
            case = self.case.with_model(model)
            other = _record(case)
            is_healthy = (
                not list(check_overflow(other))
                and not list(check_dead_units(other))
                and self._symptom(case, other) is None
            )
            if is_healthy:
                text = symptom.text if symptom else "a layer overflows"
                self.findings.append(
                    Finding(
                        "init",
                        f"{text}. With a standard init this does not happen, so the weights are"
                        " the cause.",
                        symptom.layer if symptom else self.findings[-1].layer,
                        self._evidence(symptom, recording) if symptom else {},
                        code + self._gains(),
                    )
                )
                self.case = case
                return
        if symptom is not None:
            self.findings.append(
                Finding(
                    symptom.cause,
                    f"{symptom.text}. A standard init does not change this.",
                    symptom.layer,
                    self._evidence(symptom, recording),
                    ARCHITECTURE_FIXES[symptom.cause],
                )
            )

    def _evidence(self, symptom: Symptom, recording: Recording) -> dict[str, float]:
        """Return the measured numbers, with the prediction where theory has one."""
        inputs = list(self.case.inputs.values())
        if len(inputs) != 1 or symptom.layer in ("output", "loss"):
            return symptom.evidence
        predicted = predicted_gradient_norms(self.case.model, inputs[0])
        measured = gradient_norms(recording)
        last = next(reversed(predicted), "")
        if symptom.layer not in predicted or symptom.layer == last or not measured.get(last):
            return symptom.evidence
        return symptom.evidence | {
            f"gradient at {symptom.layer} / gradient at {last}": (
                measured[symptom.layer] / measured[last]
            ),
            "the same ratio in theory": predicted[symptom.layer],
        }

    def _gains(self) -> str:
        inputs = list(self.case.inputs.values())
        gains = prescribed_gains(self.case.model, inputs[0]) if len(inputs) == 1 else {}
        if not gains:
            return ""
        pairs = ", ".join(f"{name!r}: {gain:.3g}" for name, gain in gains.items())
        return (
            "\n# For these inputs, prescribe() computes these factors on He's weights:\n"
            f"# {{{pairs}}}"
        )


def _record(case: Case) -> Recording:
    """Record a forward and backward pass without dropout, whose noise hides constant outputs."""
    dropouts = [m for m in case.model.modules() if isinstance(m, _DropoutNd) and m.training]
    for module in dropouts:
        module.eval()
    try:
        return record(case.model, case.forward, case.loss_of_output if case.loss else None)
    finally:
        for module in dropouts:
            module.train()


def _first_of_each_cause(findings: Sequence[Finding]) -> list[Finding]:
    """Return one finding per cause, which says how many others there are."""
    by_cause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_cause.setdefault(finding.cause, []).append(finding)
    return [
        replace(first, text=f"{first.text} {len(rest)} more inputs have this problem.")
        if rest
        else first
        for first, *rest in by_cause.values()
    ]


def _corrected(findings: Sequence[Finding], name: str, tensor: Tensor) -> Tensor:
    return corrected_input(tensor, [f.cause for f in findings if f.layer == name])


def _loss_of_zero(case: Case, recording: Recording) -> float | None:
    if case.loss is None or recording.loss is None:
        return None
    with torch.no_grad():
        output = case.forward()
        if not isinstance(output, Tensor):
            return None
        value = float(case.loss_of_output(torch.zeros_like(output)))
    return value if isfinite(value) and value > 0 else None


@contextmanager
def _restored_random_state() -> Iterator[None]:
    """Restore the random states of torch, numpy and Python on exit."""
    # The global state of numpy, which user code may still use.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
