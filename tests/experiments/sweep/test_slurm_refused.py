"""Invalid Slurm settings are refused before any Slurm command is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader
from sweep_process import TINY

from experiments.sweep.cli import check_command, run_command
from fanin.errors import ConfigError


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace Slurm's commands by scripts that record their calls; return the record's path."""
    called = tmp_path / "called"
    for name in ("sbatch", "scontrol", "squeue", "sacct", "scancel"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {name} >>{called}\nexit 1\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return called


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("runner.slurm.partiton=gpu", "runner.slurm.partiton: .*did you mean slurm.partition"),
        ("+runner.slurm.gpus=1", "runner.slurm.gpus: .*did you mean slurm.cpus or slurm.gres"),
        ("runner.slurm.time_minutes=soon", "runner.slurm.time_minutes: .*whole number.*'soon'"),
        ("runner.slurm.time_minutes=0", "runner.slurm.time_minutes: .*greater than 0"),
        ("runner.slurm.cpus=1.5", "runner.slurm.cpus: expected a whole number"),
        ("runner.slurm.mem_gb=16G", "runner.slurm.mem_gb: .*expected a number"),
        ("runner.slurm.gres=[gpu]", "runner.slurm.gres: "),
        ("runner.slurm.setup=module", "runner.slurm.setup: expected a list"),
        ("runner.slurm.extra={nice: [1]}", "runner.slurm.extra.nice"),
        ("runner.slurm=3", "runner.slurm"),
        ("runner.slurmm.cpus=3", "did you mean slurm"),
        ("runner.max_job=3", "runner.max_job: .*did you mean max_jobs"),
        ("runner.max_array_size=0", "runner.max_array_size: .*greater than 0"),
        ("runner.target_minutes=-1", "runner.target_minutes: .*greater than 0"),
        ("sweep.mode=submi", "sweep.mode: invalid value 'submi'; did you mean submit"),
    ],
)
def test_an_invalid_setting_is_refused_before_slurm_is_called(
    loader: ConfigLoader,
    slurm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    message: str,
) -> None:
    results = f"sweep.results={tmp_path}/results"
    arguments = [*TINY, "seed=range(2)", "runner=slurm", results, setting]
    if "sweep.mode" not in setting:
        arguments.append("sweep.mode=submit")
    try:
        checked = check_command(loader, "config", arguments, multirun=True)
        status, text = run_command(loader, "config", checked), capsys.readouterr().err
    except ConfigError as error:
        status, text = 2, f"{error}\n"
    assert status == 2
    assert re.search(message, text, re.DOTALL), text
    assert len(text.splitlines()) == 1
    assert not slurm.exists()
    assert not (tmp_path / "results").exists()


def test_the_replaced_commands_record_their_calls(
    loader: ConfigLoader, slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, "runner=slurm", f"sweep.results={tmp_path}/results", "sweep.mode=submit"]
    assert run_command(loader, "config", arguments) == 2
    assert "scontrol" in slurm.read_text()
