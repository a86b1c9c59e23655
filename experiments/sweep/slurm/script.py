"""Options of sbatch (`runner.slurm.*`), and the batch script that submitit makes of them."""

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
HOUSE = Path(__file__).resolve().parents[3]  # what must be importable on the nodes


@dataclass(frozen=True)
class SlurmSettings:
    """Options of sbatch for each job; None leaves the choice to the site.

    Parameters
    ----------
    partition, account, qos, constraint, exclude, nodelist, reservation
        As sbatch has them.
    time_minutes
        Time limit of a job. What isn't finished by then goes on in a requeued one.
    cpus
        Cores of a job.
    mem_gb
        Memory of a job (GB).
    gres
        Generic resources of a job, such as `gpu:1`.
    signal_seconds
        How long before its end, or its preemption, a job is told (`--signal`), to keep what it is
        at. Slurm's timing is loose: leave a minute.
    array_parallelism
        How many jobs of an array run at once.
    setup
        Shell lines before the work: modules, an environment.
    container
        What the work is started with, such as `apptainer exec --nv image.sif`.
    python
        The interpreter on the nodes; None: this one.
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
        said = [part for part in (self.gres or "").split(",") if re.match(r"gpu\b", part)]
        named = ("gpus", "gpus-per-node", "gpus-per-task", "gpus_per_node", "gpus_per_task")
        said += [f"gpu:{self.extra[name]}" for name in named if name in self.extra]
        counts = (re.search(r":(\d+)(?:\(.*)?$", part) for part in said)
        return sum(int(count[1]) if count else 1 for count in counts)

    def parameters(self) -> dict[str, Any]:
        """Return the settings in submitit's words."""
        named = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "gres")
        given = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        more: dict[str, Any] = {"requeue": True, **self.extra}
        if self.reservation is not None:
            more["reservation"] = self.reservation
        if self.mem_gb is not None:
            more["mem"] = f"{round(self.mem_gb * 1000)}M"
        return given | {
            "time": self.time_minutes,
            "cpus_per_task": self.cpus,
            "ntasks_per_node": 1,
            "signal_delay_s": self.signal_seconds,
            "array_parallelism": self.array_parallelism,
            "setup": list(self.setup) or None,
            "additional_parameters": more,
        }


def batch_script(settings: SlurmSettings, root: Path, token: str, name: str, size: int) -> str:
    """Return the text that sbatch is given for an array of `size` elements.

    Submitit's own launching of pickled functions is left aside: its jobs wait for files that a
    submitter writes after sbatch has answered, and answer no SIGTERM.
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
