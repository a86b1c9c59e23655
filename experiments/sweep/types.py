"""What is handed to a worker: cells alike enough to run in one process, on one copy of the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from experiments.config.instantiate import TARGET

Engine = Literal["serial", "stacked"]

# Cells of a pack differ at most in these and in the numbers of their optimizer, so they share data,
# network and warmed-up code, and can be stacked into one program.
VARIES_IN_PACK = ("init", "scaling", "seed", "seed_weights", "seed_data")


@dataclass(frozen=True)
class Task:
    """A cell to run, and which attempt at it this is; `lost`: how many were lost before it.

    Counted from when it was asked for: a launch that finds it lost asks for it anew.
    """

    cell_id: str
    attempt: int
    config: dict[str, Any]
    choices: dict[str, str | None]
    lost: int = 0


@dataclass(frozen=True)
class Pack:
    """Cells that run in one process: `serial`, one after the other; `stacked`, as one program.

    `seconds` is how long they are expected to take, more or less.
    """

    tasks: tuple[Task, ...]
    engine: Engine = "serial"
    seconds: float = 0.0


def similar(config: Mapping[str, Any]) -> str:
    """What the cells of a pack have in common, as text. Such cells take about as long."""
    kept = {key: value for key, value in config.items() if key not in VARIES_IN_PACK}
    return json.dumps(kept | {"optim": config["optim"][TARGET]}, sort_keys=True)


def grouped(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """The tasks that could share a pack, by what they have in common."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(similar(task.config), []).append(task)
    return groups
