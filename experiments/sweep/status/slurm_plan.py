"""Output of `sweep.mode=plan` for a sweep on Slurm: arrays, their cost, and their script."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from experiments.sweep.plan import Plan
from experiments.sweep.request import Request
from experiments.sweep.slurm.commands import SlurmError, max_array_size
from experiments.sweep.slurm.job_manager import arrays_needed
from experiments.sweep.slurm.runner import SlurmRunner
from experiments.sweep.slurm.script import SlurmSettings
from experiments.sweep.slurm.submission import NAME_LENGTH, JobConfig, Submission
from experiments.sweep.status.format import duration, plural

USUAL_SIZE = 1001  # Slurm's own default of MaxArraySize
TOKEN = "TOKEN"  # stands for what each submission's own name will be


def show_slurm_plan(console: Console, request: Request, plan: Plan, what: str) -> None:
    """Print how many jobs in how many arrays, what is asked of Slurm, and the first script.

    `what` begins the first line: which cells, in which packs.
    """
    runner = request.runner
    if not isinstance(runner, SlurmRunner):
        console.print(f"{what}.", highlight=False)
        return
    jobs = len(runner.shards(plan.packs))
    size, whence = array_size(runner)
    sizes = arrays_needed([()] * jobs, min(size, runner.max_jobs or size))
    expected = cost(runner, plan.expected_seconds)
    said = [
        f"{what} as {plural(jobs, 'job')} in {_arrays(sizes)}: {expected}.",
        f"  {whence}",
        f"  each job asks for: {asked(runner.slurm)}",
        f"  at most {plural(runner.slurm.array_parallelism, 'job')} of an array at once",
    ]
    if runner.max_jobs is not None:
        said.append(
            f"  at most {plural(runner.max_jobs, 'job')} of this sweep at once (runner.max_jobs): "
            "later arrays follow, of as many jobs as have ended"
        )
    drawn = f"{TOKEN} is drawn when it is submitted"
    if len(sizes) > 1:
        drawn = f"the first array's; others differ in --array and {TOKEN}; {drawn}"
    said.append(f"What sbatch is given ({drawn}):")
    for line in [*said, script(request, runner, sizes[0])]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def script(request: Request, runner: SlurmRunner, size: int) -> str:
    """The batch script of an array of so many jobs, as it would be submitted."""
    name = f"{request.name[:NAME_LENGTH]}.{TOKEN}"
    return runner.script(Submission(request.folder, TOKEN, name, size, "", JobConfig("")))


def array_size(runner: SlurmRunner) -> tuple[int, str]:
    """Most jobs of an array, and where that comes from."""
    if runner.max_array_size is not None:
        return runner.max_array_size, f"MaxArraySize {runner.max_array_size}, as you say"
    try:
        size = max_array_size()
    except SlurmError:
        return USUAL_SIZE, f"MaxArraySize {USUAL_SIZE}, Slurm's default: there is no Slurm to ask"
    return size, f"MaxArraySize {size}, as scontrol says"


def cost(runner: SlurmRunner, seconds: float | None) -> str:
    """Return the cost of a sweep for which one worker would take so many seconds.

    Examples
    --------
    >>> cost(SlurmRunner(workers=2, slurm=SlurmSettings(gres="gpu:1")), 36_000.0)
    'about 5.0 GPU-hours, by what such cells have taken'
    >>> cost(SlurmRunner(slurm=SlurmSettings(cpus=8)), 60.0)
    'less than 0.1 core-hours, by what such cells have taken'
    """
    gpus = runner.slurm.gpus
    units, unit = (gpus, "GPU") if gpus else (runner.slurm.cpus, "core")
    if seconds is None:
        return f"no timings of such cells yet to say how many {unit}-hours it takes"
    hours = seconds * units / (runner.workers or units) / 3600
    said = "less than 0.1" if hours < 0.1 else f"about {hours:,.{0 if hours >= 10 else 1}f}"
    return f"{said} {unit}-hours, by what such cells have taken"


def asked(settings: SlurmSettings) -> str:
    """Return what each job asks of Slurm, in words."""
    named = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "reservation")
    said = [f"{name} {value}" for name in named if (value := getattr(settings, name)) is not None]
    said += [duration(60 * settings.time_minutes), plural(settings.cpus, "core")]
    if settings.mem_gb is not None:
        said.append(f"{settings.mem_gb:g} GB")
    if settings.gres is not None:
        said.append(settings.gres)
    return ", ".join(said + [f"{key} {value}" for key, value in settings.extra.items()])


def _arrays(sizes: Sequence[int]) -> str:
    """Return the number and sizes of the arrays; all but the last are alike."""
    if len(sizes) == 1:
        return "1 array"
    last = "" if sizes[0] == sizes[-1] else f", the last of {sizes[-1]}"
    return f"{len(sizes):,} arrays of {sizes[0]}{last}"
