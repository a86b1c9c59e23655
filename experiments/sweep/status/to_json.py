"""Conversion of a sweep's status to JSON (keys: docs/appendix/status-json.md)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from experiments.sweep.status.format import reason_text
from experiments.sweep.status.slurm import JobArray, Jobs
from experiments.sweep.status.status import Status, Worker


def status_to_json(status: Status) -> dict[str, Any]:
    """Return a status as JSON data: durations in seconds, times in ISO 8601."""
    now = datetime.now().astimezone()
    launcher = status.launcher
    end = None if status.seconds_left is None else now + timedelta(seconds=status.seconds_left)
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
            "heartbeat_age_seconds": round(launcher.heartbeat_age, 3),
        },
        "slurm": None if status.jobs is None else jobs_to_json(status.jobs),
        "workers": [_worker(worker) for worker in status.workers],
        "elapsed_seconds": round(status.elapsed, 3),
        "cells_per_minute": status.cells_per_minute,
        "seconds_left": status.seconds_left,
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
        "code_versions": dict(status.code_versions),
        "warnings": list(status.warnings),
        "last_change": iso_time(status.last_change),
        "now": now.isoformat(timespec="seconds"),
    }


def iso_time(seconds: float | None) -> str | None:
    """Return a time in ISO 8601 with its time zone."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "heartbeat_age_seconds": round(worker.heartbeat_age, 3),
        "cells": [
            {
                "cell_id": cell.cell_id,
                "label": cell.label,
                "progress": cell.progress,
                "seconds": round(cell.seconds, 3),
                "lower_bound": cell.lower_bound,
            }
            for cell in worker.cells
        ],
    }


def jobs_to_json(jobs: Jobs) -> dict[str, Any]:
    """Return the state of a sweep's jobs as JSON data."""
    return {
        "answered": jobs.running_leases is not None,
        "note": jobs.note,
        "submissions": [_array(array) for array in jobs.arrays],
    }


def _array(array: JobArray) -> dict[str, Any]:
    return {
        "job_id": array.job_id,
        "job_name": array.name,
        "tasks_left": array.unfinished,
        "running": array.running,
        "nodes": list(array.nodes),
        "pending": [
            {
                "count": tasks.count,
                "reason": tasks.reason or None,
                "explanation": reason_text(tasks.reason),
            }
            for tasks in array.pending
        ],
        "expected_start": None
        if array.expected_start is None
        else array.expected_start.astimezone().isoformat(timespec="seconds"),
        "held": [f"{array.job_id}_{index}" for index in sorted(array.held)],
        "release_command": array.release_command,
        "requeued": array.requeued,
        "missing": array.missing,
    }
