"""Checkpoints of the local runner."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from sweep_process import Site, wait_for_output

from analysis import load

STEPS = "train.steps=2050"


@pytest.mark.slow
@pytest.mark.parametrize("every", ["0", "null"])
def test_killed_cell_resumes_from_its_checkpoint(faulty: Site, every: str) -> None:
    """Each process dies at its two thousandth training step of cell 0."""
    arguments = tuple(
        STEPS if word.startswith("train.steps") else word for word in faulty.base_arguments
    )
    faulty = replace(faulty, base_arguments=(*arguments, "runner.workers=1"))
    faulty.write_file("late-0", "kill")
    for _ in range(2):
        sweep = faulty.start("init.number=range(2)", f"runner.checkpoint_seconds={every}")
        output = wait_for_output(sweep)
    outcomes = Counter(load("s", faulty.root).cells["outcome"].astype(str))
    assert outcomes == (Counter(killed=1, ok=1) if every == "null" else Counter(ok=2)), output
    assert not list(faulty.folder.checkpoints.glob("*"))
