"""Check the project on a GPU: `python -m benchmarks.gpu --quick`.

Prints one table, writes everything as JSON, and ends with exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.gpu.check import Check, failures
from benchmarks.gpu.environment import environment, import_checks
from benchmarks.gpu.flags import SUITE
from benchmarks.gpu.full import TINY_SIZE, Size, rates, table
from benchmarks.gpu.graphs import graph_checks, invariance_checks
from benchmarks.gpu.runs import checkpoint_checks, divergence_checks, probe_checks, stack_checks
from benchmarks.gpu.steps import step_checks
from benchmarks.gpu.sweep import sweep_checks
from benchmarks.gpu.throughput import TINY, Load, Throughput, throughputs
from benchmarks.page import Table, show
from experiments.atomic_write import atomic_write
from experiments.console import USAGE_ERROR
from experiments.sweep.worker.limits import prepare_torch
from experiments.training.cuda_graph import CAPTURES

NAME = "benchmarks.gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check that results on a GPU agree with those on the CPU; print a table, write a JSON file."""
    args = _parser().parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No CUDA device found. Use --device cpu for a dry run.", file=sys.stderr)
        return USAGE_ERROR
    prepare_torch()  # a worker's settings: one thread, deterministic algorithms
    SUITE.set()
    out, started = Console(width=max(Console().width, 120)), time.perf_counter()
    info = environment(device)
    for name, value in info.items():
        out.print(f"{name}: {value}", highlight=False, markup=False)
    if args.full:
        return _measure_throughput(args, device, info, out)
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="fanin-gpu-") as path:
        for check in all_checks(device, tiny=args.tiny, folder=Path(path)):
            checks.append(check)
            if check in failures([check]):
                _print_failure(out, check)
            if CAPTURES.failure is not None:
                checks.append(_failed_capture(CAPTURES.failure))
                _print_failure(out, checks[-1])
                break
    # Write the results so far, in case a time limit ends the process.
    _write(args.json, info, checks, None, time.perf_counter() - started)
    load = TINY if args.tiny else Load(repeats=1 if args.quick else 5)
    speeds = list(throughputs(device, load)) if CAPTURES.failure is None else []
    seconds = time.perf_counter() - started
    show(out, summary(checks, speeds))
    failed = failures(checks)
    counts = {s: sum(c.status == s for c in checks) for s in ("pass", "fail", "error", "refused")}
    line = ", ".join(f"{status} {count}" for status, count in counts.items())
    out.print(f"{len(checks)} checks in {seconds:.0f} s: {line}", highlight=False)
    _write(args.json, info, checks, speeds, seconds)
    out.print(f"All numbers: {args.json}", highlight=False, markup=False)
    broken = [speed for speed in speeds if speed.error]
    return 1 if failed or broken else 0


def _measure_throughput(
    args: argparse.Namespace, device: torch.device, info: dict[str, Any], out: Console
) -> int:
    """Measure all ways to train many cells; write each result as soon as it is there."""
    started, measured = time.perf_counter(), []
    for rate in rates(device, TINY_SIZE if args.tiny else Size()):
        measured.append(rate)
        speed = rate.error or f"{rate.steps_per_second:.0f} steps/s"
        name = f"{rate.network}, {rate.data}, {rate.method}, {rate.cells} cells"
        out.print(f"{name}: {speed}", highlight=False, markup=False)
        results = {
            "environment": info,
            "cuda_graphs": asdict(CAPTURES),
            "rates": [asdict(one) for one in measured],
            "seconds": time.perf_counter() - started,
        }
        atomic_write(args.json, json.dumps(results, indent=1).encode())
    show(out, table(measured))
    out.print(f"All numbers: {args.json}", highlight=False, markup=False)
    return 1 if any(rate.error for rate in measured) else 0


