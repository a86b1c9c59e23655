"""The config groups of a cell, read from `conf/`: each folder there is a group of options."""

from __future__ import annotations

from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"

HOW_IT_RUNS = ("runner", "sweep")  # folders of `conf/` that are no part of a cell
UPDATES = ("optim", "schedule", "clip")  # the groups that say how a step changes the weights
SEEDS = ("seed", "seed_weights", "seed_data")


def _groups() -> tuple[str, ...]:
    """In the order of config.yaml: first its defaults, then what has a `_target_` in place."""
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    chosen = [group for entry in config["defaults"] if isinstance(entry, dict) for group in entry]
    in_place = [
        key for key, node in config.items() if isinstance(node, dict) and "_target_" in node
    ]
    return tuple(
        group
        for group in (*chosen, *in_place)
        if not group.startswith("override ") and group not in HOW_IT_RUNS
    )


GROUPS = _groups()
CELL_KEYS = (*GROUPS, *SEEDS)

# What the theory's predictions depend on, and what the shapes and the number of batches do.
PREDICTED_FROM = tuple(group for group in GROUPS if group not in (*UPDATES, "train"))
SHAPED_BY = tuple(group for group in GROUPS if group not in (*UPDATES, "init", "scaling"))
