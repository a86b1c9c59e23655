"""On Slurm, `sweep.mode=plan` shows the arrays and the very script that sbatch would be given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sweep_process import TINY

from experiments.config.catalog import config_loader
from experiments.sweep.cli import check_command, run_command
from experiments.sweep.slurm.script import PROJECT_ROOT

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
# A cell a pack, a pack a job.
SMALL = ["runner.pack_cells=1", "runner.target_minutes=1e-9"]

Plan = Callable[[Sequence[str]], int]


@pytest.fixture
def said(plan_of: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the plan of a sweep on Slurm prints; nothing is left behind."""

    def run(*words: str) -> str:
        assert plan_of([*TINY, *words]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SITES)
def test_the_script_is_as_it_should_be(said: Callable[..., str], tmp_path: Path, name: str) -> None:
    printed = said("seed=range(6)", *SMALL, *SITES[name])
    script = "#!/bin/bash" + printed.partition("#!/bin/bash")[2]
    places = {str(tmp_path): "HERE", sys.executable: "PYTHON", str(PROJECT_ROOT): "PROJECT_ROOT"}
    for place, word in places.items():
        script = script.replace(place, word)
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("WRITE_SCRIPTS"):
        path.write_text(script)
    assert script == path.read_text()


def test_arrays_are_cut_at_the_sites_limit(said: Callable[..., str]) -> None:
    printed = said("seed=range(6)", *SMALL, "runner=slurm", "runner.max_array_size=4")
    assert "6 cells in 6 packs (6 serial) as 6 jobs in 2 arrays of 4, the last of 2" in printed
    assert "MaxArraySize 4, as you say" in printed
    assert "no timings of such cells yet to say how many GPU-hours" in printed
    assert "each job asks for: 2 h 0 min, 4 cores, 16 GB, gpu:1" in printed
    assert "--array=0-3%4" in printed


def test_jobs_are_cut_at_the_users_limit(said: Callable[..., str]) -> None:
    words = ["runner=slurm_cpu", "runner.max_array_size=9", "runner.max_jobs=5"]
    printed = said("seed=range(6)", *SMALL, *words)
    assert "6 jobs in 2 arrays of 5, the last of 1" in printed
    assert "at most 5 jobs of this sweep at once (runner.max_jobs)" in printed
    assert "how many core-hours" in printed


def test_without_slurm_its_default_is_assumed(
    said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    printed = said("seed=range(2)", "runner=slurm")
    assert "as 1 job in 1 array:" in printed
    assert "MaxArraySize 1001, Slurm's default: there is no Slurm to ask" in printed


def test_a_sites_own_file_may_be_a_copy_or_say_only_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "runner"
    conf.mkdir()
    ours = (PROJECT_ROOT / "conf" / "runner" / "slurm.yaml").read_text()
    (conf / "slurm_local.yaml").write_text(ours.replace("gres: gpu:1", "gres: gpu:h100:1"))
    (conf / "slurm_less.yaml").write_text("defaults: [slurm]\nslurm: {gres: gpu:h100:1}\n")
    loader = config_loader(str(tmp_path))
    said = []
    for name in ("slurm_local", "slurm_less"):
        words = ["seed=range(2)", f"runner={name}", "runner.max_array_size=9", "sweep.mode=plan"]
        checked = check_command(loader, "config", [*TINY, *words], multirun=True)
        assert run_command(loader, "config", checked) == 0
        said.append(capsys.readouterr().out)
    assert "#SBATCH --gres=gpu:h100:1" in said[0]
    assert "#SBATCH --time=120" in said[0]
    assert said[0] == said[1]


def test_git_leaves_a_sites_own_file_alone() -> None:
    def ignored(name: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", name], cwd=PROJECT_ROOT).returncode == 0

    assert ignored("conf/runner/slurm_local.yaml")
    assert not ignored("conf/runner/local.yaml")
    assert not ignored("conf/runner/slurm.yaml")
