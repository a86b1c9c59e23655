"""Whole cells on the device: stacked, probed, diverging, interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case, config_of, ignore_progress, option_cases, train_spec
from benchmarks.gpu.check import Check, Comparison, Difference, run_check, same
from benchmarks.gpu.tolerance import (
    joined,
    relative,
    rounding,
    tf32_allowed,
    with_jumps,
)
from experiments.cell import run_cell
from experiments.result import CellResult
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import Checkpointer, Stopped, saved_progress
from experiments.training.engines import why_serial
from experiments.training.loop import OnProgress, TrainResult, train, train_stacked

CPU = torch.device("cpu")
DRAWS = 2
STOP_AFTER = 12  # draws and steps
PROBE = (
    *("probe=default", f"probe.draws={DRAWS}", "probe.size=16", "probe.images=[0,1]"),
    "probe.histograms=true",
)
# Hundreds of small products, which a deep network on a GPU spends seconds on: of two_layer alone.
CURVATURE = ("probe.sharpness=true", "probe.layer_sharpness=true")
# What the Lanczos iteration promises of an eigenvalue (fanin/probes/sharpness.py), on either
# side.
SHARPNESS = 2 * 0.01
# Cells that diverge, each for another reason.
DIVERGING = {
    "loss above bound": ("optim.lr=0.4", "loss=mse", "train.loss_bound=1e3", "activation=identity"),
    "inf at step 0": ("init=normal", "init.std=1e30", "activation=relu"),
    "float16 overflows": ("train.dtype=float16", "init=normal", "init.std=1e4", "activation=relu"),
    "NaN in the data": ("data.corrupt.share=0.05", "data.corrupt.kind=missing"),
}
NEIGHBOURS = (("seed_weights=1",), ("seed_weights=2", "init=xavier_uniform", "optim.lr=0.05"))


def stack_checks(device: torch.device, every_option: bool) -> Iterator[Check]:
    """Check stacks of three cells against the same cells one at a time, on the device.

    Parameters
    ----------
    every_option
        Stack every option, in float32 too; False: every model, in float64.
    """
    for case in option_cases():
        if every_option or case.group == "model":
            for dtype in ("float64", "float32") if every_option else ("float64",):
                yield run_check(
                    *("stacked = serial", case.group, f"{case.name} {dtype}"),
                    partial(compare_engines, case, dtype, device),
                )


def probe_checks(device: torch.device) -> Iterator[Check]:
    """Check every measured quantity of every model, device against CPU, in float64."""
    for case in option_cases():
        if case.group in ("model", "norm"):
            yield run_check(
                *("probes", case.group, f"{case.name} float64"),
                partial(compare_probes, case, device),
            )


def divergence_checks(device: torch.device) -> Iterator[Check]:
    """Check that cells diverge at the same step and tensor as on the CPU, with either engine."""
    for name, overrides in DIVERGING.items():
        config = config_of(*overrides, "train.steps=40")
        yield run_check(
            *("divergence", "serial", name), partial(compare_divergence, config, device, False)
        )
        yield run_check(
            *("divergence", "stacked", name), partial(compare_divergence, config, device, True)
        )


def checkpoint_checks(device: torch.device, folder: Path) -> Iterator[Check]:
    """Check that a cell stopped after some steps ends as one that was never stopped."""
    cases = {
        "serial": ("model=alexnet", "data.image_side=16", "model.dropout=0.5", "model.width=8"),
        "stacked": ("optim=adam",),
    }
    for engine, overrides in cases.items():
        words = (*overrides, "train.steps=20", "train.evaluate_every=8", *PROBE)
        yield run_check(
            *("checkpoint", engine, " ".join(overrides)),
            partial(compare_resumed, engine, config_of(*words), device, folder / engine),
        )


def compare_engines(case: Case, dtype: str, device: torch.device) -> Comparison:
    """Compare what training left, parameters and losses, of each cell of a stack."""
    words = [(*case.overrides, f"train.dtype={dtype}", *own) for own in ((), *NEIGHBOURS)]
    if case.group in ("init", "optim", "scaling"):  # what a neighbour sets beside the case's own
        words = [(*case.overrides, f"train.dtype={dtype}", f"seed_weights={n}") for n in range(3)]
    configs = [config_of(*each) for each in words]
    cell = build_cell(configs[0])
    if reason := why_serial(cell):
        return Comparison(refused=reason)
    # Not in TF32: torch may choose it for one engine's convolutions and not for the other's.
    with tf32_allowed(False):
        # Training copies a model's weights, so both engines start from the same specs.
        specs = [train_spec(config, device) for config in configs]
        alone = [train(spec, ignore_progress) for spec in specs]
        stacked = dict(train_stacked(specs, ignore_progress))
    size = cell.train.batch_of(cell.data.source.train_size)
    # Each engine rounds for itself, and each step starts from what rounding left of the one before.
    once = rounding(cell, dtype, size)
    bound = 2 * len(_losses(alone[0])) * with_jumps(cell, once)
    differences = []
    for index, (spec, serial) in enumerate(zip(specs, alone, strict=True)):
        update = joined(serial.params) - joined(dict(spec.step.model.named_parameters()))
        error = (joined(stacked[index].params) - joined(serial.params)).norm()
        scale = joined(serial.params).norm()
        allowed = bound * update.norm() + once * scale
        differences += [
            Difference(f"params of cell {index}", float(error / scale), float(allowed / scale)),
            Difference(
                f"losses of cell {index}",
                relative(_losses(stacked[index]), _losses(serial)),
                bound,
            ),
        ]
    return Comparison(tuple(differences))


def compare_probes(case: Case, device: torch.device) -> Comparison:
    """Compare the tables of a probed cell, quantity by quantity."""
    words = [*case.overrides, *PROBE, "train.dtype=float64", "train.steps=0"]
    words += CURVATURE if case.group == "norm" else ()
    config = config_of(*words)
    cell = build_cell(config)
    ours, reference = run_cell(config, device).tables, run_cell(config, CPU).tables
    bound = 2 * with_jumps(cell, rounding(cell, "float64", cell.probe.size))
    layers, expected = ours["layers"], reference["layers"]
    differences = [
        same(f"column {name}", layers[name], expected[name]) for name in expected if name != "value"
    ]
    for quantity in dict.fromkeys(expected["quantity"]):
        value, wanted = (_values(table, quantity) for table in (layers, expected))
        scale = float(wanted.norm())
        if quantity == "preact_mean":  # positive and negative terms cancel in a mean
            scale = float(_values(expected, "preact_m2").sqrt().norm())
        tolerance = SHARPNESS if quantity == "sharpness" else bound
        error = float((value - wanted).norm())
        differences.append(Difference(quantity, error / scale if scale else error, tolerance))
    bars, counted = ours["histograms"], reference["histograms"]
    differences += [
        same("histogram columns", bars["quantity"], counted["quantity"]),
        same("histogram totals", sum(bars["count"]), sum(counted["count"])),
        Difference("histogram edges", relative(_tensors(bars), _tensors(counted)), bound),
    ]
    return Comparison(tuple(differences))


def compare_divergence(config: dict[str, Any], device: torch.device, stacked: bool) -> Comparison:
    """Compare outcome, step, tensor and reason; a stack has two healthy neighbours."""
    reference = run_cell(config, CPU)
    columns = [name for name in reference.row if name.startswith("outcome")]
    if not stacked:
        found = run_cell(config, device)
    else:
        if reason := why_serial(build_cell(config)):
            return Comparison(refused=reason)
        neighbours = [config | {"seed_weights": n, "seed": n} for n in (1, 2)]
        found = _stacked([config, *neighbours], device)[0]
    return Comparison(
        (
            *(same(name, found.row[name], reference.row[name]) for name in columns),
            same("diverged", reference.row["outcome"], "diverged"),
        ),
        ", ".join(f"{name}={found.row[name]}" for name in columns),
    )


def compare_resumed(
    engine: str, config: dict[str, Any], device: torch.device, folder: Path
) -> Comparison:
    """Compare a resumed cell with one that ran through: on one device, to the bit."""
    configs = [config] if engine == "serial" else [config | {"seed_weights": n} for n in range(3)]
    run: Callable[..., list[CellResult]] = _serial if engine == "serial" else _stacked
    whole = run(configs, device)
    checkpointers = [
        Checkpointer(folder / str(n), stop=_after(STOP_AFTER), poll_every=0)
        for n in range(len(configs))
    ]
    stopped = False
    try:
        run(configs, device, checkpointers)
    except Stopped:
        stopped = True
    written = [checkpointer.path.is_file() for checkpointer in checkpointers]
    again = [Checkpointer(folder / str(n)) for n in range(len(configs))]
    kept = {saved_progress(checkpointer.path)[0] for checkpointer in again}
    looks: list[int] = []
    resumed = run(configs, device, again, lambda done, total: looks.append(done))
    return Comparison(
        (
            same("stopped", stopped, True),
            same("checkpoint written", all(written), True),
            *(same("why a checkpoint was not used", each.load_error, None) for each in again),
            same("steps kept", kept, {STOP_AFTER - DRAWS}),
            same("first step", next(filter(None, looks), None), STOP_AFTER - DRAWS),
            *(
                same(f"{name} of cell {index}", _bits(one)[name], bits)
                for index, (one, other) in enumerate(zip(resumed, whole, strict=True))
                for name, bits in _bits(other).items()
            ),
            *(same("outcome", result.row["outcome"], "ok") for result in whole),
        )
    )


def _bits(result: CellResult) -> dict[str, str]:
    """Everything in a result but its time; as text, since NaN is not equal to itself."""
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
    """Results of a stack, in the order of its configs; what a cell raised is raised."""
    ended = dict(run_stack(configs, device, on_progress, checkpointers or None))
    results = []
    for index in range(len(configs)):
        result = ended[index]
        if not isinstance(result, CellResult):
            raise result
        results.append(result)
    return results


def _after(checks: int) -> Callable[[], bool]:
    """Return a function that asks to stop at its call number `checks` and ever after."""
    left = checks

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return stop


def _losses(trained: TrainResult) -> torch.Tensor:
    return torch.tensor(trained.curves["value"], dtype=torch.float64)


def _values(table: dict[str, list[Any]], quantity: str) -> torch.Tensor:
    rows = zip(table["quantity"], table["value"], strict=True)
    return torch.tensor([value for name, value in rows if name == quantity], dtype=torch.float64)


def _tensors(bars: dict[str, list[Any]]) -> list[torch.Tensor]:
    return [torch.tensor(bars[name], dtype=torch.float64) for name in ("left", "right")]
