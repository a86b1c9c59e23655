"""Which processes belong to a cluster, and which to one of its nodes.

A job's processes are known by what slurmd puts into their environment. A slurmstepd writes over
its own environment, but holds the log of its node's slurmd open. Children of either belong too.
A person's shell that merely exported SLURM_CONF does not belong.
"""

from __future__ import annotations

from fnmatch import fnmatch

from .layout import Layout
from .processes import Process, with_descendants

DAEMONS = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", "slurmd"}
CLIENTS = {"srun", "salloc", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct"}


def of_cluster(layout: Layout, everything: list[Process]) -> list[Process]:
    """Pick a cluster's daemons, step daemons, jobs, and clients that wait for an answer."""

    def belongs(one: Process) -> bool:
        if one.name in DAEMONS and one.mentions(f"{layout.folder}/"):
            return True
        if one.name in CLIENTS and f"SLURM_CONF={layout.slurm_conf}" in one.environment:
            return True
        return _is_step(layout, one) or _is_job(layout, one)

    return with_descendants(filter(belongs, everything), everything)


def of_node(layout: Layout, node: str, everything: list[Process]) -> list[Process]:
    """Pick what a power cut at one node ends: slurmd first, then step daemons, then jobs."""

    daemon = [one for one in everything if _is_slurmd(layout, one, node)]
    steps = [one for one in everything if _is_step(layout, one, node)]
    jobs = [one for one in everything if _is_job(layout, one, node)]
    return with_descendants([*daemon, *steps, *jobs], everything)


def _is_slurmd(layout: Layout, one: Process, node: str) -> bool:
    command = ("-f", str(layout.slurm_conf), "-N", node)
    return one.name == "slurmd" and one.arguments[-4:] == command


def _is_step(layout: Layout, one: Process, node: str = "*") -> bool:
    log = f"{layout.log}/slurmd-{node}.log"
    return one.name == "slurmstepd" and any(fnmatch(path, log) for path in one.open_files())


def _is_job(layout: Layout, one: Process, node: str = "*") -> bool:
    if f"SLURM_CLUSTER_NAME={layout.cluster_name}" not in one.environment:
        return False
    return any(fnmatch(word, f"SLURMD_NODENAME={node}") for word in one.environment)
