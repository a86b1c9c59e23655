"""The config groups of a cell, read from `conf/`: each folder is a group of options."""

from __future__ import annotations

from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"

EXECUTION_GROUPS = ("runner", "sweep")  # folders of `conf/` that are not part of a cell
UPDATE_GROUPS = ("optim", "schedule", "clip")  # groups that define the weight update
SEEDS = ("seed", "seed_weights", "seed_data")


def _groups() -> tuple[str, ...]:
    """Return the groups of config.yaml: those in its defaults list, then nodes with `_target_`."""
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    defaults = [group for entry in config["defaults"] if isinstance(entry, dict) for group in entry]
    nodes = [key for key, node in config.items() if isinstance(node, dict) and "_target_" in node]
    return tuple(
        group
        for group in (*defaults, *nodes)
        if not group.startswith("override ") and group not in EXECUTION_GROUPS
    )


GROUPS = _groups()
CELL_KEYS = (*GROUPS, *SEEDS)

# Groups that predictions depend on, and groups that tensor shapes and the step count depend on.
PREDICTION_GROUPS = tuple(group for group in GROUPS if group not in (*UPDATE_GROUPS, "train"))
SHAPE_GROUPS = tuple(group for group in GROUPS if group not in (*UPDATE_GROUPS, "init", "scaling"))
