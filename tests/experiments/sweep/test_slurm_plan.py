"""With runner=slurm, `sweep.mode=plan` shows the job arrays and the batch script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sweep_process import TINY

from experiments.config.catalog import config_loader
from experiments.sweep.cli import check_command, run_command
from experiments.sweep.engines import choose_by_rule
from experiments.sweep.plan import PackLimits, make_plan
from experiments.sweep.plan import Plan as SweepPlan
from experiments.sweep.slurm.runner import NO_LIMIT, SlurmRunner
from experiments.sweep.slurm.script import PROJECT_ROOT, SlurmSettings
from experiments.sweep.status.slurm_plan import hints
from experiments.sweep.store.tables import CellState
from experiments.sweep.types import PlannedCell

GOLDEN = Path(__file__).with_name("slurm_scripts")
SITES = {
    "gpu_site": [
        "runner=slurm",
        "runner.max_array_size=4",
        "runner.max_jobs=100",
        "runner.slurm.partition=a100",
        "runner.slurm.account=deep",
        "runner.slurm.qos=long",
        "runner.slurm.constraint='infiniband&avx512'",
        "runner.slurm.exclude=node7",
        "runner.slurm.nodelist='node[1-20]'",
        "runner.slurm.reservation=friday",
        "runner.slurm.time_minutes=1440",
        "runner.slurm.cpus=16",
        "runner.slurm.mem_gb=62.5",
        "runner.slurm.gres=gpu:a100:2",
        "runner.slurm.signal_seconds=120",
        "runner.slurm.array_parallelism=3",
        "runner.slurm.extra={mail-type: END, exclusive: true, nice: 100}",
    ],
    "cpu_site": ["runner=slurm_cpu", "runner.max_array_size=1001"],
    "container_and_setup": [
        "runner=slurm",
        "runner.max_array_size=1001",
        "runner.slurm.mem_gb=null",
        "runner.slurm.setup=['module load cuda/12.4', 'source \"$HOME/my env/bin/activate\"']",
        "runner.slurm.container='apptainer exec --nv /images/torch.sif'",
        "runner.slurm.python='/opt/my python/bin/python'",
    ],
}
# One cell per pack, one pack per job.
ONE_CELL_PER_JOB = ["runner.pack_cells=1", "runner.target_minutes=1e-9"]

Plan = Callable[[Sequence[str]], int]
Cells = Callable[..., list[PlannedCell]]


@pytest.fixture
def plan_output(
    plan_of: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that plans a sweep, asserts that no file is written, returns the output."""

    def run(*arguments: str) -> str:
        assert plan_of([*TINY, *arguments]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SITES)
def test_the_batch_script_is_the_expected_one(
    plan_output: Callable[..., str], tmp_path: Path, name: str
) -> None:
    output = plan_output("seed=range(6)", *ONE_CELL_PER_JOB, *SITES[name])
    script = "#!/bin/bash" + output.partition("#!/bin/bash")[2]
    names = {str(tmp_path): "TMP_PATH", sys.executable: "PYTHON", str(PROJECT_ROOT): "PROJECT_ROOT"}
    for value, placeholder in names.items():
        script = script.replace(value, placeholder)
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("WRITE_SCRIPTS"):
        path.write_text(script)
    assert script == path.read_text()


def test_max_array_size_splits_the_jobs_into_arrays(plan_output: Callable[..., str]) -> None:
    output = plan_output(
        "seed=range(6)", *ONE_CELL_PER_JOB, "runner=slurm", "runner.max_array_size=4"
    )
    assert "6 cells in 6 packs (6 serial) as 6 jobs in 2 arrays of 4 (the last of 2)" in output
    assert "MaxArraySize 4 (runner.max_array_size)" in output
    assert "less than 0.1 GPU-hours, estimated" in output
    assert "resources of each job: 2 h 0 min, 4 cores, 16 GB, gpu:1" in output
    assert "--array=0-3%4" in output


def test_max_jobs_limits_the_size_of_arrays(plan_output: Callable[..., str]) -> None:
    arguments = ["runner=slurm_cpu", "runner.max_array_size=9", "runner.max_jobs=5"]
    output = plan_output("seed=range(6)", *ONE_CELL_PER_JOB, *arguments)
    assert "6 jobs in 2 arrays of 5 (the last of 1)" in output
    assert "at most 5 jobs of this sweep at once (runner.max_jobs)" in output
    assert "less than 0.1 core-hours, estimated" in output


