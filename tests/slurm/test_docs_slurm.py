"""The commands of docs/slurm.md work on a real Slurm, in the order of the page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cluster
from limits import run

from analysis import load

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
BLOCK = re.compile(r"^```(bash|yaml)\n(.*?)^```", re.M | re.S)
COMMANDS = re.compile(r"^[a-z].*$", re.M)  # continuation lines are indented
FIRST_SECTION = "## From a login node to results"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy of this working tree's files with the environment that `make setup` installs.

    CI tests the installation itself. Changes in the copy do not affect the working tree.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    clone = tmp_path / "fanin"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    (clone / ".venv").mkdir()
    for path in VENV.iterdir():
        if path.name != ".installed":
            (clone / ".venv" / path.name).symlink_to(path)
    (clone / ".venv" / ".installed").touch()
    return clone


def test_the_ten_commands_of_the_page_finish_a_sweep(healthy_cluster: Cluster, clone: Path) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    first_section, rest = page[page.index(FIRST_SECTION) :].split("\n## ", 1)
    blocks = [text for _, text in BLOCK.findall(first_section)]
    assert sum(len(COMMANDS.findall(text)) for text in blocks) == 10

    setup, plan, run_sweep = blocks
    output = run_commands(healthy_cluster, clone, setup)
    assert "main" in output  # the test cluster's partition, as sinfo lists it
    assert is_ignored(clone / "conf/runner/slurm_local.yaml")
    output = run_commands(healthy_cluster, clone, setup + plan)
    assert "8 cells" in output
    assert "#SBATCH --mem=2000M" in output
    assert not healthy_cluster.sh("squeue -h")
    assert not (clone / "results/first").exists()
    output = run_commands(healthy_cluster, clone, setup + run_sweep)
    assert "active on Slurm" in output
    assert "on Slurm; run the sweep's command again to wait for its jobs" in output
    assert "8 ok" in output
    cells = load("first", clone / "results").cells
    assert list(cells["outcome"].astype(str)) == ["ok"] * 8
    jobs = healthy_cluster.sh("sacct -n -P -X -S now-1day -o JobName,State")
    states = re.findall(r"^first\.[0-9a-f]+\|(.*)$", jobs, re.M)
    assert len(states) == 1, jobs  # submitted once
    assert states[0] in ("COMPLETED", "RUNNING", "COMPLETING"), jobs  # it may still be completing

    for kind, text in BLOCK.findall(rest):
        if match := re.match(r"# file: (\S+)\n", text):
            (clone / match[1]).parent.mkdir(parents=True, exist_ok=True)
            (clone / match[1]).write_text(text)
        else:
            assert kind == "bash"
            run_commands(healthy_cluster, clone, f"source .venv/bin/activate\n{text}")


def run_commands(cluster: Cluster, folder: Path, text: str) -> str:
    """Run commands, assert that they succeed, and return their output.

    The environment's `fanin` imports the clone, as if `make setup` had run there.
    """
    env = cluster.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    result = run(["bash", "-euo", "pipefail", "-c", text], 300, cwd=folder, env=env)
    assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def is_ignored(path: Path) -> bool:
    """Return True if git ignores this path in the working tree."""
    name = path.relative_to(path.parents[2])
    return subprocess.run(["git", "check-ignore", "-q", str(name)], cwd=ROOT).returncode == 0
