"""Options of sbatch (`runner.slurm.*`), and the batch script that submitit generates from them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from submitit.slurm import slurm as submitit_slurm

MODULE = "experiments.sweep.slurm.array_task"
PROJECT_ROOT = Path(__file__).resolve().parents[3]  # must be importable on the nodes


@dataclass(frozen=True)
class SlurmSettings:
    """Options of sbatch for each job. None: the site's default.

    Parameters
    ----------
    partition, account, qos, constraint, exclude, nodelist, reservation
        The options of sbatch with these names.
    time_minutes
        Time limit of a job (minutes). A job that reaches it saves its state and is requeued.
    cpus
        Number of cores of a job.
    mem_gb
        Memory of a job (GB).
    gres
        Generic resources of a job, such as `gpu:1`.
    signal_seconds
        Time between the signal that makes a job save its state (`--signal`) and its end or
        preemption (seconds). Slurm's timing is imprecise by up to a minute.
    array_parallelism
        Maximum number of jobs of an array that run at once.
    setup
        Shell lines to run before the job's program, such as `module load cuda`.
    container
        Command that starts the job's program in a container, such as
        `apptainer exec --nv image.sif`.
    python
        Path of the Python interpreter on the nodes. None: the interpreter of the launcher.
    extra
        Other options of sbatch by their long names, such as `{mail-type: END}`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    reservation: str | None = None
    time_minutes: PositiveInt = 120
    cpus: PositiveInt = 1
    mem_gb: PositiveFloat | None = None
    gres: str | None = None
    signal_seconds: NonNegativeInt = 90
    array_parallelism: PositiveInt = 256
    setup: tuple[str, ...] = ()
    container: str | None = None
    python: str | None = None
    extra: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """Number of GPUs that a job asks for.

        Examples
        --------
        >>> [SlurmSettings(gres=gres).gpus for gres in ("gpu", "gpu:a100:4", "shard:2,gpu:2", None)]
        [1, 4, 2, 0]
        >>> SlurmSettings(extra={"gpus-per-node": "a100:2"}).gpus
        2
        """
        specs = [part for part in (self.gres or "").split(",") if re.match(r"gpu\b", part)]
        options = ("gpus", "gpus-per-node", "gpus-per-task", "gpus_per_node", "gpus_per_task")
        specs += [f"gpu:{self.extra[name]}" for name in options if name in self.extra]
        counts = (re.search(r":(\d+)(?:\(.*)?$", spec) for spec in specs)
        return sum(int(count[1]) if count else 1 for count in counts)

    def parameters(self) -> dict[str, Any]:
        """Return the settings as submitit's parameters."""
        optional = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "gres")
        values = {name: getattr(self, name) for name in optional}
        parameters = {name: value for name, value in values.items() if value is not None}
        additional: dict[str, Any] = {"requeue": True, **self.extra}
        if self.reservation is not None:
            additional["reservation"] = self.reservation
        if self.mem_gb is not None:
            additional["mem"] = f"{round(self.mem_gb * 1000)}M"
        return parameters | {
            "time": self.time_minutes,
            "cpus_per_task": self.cpus,
            "ntasks_per_node": 1,
            "signal_delay_s": self.signal_seconds,
            "array_parallelism": self.array_parallelism,
            "setup": list(self.setup) or None,
            "additional_parameters": additional,
        }


def batch_script(settings: SlurmSettings, root: Path, token: str, name: str, size: int) -> str:
    """Return the batch script of an array of `size` tasks.

    It starts this package's own program. Submitit's jobs, which load a pickled function, would wait
    for a file that the launcher writes only after sbatch has answered, and ignore SIGTERM.
    """
    python = settings.python or sys.executable
    command = f"{shlex.quote(python)} -u -m {MODULE} {shlex.quote(str(root))} {token}"
    if settings.container is not None:
        command = f"{settings.container} {command}"
    export_path = f"export PYTHONPATH={shlex.quote(str(PROJECT_ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters = settings.parameters() | {
        "wckey": None
    }  # overrides submitit's default, which some sites refuse
    parameters["setup"] = [*(parameters["setup"] or []), export_path]
    return submitit_slurm._make_sbatch_string(
        command=command,
        folder=root / "slurm" / token / "logs",
        job_name=name,
        map_count=size,
        **parameters,
    )