def test_without_slurm_its_default_array_size_is_assumed(
    plan_output: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    output = plan_output("seed=range(2)", "runner=slurm")
    assert "as 1 job in 1 array:" in output
    assert "MaxArraySize 1001 (Slurm's default; scontrol did not answer)" in output


def test_a_sites_runner_file_may_be_a_copy_or_override_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "runner"
    conf.mkdir()
    default = (PROJECT_ROOT / "conf" / "runner" / "slurm.yaml").read_text()
    (conf / "slurm_local.yaml").write_text(default.replace("gres: gpu:1", "gres: gpu:h100:1"))
    (conf / "slurm_less.yaml").write_text("defaults: [slurm]\nslurm: {gres: gpu:h100:1}\n")
    loader = config_loader(str(tmp_path))
    outputs = []
    for name in ("slurm_local", "slurm_less"):
        arguments = [
            "seed=range(2)",
            f"runner={name}",
            "runner.max_array_size=9",
            "sweep.mode=plan",
        ]
        checked = check_command(loader, "config", [*TINY, *arguments], multirun=True)
        assert run_command(loader, "config", checked) == 0
        outputs.append(capsys.readouterr().out)
    assert "#SBATCH --gres=gpu:h100:1" in outputs[0]
    assert "#SBATCH --time=120" in outputs[0]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("mode", ["plan", "submit", "run"])
def test_engine_auto_is_refused_in_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    arguments = ["seed=range(2)", "runner=slurm", "engine=auto", f"sweep.mode={mode}"]
    results = f"sweep.results={tmp_path}/results"
    loader = config_loader(None)
    checked = check_command(loader, "config", [*TINY, *arguments, results], multirun=True)
    assert run_command(loader, "config", checked) == 2
    assert "with runner=slurm use engine=serial or engine=stacked" in capsys.readouterr().err
    assert not (tmp_path / "results" / "s" / "cells.jsonl").exists()


def test_the_time_of_a_pilot_cell_sets_the_number_of_gpu_jobs(cells_of: Cells) -> None:
    cells = cells_of("model=alexnet", "train.steps=20000", "probe=none", "seed=range(500)")
    runner = SlurmRunner(slurm=SlurmSettings(gres="gpu:1"))

    def n_jobs(states: dict[str, CellState]) -> int:
        engines = partial(choose_by_rule, requested="serial", recorded={})
        plan = make_plan(cells, states, (), engines, PackLimits(runner.n_workers))
        return len(runner.shards(plan.packs))

    assert n_jobs({}) == 500  # the estimate for a CPU core is above an hour per cell
    # 499 cells of 60 s in jobs of 60 min
    assert n_jobs({cells[0].id: CellState("ok", 1, 60.0)}) == round(499 * 60 / 3600) == 8


def plan_of_measured_cells(cells: list[PlannedCell], seconds: float) -> SweepPlan:
    states = {cells[0].id: CellState("ok", 1, seconds)}
    engines = partial(choose_by_rule, requested="serial", recorded={})
    return make_plan(cells, states, (), engines, PackLimits(1))


def test_the_plan_suggests_more_jobs_and_a_shorter_time_limit(cells_of: Cells) -> None:
    plan = plan_of_measured_cells(cells_of("seed=range(301)"), seconds=2.0)  # 600 s to run
    one_core = SlurmRunner(slurm=SlurmSettings(cpus=1))
    more_jobs, shorter = hints(one_core, plan)
    assert more_jobs == (
        "only 1 job; runner.target_minutes=1 gives about 10 jobs that can run at the same time"
    )
    assert shorter == (
        "a job needs about 10 min, its time limit is 2 h 0 min; "
        "runner.slurm.time_minutes=30 lets Slurm start jobs sooner"
    )
    assert len(replace(one_core, target_minutes=1).shards(plan.packs)) == 10
    short_limit = SlurmSettings(cpus=1, time_minutes=30)
    assert hints(SlurmRunner(target_minutes=1, slurm=short_limit), plan) == []
    long_cells = plan_of_measured_cells(cells_of("seed=range(101)"), seconds=1800.0)
    assert hints(SlurmRunner(slurm=SlurmSettings(cpus=1)), long_cells) == []


def test_git_ignores_a_sites_runner_file() -> None:
    def is_ignored(name: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", name], cwd=PROJECT_ROOT).returncode == 0

    assert is_ignored("conf/runner/slurm_local.yaml")
    assert not is_ignored("conf/runner/local.yaml")
    assert not is_ignored("conf/runner/slurm.yaml")


@pytest.mark.parametrize(
    ("options", "device", "workers", "gigabytes"),
    [
        ({"slurm": SlurmSettings(cpus=4, mem_gb=16)}, "cpu", 4, 4.0),
        ({"workers": 2, "slurm": SlurmSettings(cpus=4, mem_gb=16)}, "cpu", 2, 8.0),
        ({"memory_gb": 1, "slurm": SlurmSettings(cpus=4, mem_gb=16)}, "cpu", 4, 2**30 / 1e9),
        ({"slurm": SlurmSettings(gres="gpu:2", mem_gb=16)}, "cuda", 2, None),
        ({"device": "cpu", "slurm": SlurmSettings(gres="gpu:2", cpus=8)}, "cpu", 8, None),
    ],
)
def test_the_memory_of_a_worker_is_its_share_of_the_jobs(
    options: dict[str, Any], device: str, workers: int, gigabytes: float | None
) -> None:
    runner = SlurmRunner(**options)
    assert (runner.job_device, runner.job_workers) == (device, workers)
    expected = NO_LIMIT if gigabytes is None else int(gigabytes * 1e9)
    assert runner.worker_memory() == expected
