"""A sweep's jobs for scripts; docs/sweeps.md says what the keys mean."""

from __future__ import annotations

from typing import Any

from experiments.sweep.status.format import in_words
from experiments.sweep.status.slurm import JobArray, Jobs


def jobs_as_json(jobs: Jobs) -> dict[str, Any]:
    """Everything about a sweep's jobs as plain data."""
    return {
        "answered": jobs.at_work is not None,
        "note": jobs.note,
        "submissions": [_array(array) for array in jobs.arrays],
    }


def _array(array: JobArray) -> dict[str, Any]:
    return {
        "job_id": array.job_id,
        "job_name": array.name,
        "elements_left": array.left,
        "running": array.running,
        "nodes": list(array.nodes),
        "waiting": [
            {"count": wait.count, "reason": wait.reason or None, "words": in_words(wait.reason)}
            for wait in array.waits
        ],
        "expected_start": None
        if array.start is None
        else array.start.astimezone().isoformat(timespec="seconds"),
        "held": [f"{array.job_id}_{index}" for index in sorted(array.held)],
        "release": array.release,
        "requeued": array.requeued,
        "gone": array.absent,
    }
