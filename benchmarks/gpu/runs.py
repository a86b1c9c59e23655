"""Checks of complete cells on the device: stacks, probes, divergence, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case, config_of, ignore_progress, option_cases, train_spec
from benchmarks.gpu.check import Check, Comparison, Difference, equal, run_check
from benchmarks.gpu.tolerance import (
    joined,
    relative,
    rounding,
    with_jumps,
)
from experiments.cell import run_cell
from experiments.result import CellResult
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import Checkpointer, Stopped, saved_progress
from experiments.training.cuda_graph import CAPTURES
from experiments.training.engines import TrainSpec
from experiments.training.loop import OnProgress, TrainResult, train, train_stacked
from experiments.training.stackable import why_serial

CPU = torch.device("cpu")
DRAWS = 2
STOP_AFTER = 12  # number of draws and steps after which a run is stopped
PROBE = (
    *("probe=default", f"probe.draws={DRAWS}", "probe.size=16", "probe.images=[0,1]"),
    "probe.histograms=true",
)
# Used only for two_layer: the Lanczos iteration takes hundreds of Hessian-vector products, which
# take seconds for deep networks.
CURVATURE = ("probe.sharpness=true", "probe.layer_sharpness=true")
# Twice the relative error of the Lanczos iteration (fanin/probes/sharpness.py).
SHARPNESS = 2 * 0.01
# Cells that diverge for different reasons.
DIVERGING = {
    "loss above bound": ("optim.lr=0.4", "loss=mse", "train.loss_bound=1e3", "activation=identity"),
    "inf at step 0": ("init=normal", "init.std=1e30", "activation=relu"),
    "float16 overflows": ("train.dtype=float16", "init=normal", "init.std=1e4", "activation=relu"),
    "NaN in the data": ("data.corrupt.share=0.05", "data.corrupt.kind=missing"),
}
# Four steps run as usual; the others replay a CUDA graph, with another learning rate each.
STACK = ("train.steps=8", "schedule=cosine")
OTHER_CELLS = (("seed_weights=1",), ("seed_weights=2", "init=xavier_uniform", "optim.lr=0.05"))


def stack_checks(device: torch.device, every_option: bool) -> Iterator[Check]:
    """Check stacks of three cells against serial training of the same cells on the device.

    Parameters
    ----------
    every_option
        Check all options in float64 and float32. If False, check all models in float64.
    """
    for case in option_cases():
        if every_option or case.group == "model":
            for dtype in ("float64", "float32") if every_option else ("float64",):
                yield run_check(
                    *("stacked = serial", case.group, f"{case.name} {dtype}"),
                    partial(compare_engines, case, dtype, device),
                )


def probe_checks(device: torch.device) -> Iterator[Check]:
    """Check all measured quantities of all models against the CPU, in float64."""
    for case in option_cases():
        if case.group in ("model", "norm"):
            yield run_check(
                *("probes", case.group, f"{case.name} float64"),
                partial(compare_probes, case, device),
            )


def divergence_checks(device: torch.device) -> Iterator[Check]:
    """Check that cells diverge at the same step and tensor as on the CPU, with both engines."""
    for name, overrides in DIVERGING.items():
        config = config_of(*overrides, "train.steps=40")
        yield run_check(
            *("divergence", "serial", name), partial(compare_divergence, config, device, False)
        )
        yield run_check(
            *("divergence", "stacked", name), partial(compare_divergence, config, device, True)
        )


def checkpoint_checks(device: torch.device, folder: Path) -> Iterator[Check]:
    """Check that a stopped and resumed cell gives the result of an uninterrupted one."""
    cases = {
        "serial": ("model=alexnet", "data.image_side=16", "model.dropout=0.5", "model.width=8"),
        "stacked": ("optim=adam",),
    }
    for engine, overrides in cases.items():
        settings = (*overrides, "train.steps=20", "train.evaluate_every=8", *PROBE)
        yield run_check(
            *("checkpoint", engine, " ".join(overrides)),
            partial(compare_resumed, engine, config_of(*settings), device, folder / engine),
        )


def compare_engines(case: Case, dtype: str, device: torch.device) -> Comparison:
    """Compare parameters and losses of each cell of a stack with serial training."""
    cells = [(*case.overrides, f"train.dtype={dtype}", *varying) for varying in ((), *OTHER_CELLS)]
    if case.group in ("init", "optim", "scaling"):  # `OTHER_CELLS` would override the case
        cells = [(*case.overrides, f"train.dtype={dtype}", f"seed_weights={n}") for n in range(3)]
    configs = [config_of(*STACK, *overrides) for overrides in cells]
    cell = build_cell(configs[0])
    if reason := why_serial(cell):
        return Comparison(refused=reason)
    # Training copies the weights of a model, so both engines can use the same specs.
    specs = [train_spec(config, device) for config in configs]
    serial = [train(spec, ignore_progress) for spec in specs]
    captured = CAPTURES.count
    stacked = dict(train_stacked(specs, ignore_progress))
    differences = [equal("CUDA graphs", CAPTURES.count - captured, int(device.type == "cuda"))]
    for index, spec in enumerate(specs):
        differences += result_differences(index, spec, stacked[index], serial[index], dtype)
    return Comparison(tuple(differences))


def result_differences(
    index: int, spec: TrainSpec, stacked: TrainResult, serial: TrainResult, dtype: str
) -> list[Difference]:
    """Return the differences between the results of both engines for a cell of a stack."""
    cell = spec.cell
    # Both engines round, and the errors of the steps add up.
    step_bound = rounding(cell, dtype, cell.train.batch_of(cell.data.source.train_size))
    bound = 2 * len(_losses(serial)) * with_jumps(cell, step_bound)
    update = joined(serial.params) - joined(dict(spec.step.model.named_parameters()))
    error = (joined(stacked.params) - joined(serial.params)).norm()
    scale = joined(serial.params).norm()
    allowed = bound * update.norm() + step_bound * scale
    return [
        Difference(f"params of cell {index}", float(error / scale), float(allowed / scale)),
        Difference(f"losses of cell {index}", relative(_losses(stacked), _losses(serial)), bound),
    ]


def compare_probes(case: Case, device: torch.device) -> Comparison:
    """Compare the tables of a probed cell, quantity by quantity."""
    overrides = [*case.overrides, *PROBE, "train.dtype=float64", "train.steps=0"]
    overrides += CURVATURE if case.group == "norm" else ()
    config = config_of(*overrides)
    cell = build_cell(config)
    tables, reference = run_cell(config, device).tables, run_cell(config, CPU).tables
    bound = 2 * with_jumps(cell, rounding(cell, "float64", cell.probe.size))
    layers, expected = tables["layers"], reference["layers"]
    differences = [
        equal(f"column {name}", layers[name], expected[name])
        for name in expected
        if name != "value"
    ]
    for quantity in dict.fromkeys(expected["quantity"]):
        actual_values, expected_values = (_values(table, quantity) for table in (layers, expected))
        scale = float(expected_values.norm())
        if quantity == "preact_mean":  # positive and negative terms cancel in a mean
            scale = float(_values(expected, "preact_m2").sqrt().norm())
        tolerance = SHARPNESS if quantity == "sharpness" else bound
        error = float((actual_values - expected_values).norm())
        differences.append(Difference(quantity, error / scale if scale else error, tolerance))
    actual, expected = tables["histograms"], reference["histograms"]
    differences += [
        equal("histogram columns", actual["quantity"], expected["quantity"]),
        equal("histogram totals", sum(actual["count"]), sum(expected["count"])),
        Difference("histogram edges", relative(_edges(actual), _edges(expected)), bound),
    ]
    return Comparison(tuple(differences))


def compare_divergence(config: dict[str, Any], device: torch.device, stacked: bool) -> Comparison:
    """Compare outcome, step, tensor and reason of a diverging cell with those on the CPU.

    If `stacked`, the cell runs in a stack with copies of it that have other seeds.
    """
    reference = run_cell(config, CPU)
    columns = [name for name in reference.row if name.startswith("outcome")]
    if not stacked:
        result = run_cell(config, device)
    else:
        if reason := why_serial(build_cell(config)):
            return Comparison(refused=reason)
        others = [config | {"seed_weights": n, "seed": n} for n in (1, 2)]
        result = _stacked([config, *others], device)[0]
    return Comparison(
        (
            *(equal(name, result.row[name], reference.row[name]) for name in columns),
            equal("diverged", reference.row["outcome"], "diverged"),
        ),
        ", ".join(f"{name}={result.row[name]}" for name in columns),
    )


def compare_resumed(
    engine: str, config: dict[str, Any], device: torch.device, folder: Path
) -> Comparison:
    """Check that a resumed cell is bit-identical to an uninterrupted one on the same device."""
    configs = [config] if engine == "serial" else [config | {"seed_weights": n} for n in range(3)]
    run: Callable[..., list[CellResult]] = _serial if engine == "serial" else _stacked
    uninterrupted = run(configs, device)
    checkpointers = [
        Checkpointer(folder / str(n), stop=_stop_after(STOP_AFTER), poll_every=0)
        for n in range(len(configs))
    ]
    stopped = False
    try:
        run(configs, device, checkpointers)
    except Stopped:
        stopped = True
    written = [checkpointer.path.is_file() for checkpointer in checkpointers]
    resuming = [Checkpointer(folder / str(n)) for n in range(len(configs))]
    saved_steps = {saved_progress(checkpointer.path)[0] for checkpointer in resuming}
    progress: list[int] = []
    resumed = run(configs, device, resuming, lambda done, total: progress.append(done))
    return Comparison(
        (
            equal("stopped", stopped, True),
            equal("checkpoint written", all(written), True),
            *(equal("load error", c.load_error, None) for c in resuming),
            equal("saved steps", saved_steps, {STOP_AFTER - DRAWS}),
            equal("first step", next(filter(None, progress), None), STOP_AFTER - DRAWS),
            *(
                equal(f"{name} of cell {index}", _bits(actual)[name], bits)
                for index, (actual, expected) in enumerate(zip(resumed, uninterrupted, strict=True))
                for name, bits in _bits(expected).items()
            ),
            *(equal("outcome", result.row["outcome"], "ok") for result in uninterrupted),
        )
    )


def _bits(result: CellResult) -> dict[str, str]:
    """Return a result without its time as text, in which equal NaNs compare equal."""
    row = {name: value for name, value in result.row.items() if name != "seconds"}
    return {"row": repr(row)} | {name: repr(table) for name, table in result.tables.items()}


def _serial(
    configs: Sequence[dict[str, Any]],
    device: torch.device,
    checkpointers: Sequence[Checkpointer] = (),
    on_progress: OnProgress = ignore_progress,
) -> list[CellResult]:
    return [run_cell(configs[0], device, on_progress, checkpointers[0] if checkpointers else None)]


def _stacked(
    configs: Sequence[dict[str, Any]],
    device: torch.device,
    checkpointers: Sequence[Checkpointer] = (),
    on_progress: OnProgress = ignore_progress,
) -> list[CellResult]:
    """Run a stack; return the results in the order of its configs, or raise a cell's exception."""
    ends = dict(run_stack(configs, device, on_progress, checkpointers or None))
    results = []
    for index in range(len(configs)):
        result = ends[index]
        if not isinstance(result, CellResult):
            raise result
        results.append(result)
    return results


def _stop_after(polls: int) -> Callable[[], bool]:
    """Return a function that returns False until it has been called `polls` times, then True."""
    remaining = polls

    def stop() -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining <= 0

    return stop


def _losses(trained: TrainResult) -> torch.Tensor:
    points = zip(trained.curves["metric"], trained.curves["value"], strict=True)
    return torch.tensor([v for m, v in points if m == "train_loss"], dtype=torch.float64)


def _values(table: dict[str, list[Any]], quantity: str) -> torch.Tensor:
    rows = zip(table["quantity"], table["value"], strict=True)
    return torch.tensor([value for name, value in rows if name == quantity], dtype=torch.float64)


def _edges(histograms: dict[str, list[Any]]) -> list[torch.Tensor]:
    return [torch.tensor(histograms[name], dtype=torch.float64) for name in ("left", "right")]
