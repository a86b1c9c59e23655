"""A sweep's status as JSON for scripts; docs/sweeps.md explains the keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from experiments.sweep.status.format import reason_text
from experiments.sweep.status.slurm import JobArray, Jobs
from experiments.sweep.status.status import Status, Worker


def as_json(status: Status) -> dict[str, Any]:
    """Everything in a status as plain data: seconds as numbers, times in ISO 8601."""
    now = datetime.now().astimezone()
    launcher = status.launcher
    end = None if status.left is None else now + timedelta(seconds=status.left)
    return {
        "name": status.name,
        "folder": str(status.folder.root),
        "state": status.state,
        "cells": status.cells,
        "counts": dict(status.counts),
        "outcomes": dict(status.outcomes),
        "launcher": None
        if launcher is None
        else {
            "host": launcher.host,
            "pid": launcher.pid,
            "alive": launcher.alive,
            "heard_seconds": round(launcher.heard, 3),
        },
        "slurm": None if status.jobs is None else jobs_as_json(status.jobs),
        "workers": [_worker(worker) for worker in status.workers],
        "elapsed_seconds": round(status.elapsed, 3),
        "cells_per_minute": status.per_minute,
        "seconds_left": status.left,
        "expected_end": None if end is None else end.isoformat(timespec="seconds"),
        "failures": [
            {
                "cell_id": failure.cell_id,
                "label": failure.label,
                "outcome": failure.outcome,
                "attempt": failure.attempt,
                "reason": failure.reason,
                "traceback": None if failure.traceback is None else str(failure.traceback),
            }
            for failure in status.failures
        ],
        "engines": dict(status.engines),
        "codes": dict(status.codes),
        "warnings": list(status.warnings),
        "changed": iso_time(status.changed),
        "now": now.isoformat(timespec="seconds"),
    }


def iso_time(seconds: float | None) -> str | None:
    """A file's time in ISO 8601, with its time zone."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "heard_seconds": round(worker.heard, 3),
        "cells": [
            {
                "cell_id": cell.cell_id,
                "label": cell.label,
                "share": cell.share,
                "seconds": round(cell.seconds, 3),
                "at_least": cell.at_least,
            }
            for cell in worker.cells
        ],
    }


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
            {"count": wait.count, "reason": wait.reason or None, "words": reason_text(wait.reason)}
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
