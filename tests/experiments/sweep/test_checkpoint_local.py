"""On one's own machine, too, a long cell goes on where it was kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from sweep_process import Site, finish

from analysis import load

STEPS = "train.steps=2050"


@pytest.mark.slow
@pytest.mark.parametrize("every", ["0", "null"])
def test_a_killed_cell_goes_on_at_its_checkpoint(faulty: Site, every: str) -> None:
    """A process that comes to its two thousandth step of this cell dies there."""
    words = tuple(STEPS if word.startswith("train.steps") else word for word in faulty.words)
    faulty = replace(faulty, words=(*words, "runner.workers=1"))
    faulty.tell("late-0", "kill")
    for _ in range(2):
        sweep = faulty.start("init.number=range(2)", f"runner.checkpoint_seconds={every}")
        said = finish(sweep)
    outcomes = Counter(load("s", faulty.root).cells["outcome"].astype(str))
    assert outcomes == (Counter(killed=1, ok=1) if every == "null" else Counter(ok=2)), said
    assert not list(faulty.folder.checkpoints.glob("*"))
