"""Benchmark: load a large sweep's tables (`python -m benchmarks.store [--quick] [--write]`).

`python -m benchmarks.store --load FOLDER` loads one sweep and prints the time as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from analysis.load import load
from benchmarks.measure import python, run
from benchmarks.page import Section, run_info, show, write
from experiments.atomic_write import atomic_write
from experiments.cell import run_cell
from experiments.config.catalog import assign, config_loader
from experiments.config.identity import cell_id
from experiments.console import exit_on_error
from experiments.result import CellResult
from experiments.schema import coerce_cell
from experiments.sweep.cli import compose_catalog
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.parquet import write_results
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

NAME = "benchmarks.store"
QUANTITIES = (
    "preact_mean",
    "preact_m2",
    "preact_var",
    "act_m2",
    "vjp_m2",
    "weight_vjp_m2",
    "grad_m2",
    "weight_grad_m2",
)


@dataclass(frozen=True)
class Size:
    """Size of a sweep."""

    cells: int = 10_000
    layers: int = 10
    draws: int = 8
    pack: int = 16  # cells per part file

    @property
    def rows(self) -> int:
        """Number of rows of `layers`."""
        return self.cells * self.layers * len(QUANTITIES) * self.draws


def fill(folder: SweepFolder, size: Size) -> None:
    """Write a sweep of random measurements in the format of the workers."""
    write_format(folder)
    atomic_write(folder.plan, b"")  # loading needs only these two files
    batch: list[CellResult] = []
    for number, result in enumerate(_results(size), start=1):
        batch.append(result)
        if len(batch) == size.pack or number == size.cells:
            write_results(folder, f"pack{number:06}", batch)
            batch = []


def load_in_subprocess(folder: SweepFolder) -> dict[str, float]:
    """Load a sweep in a subprocess; return its rows of `cells` and `layers`, and the seconds."""
    result: dict[str, float] = json.loads(run(python(NAME, "--load", str(folder.root))))
    return result


def section(size: Size, repeats: int, folder: SweepFolder) -> Section:
    """Write a sweep and load it several times, before and after merging its part files."""
    started = time.perf_counter()
    fill(folder, size)
    rows = [_row("as written", size, repeats, folder, time.perf_counter() - started)]
    started = time.perf_counter()
    run(python("experiments.compact", folder.root.name, f"--results={folder.root.parent}"))
    rows.append(_row("compacted", size, repeats, folder, time.perf_counter() - started))
    return Section(
        title="Store: loading a complete sweep into pandas (time of imports excluded)",
        columns=("", "cells", "rows of layers", "files", "MB", "n", "median s", "time to write, s"),
        rows=tuple(rows),
        remarks=(
            f"{size.layers} layers, {len(QUANTITIES)} quantities, {size.draws} draws, packs of "
            f"{size.pack} cells. The checksum of each part file is verified; repeated strings "
            "become pandas categoricals.",
        ),
    )


def _row(
    name: str, size: Size, repeats: int, folder: SweepFolder, write_seconds: float
) -> tuple[str, ...]:
    """Load a sweep several times; raise FaninError if the number of rows is wrong."""
    loads = [load_in_subprocess(folder) for _ in range(repeats)]
    for result in loads:
        if (result["cells"], result["layers"]) != (size.cells, size.rows):
            raise FaninError(
                f"{folder.root}: loaded {result['cells']} cells and {result['layers']} rows of "
                f"layers; expected {size.cells} and {size.rows}"
            )
    seconds = statistics.median(result["seconds"] for result in loads)
    parts = [path.stat().st_size for path in folder.root.rglob("*.parquet")]
    sizes = (f"{size.cells:,}", f"{size.rows:,}", f"{len(parts):,}", f"{sum(parts) / 1e6:.0f}")
    return name, *sizes, str(repeats), f"{seconds:.2f}", f"{write_seconds:.0f}"


def main() -> int:
    """Measure how long loading a large sweep takes; print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="measure a tenth of the cells, once")
    parser.add_argument("--write", action="store_true", help="update docs/appendix/performance.md")
    parser.add_argument("--load", type=Path, metavar="FOLDER", help="time one load and print JSON")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(_load(args.load)))
        return 0
    info, out = run_info(NAME), Console()
    for line in info.lines:
        out.print(line, highlight=False, markup=False)
    size, repeats = (Size(cells=1000), 1) if args.quick else (Size(), 5)
    with exit_on_error():
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as name:
            result = section(size, repeats, SweepFolder(Path(name) / "large"))
        show(out, result)
        if args.write:
            write(NAME, info, [result])
    return 0


def _load(root: Path) -> dict[str, float]:
    started = time.perf_counter()
    results = load(root.name, root.parent)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cells": len(results.cells), "layers": len(results.layers)}


def _results(size: Size) -> Iterator[CellResult]:
    """Yield results with the row of a real cell, different seeds and random measurements."""
    space = compose_catalog(config_loader(), "config", ())
    base = space.base
    for key, value in {"data.n_train": 10, "train.steps": 0, "probe.draws": 0}.items():
        base = assign(base, key, value)
    config = coerce_cell(base)
    row = run_cell(config, torch.device("cpu")).row
    ran = {"engine": "serial", "attempt": 1, "host": "here", "device": "cpu", "code": "none"}
    random = np.random.default_rng(0)
    for seed in range(size.cells):
        named = {"cell_id": cell_id(config | {"seed": seed}), **space.defaults}
        yield CellResult(named | row | {"seed": seed} | ran, {"layers": _layers(size, random)})


def _layers(size: Size, random: np.random.Generator) -> dict[str, list[object]]:
    draws, layers = range(size.draws), range(1, size.layers + 1)
    keys = [(draw, layer, q) for draw in draws for layer in layers for q in QUANTITIES]
    columns: dict[str, Iterable[object]] = {
        "image": [-1] * len(keys),
        "layer": [layer for _, layer, _ in keys],
        "layer_name": [f"conv{layer}" for _, layer, _ in keys],
        "quantity": [quantity for _, _, quantity in keys],
        "value": random.lognormal(size=len(keys)).tolist(),
        "draw": [draw for draw, _, _ in keys],
        "step": [0] * len(keys),
    }
    return {name: list(values) for name, values in columns.items()}


if __name__ == "__main__":
    raise SystemExit(main())
