"""From a command line to typed, hashed cells; nothing runs.

`python -m benchmarks.planning WORDS` plans one grid in a fresh process and prints what it took.
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

Say = Callable[[str], None]
GRIDS = {
    "mixed axes": (
        "init=he_normal,xavier_normal,lecun_normal,normal,uniform,"
        "orthogonal,he_uniform,zeros,lsuv,constant",
        "activation=relu,tanh,gelu,sigmoid,elu",
        "model=mlp,plain",
        "optim.lr=0.1,0.01,0.001,0.3",
        "seed=range(25)",
    ),
    "groups alone": (
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


def planning(repeats: int, say: Say) -> Section:
    """Time the planning of large grids, imports left out, each time in a fresh process."""
    rows = []
    for name, words in GRIDS.items():
        say(f"planning, {name}, {repeats} times")
        found = [planned_afresh(words) for _ in range(repeats)]
        cells, seconds = found[0][0], statistics.median(took for _, took in found)
        rows.append((name, f"{cells:,}", str(repeats), f"{seconds:.2f}"))
    return Section(
        title="Planning: composed, type-checked and hashed, after imports",
        columns=("grid", "cells", "n", "median s"),
        rows=tuple(rows),
    )


def planned_afresh(words: Sequence[str]) -> tuple[int, float]:
    """Cells and seconds of a grid's planning in a process of its own."""
    found = json.loads(run(python(__name__, *words)))
    return found["cells"], found["seconds"]


def plan(words: Sequence[str]) -> int:
    """Plan a grid as the command line does; the number of different cells."""
    loader = config_loader()
    checked = check_command(loader, "config", words, multirun=True)
    space = compose_catalog(loader, "config", ())
    request = parse_request(space, parse_arguments(loader, checked))
    return len({cell.id for cell in expand(space, request.grids)})


def main() -> None:
    """Plan the grid that the command line describes."""
    began = time.perf_counter()
    cells = plan(sys.argv[1:])
    print(json.dumps({"cells": cells, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
