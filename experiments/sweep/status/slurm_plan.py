"""Output of `sweep.mode=plan` for a sweep on Slurm: job arrays, cost and batch script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from experiments.sweep.plan import Plan
from experiments.sweep.request import Request
from experiments.sweep.slurm.commands import SlurmError, max_array_size
from experiments.sweep.slurm.job_manager import array_sizes
from experiments.sweep.slurm.runner import SlurmRunner
from experiments.sweep.slurm.script import SlurmSettings
from experiments.sweep.slurm.submission import JobConfig, Submission, make_job_name
from experiments.sweep.status.format import duration, plural

DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's default of MaxArraySize
FEW_JOBS = 8  # fewer may leave nodes idle
SAFETY = 3  # recommended time limit / measured time
MIN_LIMIT = 10  # minutes, for the start of a job and its checkpoints
LONG_LIMIT = 4  # a limit this many times the recommended one delays the start of jobs
TOKEN = "TOKEN"  # placeholder for the token of a submission


def show_slurm_plan(console: Console, request: Request, plan: Plan, summary: str) -> None:
    """Print the number of jobs and arrays, the resources of a job, and the first batch script.

    `summary` is the start of the first line: the numbers of cells and packs.
    """
    runner = request.runner
    if not isinstance(runner, SlurmRunner):
        console.print(f"{summary}.", highlight=False)
        return
    n_jobs = len(runner.shards(plan.packs))
    max_size, source = array_size(runner)
    sizes = array_sizes([()] * n_jobs, min(max_size, runner.max_jobs or max_size))
    cost = cost_text(runner, plan.expected_seconds, plan.times.all_measured)
    lines = [
        f"{summary} as {plural(n_jobs, 'job')} in {_arrays_text(sizes)}: {cost}.",
        f"  {source}",
        f"  resources of each job: {resources_text(runner.slurm)}",
        f"  at most {plural(runner.slurm.array_parallelism, 'job')} of an array run at once",
        *(f"  {hint}" for hint in hints(runner, plan)),
    ]
    if runner.max_jobs is not None:
        lines.append(
            f"  at most {plural(runner.max_jobs, 'job')} of this sweep at once (runner.max_jobs): "
            "the launcher submits the next array when jobs have ended"
        )
    note = f"{TOKEN} is replaced by a unique token at submission"
    if len(sizes) > 1:
        note = f"of the first array; the others differ in --array and {TOKEN}; {note}"
    lines.append(f"Batch script ({note}):")
    for line in [*lines, script(request, runner, sizes[0])]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def hints(runner: SlurmRunner, plan: Plan) -> list[str]:
    """Return settings that give more parallel jobs, or that let Slurm start the jobs sooner."""
    lines = []
    shards = runner.shards(plan.packs)
    if len(shards) < FEW_JOBS:
        for minutes in (30, 15, 5, 2, 1):
            more = len(replace(runner, target_minutes=minutes).shards(plan.packs))
            if more >= FEW_JOBS or minutes == 1:
                break
        if more > len(shards):
            lines.append(
                f"only {plural(len(shards), 'job')}; runner.target_minutes={minutes} gives about "
                f"{plural(more, 'job')} that can run at the same time"
            )
    limit = runner.slurm.time_minutes
    if plan.times.all_measured:
        longest = max(
            max(sum(pack.seconds for pack in shard) / runner.job_workers, shard[0].seconds)
            for shard in shards
        )
        needed = max(math.ceil(SAFETY * longest / 60), MIN_LIMIT)
        if limit >= LONG_LIMIT * needed:
            lines.append(
                f"a job needs about {duration(longest)}, its time limit is {duration(60 * limit)}; "
                f"runner.slurm.time_minutes={needed} lets Slurm start jobs sooner"
            )
    return lines


def script(request: Request, runner: SlurmRunner, size: int) -> str:
    """Return the batch script of an array with `size` tasks."""
    name = make_job_name(request.name, TOKEN)
    return runner.script(Submission(request.folder, TOKEN, name, size, "", JobConfig("")))


def array_size(runner: SlurmRunner) -> tuple[int, str]:
    """Return the maximum number of tasks in an array, and the source of this number."""
    if runner.max_array_size is not None:
        return (
            runner.max_array_size,
            f"MaxArraySize {runner.max_array_size} (runner.max_array_size)",
        )
    try:
        size = max_array_size()
    except SlurmError:
        size = DEFAULT_MAX_ARRAY_SIZE
        return size, f"MaxArraySize {size} (Slurm's default; scontrol did not answer)"
    return size, f"MaxArraySize {size} (scontrol show config)"


def cost_text(runner: SlurmRunner, seconds: float, measured: bool) -> str:
    """Return the cost of a sweep that takes one worker the given time (seconds).

    Examples
    --------
    >>> cost_text(SlurmRunner(workers=2, slurm=SlurmSettings(gres="gpu:1")), 36_000.0, True)
    'about 5.0 GPU-hours, measured on similar cells'
    >>> cost_text(SlurmRunner(slurm=SlurmSettings(cpus=8)), 60.0, False)
    'less than 0.1 core-hours, estimated'
    """
    gpus = runner.slurm.gpus
    units, unit = (gpus, "GPU") if gpus else (runner.slurm.cpus, "core")
    hours = seconds * units / (runner.workers or units) / 3600
    amount = "less than 0.1" if hours < 0.1 else f"about {hours:,.{0 if hours >= 10 else 1}f}"
    return f"{amount} {unit}-hours, {'measured on similar cells' if measured else 'estimated'}"


def resources_text(settings: SlurmSettings) -> str:
    """Return the resources that each job requests."""
    options = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "reservation")
    values = {name: getattr(settings, name) for name in options}
    parts = [f"{name} {value}" for name, value in values.items() if value is not None]
    parts += [duration(60 * settings.time_minutes), plural(settings.cpus, "core")]
    if settings.mem_gb is not None:
        parts.append(f"{settings.mem_gb:g} GB")
    if settings.gres is not None:
        parts.append(settings.gres)
    return ", ".join(parts + [f"{key} {value}" for key, value in settings.extra.items()])


def _arrays_text(sizes: Sequence[int]) -> str:
    """Return the number and the sizes of the arrays; all but the last have the same size."""
    if len(sizes) == 1:
        return "1 array"
    last = "" if sizes[0] == sizes[-1] else f" (the last of {sizes[-1]})"
    return f"{len(sizes):,} arrays of {sizes[0]}{last}"
