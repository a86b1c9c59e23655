"""Benchmark: planning a grid, from the command line to type-checked cells with ids.

`python -m benchmarks.planning OVERRIDES` plans one grid and prints the time as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.measure import python, run
from benchmarks.page import Section
from experiments.config.catalog import config_loader
from experiments.sweep.cli import check_command, compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request

Log = Callable[[str], None]
GRIDS = {
    "mixed axes": (
        "init=he_normal,xavier_normal,lecun_normal,normal,uniform,"
        "orthogonal,he_uniform,zeros,lsuv,constant",
        "activation=relu,tanh,gelu,sigmoid,elu",
        "model=mlp,plain",
        "optim.lr=0.1,0.01,0.001,0.3",
        "seed=range(25)",
    ),
    "groups only": (
        "data=digits,shapes,mnist",
        "model=two_layer,plain",
        "activation=relu,tanh,gelu,elu",
        "scaling=raw,unit,standardize",
        "init=he_normal,xavier_normal,lecun_normal,uniform,orthogonal",
        "optim=sgd,adam",
        "schedule=constant,cosine",
        "clip=none,norm",
    ),
}


def planning(repeats: int, log: Log) -> Section:
    """Time the planning of large grids, each in a new process; do not count the imports."""
    rows = []
    for name, overrides in GRIDS.items():
        log(f"planning, {name}, {repeats} times")
        results = [plan_in_subprocess(overrides) for _ in range(repeats)]
        cells, seconds = results[0][0], statistics.median(seconds for _, seconds in results)
        rows.append((name, f"{cells:,}", str(repeats), f"{seconds:.2f}"))
    return Section(
        title="Planning: compose, type-check and hash all cells (time of imports excluded)",
        columns=("grid", "cells", "n", "median s"),
        rows=tuple(rows),
    )


def plan_in_subprocess(overrides: Sequence[str]) -> tuple[int, float]:
    """Plan a grid in a subprocess; return the number of cells and the seconds."""
    result = json.loads(run(python(__name__, *overrides)))
    return result["cells"], result["seconds"]


def plan(overrides: Sequence[str]) -> int:
    """Plan a grid as the command line does; return the number of different cells."""
    loader = config_loader()
    checked = check_command(loader, "config", overrides, multirun=True)
    space = compose_catalog(loader, "config", ())
    request = parse_request(space, parse_arguments(loader, checked))
    return len({cell.id for cell in expand(space, request.grids)})


def main() -> None:
    """Plan the grid of the command line."""
    started = time.perf_counter()
    cells = plan(sys.argv[1:])
    print(json.dumps({"cells": cells, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
