"""Config keys in the order in which people are told them."""

from __future__ import annotations

GROUPS = (
    *("data", "scaling", "model", "activation", "init", "head", "loss"),
    *("optim", "schedule", "clip", "train", "probe"),
)
SEEDS = ("seed", "seed_weights", "seed_data")
ORDER = (*GROUPS, *SEEDS)


def place(key: str) -> tuple[int, str]:
    """What keys are sorted by: their group's place, then their name.

    >>> sorted(["seed", "optim.lr", "init.std", "init"], key=place)
    ['init', 'init.std', 'optim.lr', 'seed']
    """
    group = key.partition(".")[0]
    return (ORDER.index(group) if group in ORDER else len(ORDER), key)