def all_checks(device: torch.device, *, tiny: bool, folder: Path) -> Iterator[Check]:
    """Run all checks one after the other.

    Parameters
    ----------
    device
        Device to check against the CPU.
    tiny
        Check options only in float32, stacks only for the options of `model`, and only one sweep.
    folder
        Folder for checkpoints and sweeps.
    """
    yield from step_checks(device, every_dtype=not tiny)
    yield from probe_checks(device)
    engines = ("stacked",) if tiny else ("serial", "stacked")
    yield from sweep_checks(device, folder / "sweeps", engines)
    yield from import_checks()
    # From here on this process captures CUDA graphs; a failed capture ends the checks.
    yield from invariance_checks(device, every_option=not tiny)
    yield from graph_checks(device)
    yield from stack_checks(device, every_option=not tiny)
    yield from divergence_checks(device)
    yield from checkpoint_checks(device, folder / "checkpoints")


def _failed_capture(reason: str) -> Check:
    """Return a failed check instead of those that would run in a process with a failed capture."""
    detail = f"{reason}; the remaining checks and the throughput were not run, because a failed "
    detail += "capture leaves torch's allocator and random numbers in an inconsistent state"
    return Check("CUDA graph", "capture", "failed capture", "error", 0.0, detail=detail)


def summary(checks: Iterable[Check], speeds: Iterable[Throughput]) -> Table:
    """Return a table with a row for each part and group, then one for each throughput."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.part, check.group), []).append(check)
    rows = []
    for (part, group), members in groups.items():
        worst = max(members, key=lambda check: check.ratio)
        failed = failures(members)
        refused = sum(check.status == "refused" for check in members)
        compared = worst.difference is not None and worst.tolerance is not None
        rows.append(
            (
                f"{part}: {group}",
                f"{len(members) - len(failed) - refused}/{len(members) - refused}",
                "FAIL" if failed else "pass",
                f"{worst.difference:.1e}" if compared else "",
                f"{worst.tolerance:.1e}" if compared else "",
                f"{worst.case} ({worst.quantity})",
                f"{sum(check.seconds for check in members):.1f}",
            )
        )
    for speed in speeds:
        ratio = speed.ratio
        rows.append(
            (
                f"throughput: {speed.network}, {speed.cells} cells",
                "",
                "ERROR" if ratio is None else f"x{ratio:.2f}",
                *("", "", speed.error or _milliseconds(speed), ""),
            )
        )
    return Table(
        title="GPU check",
        columns=(
            "",
            "passed",
            "result",
            "difference",
            "tolerance",
            "closest to its tolerance",
            "s",
        ),
        rows=tuple(rows),
        remarks=(
            "Differences are relative; each row shows the one closest to its tolerance. "
            "Throughput: cells per second, stacked relative to one at a time.",
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure throughput once (under 4 min)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="measure the throughput of all ways to train many cells, without checks (under 7 min)",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="run the smallest version of each check (dry run)"
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument(
        *("--json", "-o"),
        type=Path,
        default=Path("outputs/gpu.json"),
        metavar="FILE",
        help="JSON file for all results (default: outputs/gpu.json)",
    )
    return parser


def _print_failure(out: Console, check: Check) -> None:
    out.print(
        f"{check.status.upper()} {check.part}: {check.case}: {check.quantity} "
        f"{check.difference} > {check.tolerance} {check.detail}",
        highlight=False,
        markup=False,
    )


def _milliseconds(speed: Throughput) -> str:
    assert speed.serial_seconds is not None  # because the ratio is not None
    assert speed.stacked_seconds is not None
    serial, stacked = (1e3 * s for s in (speed.serial_seconds, speed.stacked_seconds))
    return f"{serial:.2f} ms, {stacked:.2f} ms per cell and step"


def _write(
    path: Path,
    info: dict[str, Any],
    checks: Sequence[Check],
    speeds: Sequence[Throughput] | None,
    seconds: float,
) -> None:
    """Write the report; `speeds` is None before throughput is measured."""
    throughput = speeds or ()
    report = {
        "complete": speeds is not None and CAPTURES.failure is None,
        "environment": info,
        "seconds": seconds,
        "cuda_graphs": asdict(CAPTURES),
        "passed": not failures(checks) and all(speed.error is None for speed in throughput),
        "checks": [asdict(check) for check in checks],
        "throughput": [asdict(speed) | {"ratio": speed.ratio} for speed in throughput],
    }
    atomic_write(path, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    raise SystemExit(main())
