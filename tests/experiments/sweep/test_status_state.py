"""State of a sweep that nobody runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.sweep.status.snapshot import PlannedCells, Result, Snapshot
from experiments.sweep.status.status import Scope, compute_status
from experiments.sweep.store.paths import SweepFolder


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("ok", "finished"), ("error", "finished"), ("killed", "stopped"), ("node_fail", "stopped")],
)
def test_a_sweep_is_finished_when_no_cell_would_run_again(
    tmp_path: Path, outcome: str, state: str
) -> None:
    results = {
        "a": Result("ok", 1, this_run=True, order=0),
        "b": Result(outcome, 1, this_run=True, order=1),
    }
    planned = PlannedCells(labels={"a": "a", "b": "b"}, kinds={"a": "k", "b": "k"})
    status = compute_status(
        SweepFolder(tmp_path / "s"),
        planned,
        Snapshot(results, (), (), (), None),
        launcher=None,
        elapsed=1.0,
        scope=Scope({"a", "b"}),
    )
    assert status.state == state
