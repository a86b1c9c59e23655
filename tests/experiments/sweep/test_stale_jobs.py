"""Jobs without a heartbeat are stale; jobs that are still importing modules send one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from experiments.sweep.slurm.array_task import startup_heartbeat
from experiments.sweep.slurm.lease import StaleJobDetector

TASK = ("sweep.token", 0)
OLD = (0.0, 0.0)  # time stamps


def test_a_job_without_a_new_time_stamp_is_stale(tmp_path: Path) -> None:
    detector = StaleJobDetector(timeout=0)
    os.utime(tmp_path, OLD)
    assert detector.stale({TASK: tmp_path}) == []
    time.sleep(0.01)
    assert detector.stale({TASK: tmp_path}) == [TASK]


def test_a_job_that_is_still_importing_is_not_stale(tmp_path: Path) -> None:
    detector = StaleJobDetector(timeout=0)
    os.utime(tmp_path, OLD)
    assert detector.stale({TASK: tmp_path}) == []
    time.sleep(0.01)
    with startup_heartbeat(tmp_path):
        while tmp_path.stat().st_mtime == 0.0:
            time.sleep(0.01)
    assert detector.stale({TASK: tmp_path}) == []


def test_the_heartbeat_ends_quietly_when_the_lease_is_revoked(tmp_path: Path) -> None:
    with startup_heartbeat(tmp_path / "revoked", seconds=0.001):
        time.sleep(0.01)
