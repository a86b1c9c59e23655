"""The batch script of a job array, as submitit writes it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from submitit.slurm import slurm as submitit_slurm

from experiments.sweep.slurm.settings import SlurmSettings

MODULE = "experiments.sweep.slurm.element"
HOUSE = Path(__file__).resolve().parents[3]  # what must be importable on the nodes


def batch_script(settings: SlurmSettings, root: Path, token: str, name: str, size: int) -> str:
    """The text that sbatch is given.

    Submitit's own launching of pickled functions is left aside: its jobs wait for files that a
    submitter writes after sbatch has answered, and answer no SIGTERM.

    Parameters
    ----------
    settings
        What the site is asked for.
    root
        The sweep's folder.
    token
        Names the submission.
    name
        The job's name.
    size
        How many elements the array has.
    """
    python = settings.python or sys.executable
    command = f"{shlex.quote(python)} -u -m {MODULE} {shlex.quote(str(root))} {token}"
    if settings.container is not None:
        command = f"{settings.container} {command}"
    house = f"export PYTHONPATH={shlex.quote(str(HOUSE))}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters = settings.parameters() | {"wckey": None}  # submitit's default; sites may refuse it
    parameters["setup"] = [*(parameters["setup"] or []), house]
    return submitit_slurm._make_sbatch_string(
        command=command,
        folder=root / "slurm" / token / "logs",
        job_name=name,
        map_count=size,
        **parameters,
    )
