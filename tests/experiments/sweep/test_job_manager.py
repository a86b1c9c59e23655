"""`JobManager` with a replaced `submit`: it needs no Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.sweep.slurm import job_manager
from experiments.sweep.slurm.commands import SlurmJobLimit
from experiments.sweep.slurm.job_manager import JobManager
from experiments.sweep.slurm.lease import StaleJobDetector
from experiments.sweep.slurm.submission import JobConfig, open_submissions, write_submission
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack, PackedCell

PACKS = (Pack((PackedCell("a", 1, {}, {}),), "serial", 1.0),)


def test_an_array_that_was_never_submitted_waits_for_the_job_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = SweepFolder(tmp_path / "s"), JobConfig("code")
    write_submission(folder, [PACKS, PACKS], config)  # its launcher was killed before sbatch
    manager = JobManager(
        *(folder, config, lambda submission: "", 10, None, lambda: None, StaleJobDetector(60.0))
    )

    def refuse(*_: object) -> None:
        raise SlurmJobLimit("too many jobs")

    monkeypatch.setattr(job_manager, "submit", refuse)
    manager.resume_unsubmitted()
    assert open_submissions(folder) == []
    assert [shard for shard, _ in manager.queue] == [PACKS, PACKS]
    manager.submit_pending()
    assert not manager.idle

    monkeypatch.setattr(job_manager, "submit", lambda submission, _: submission.write_job_id("7"))
    manager.submit_pending()
    (submission,) = open_submissions(folder)
    assert (submission.size, submission.job_id(), list(manager.queue)) == (2, "7", [])
