"""The script of CI runs every part and fails if any part fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
PARTS = ("setup", "lint", "test", "test-slow", "test-slurm")


def run_ci(folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script with commands that do nothing, except that `failing` fails."""
    clone, bin_folder = folder / "clone", folder / "bin"
    for path in (clone / ".ci", bin_folder):
        path.mkdir(parents=True)
    shutil.copy(SCRIPT, clone / ".ci" / "run")
    for name in ("make", "python3", "chromium"):
        (bin_folder / name).write_text(f'#!/bin/sh\necho "{name} $*"\n[ "$1" != "{failing}" ]\n')
        (bin_folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{bin_folder}:/usr/bin:/bin"}
    command = [str(clone / ".ci" / "run")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_ci_prints_the_time_of_each_part(tmp_path: Path):
    process = run_ci(tmp_path, failing="nothing")
    assert process.returncode == 0, process.stderr
    for part in ("packages", *PARTS, "all"):
        assert f"== {part}: " in process.stdout


@pytest.mark.parametrize("failing", [*PARTS, "slurm/testcluster"])
def test_ci_fails_if_a_part_fails(tmp_path: Path, failing: str):
    process = run_ci(tmp_path, failing)
    assert process.returncode != 0
    later_parts = [f"make {part}\n" in process.stdout for part in PARTS[1:]]
    assert all(later_parts) != (failing == "setup")  # without an environment no part can run
