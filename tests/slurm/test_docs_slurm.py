"""The commands of docs/slurm.md are run, in the order in which a reader would, on a real Slurm."""

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
COMMANDS = re.compile(r"^[a-z].*$", re.M)  # what is continued is indented
TEN = "## From a fresh login node"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This working tree's files, as a clone would have them, with what `make setup` installs.

    Installing it from nothing is what CI begins with; here that is done already, and nothing that
    is done in the clone reaches the real one.
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


def test_ten_commands_lead_from_a_login_node_to_a_finished_sweep(
    healthy_cluster: Cluster, clone: Path
) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    ten, rest = page[page.index(TEN) :].split("\n## ", 1)
    blocks = [text for _, text in BLOCK.findall(ten)]
    assert sum(len(COMMANDS.findall(text)) for text in blocks) == 10

    setting_up, plan, rest_of_ten = blocks
    said = typed(healthy_cluster, clone, setting_up)
    assert "main" in said  # the test cluster's partition, as sinfo lists it
    assert ignored(clone / "conf/runner/slurm_local.yaml")
    said = typed(healthy_cluster, clone, setting_up + plan)
    assert "8 cells" in said
    assert "#SBATCH --mem=2000M" in said
    assert not healthy_cluster.sh("squeue -h")
    assert not (clone / "results/first").exists()
    said = typed(healthy_cluster, clone, setting_up + rest_of_ten)
    assert "under way on Slurm" in said
    assert "on Slurm; the same command waits for it" in said
    assert "8 ok" in said
    cells = load("first", clone / "results").cells
    assert list(cells["outcome"].astype(str)) == ["ok"] * 8
    jobs = healthy_cluster.sh("sacct -n -P -X -S now-1day -o JobName,State")
    ours = re.findall(r"^first\.[0-9a-f]+\|(.*)$", jobs, re.M)
    assert len(ours) == 1, jobs  # submitted once
    assert ours[0] in ("COMPLETED", "RUNNING", "COMPLETING"), jobs  # it may be about to leave

    for kind, text in BLOCK.findall(rest):
        if named := re.match(r"# file: (\S+)\n", text):
            (clone / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (clone / named[1]).write_text(text)
        else:
            assert kind == "bash"
            typed(healthy_cluster, clone, f"source .venv/bin/activate\n{text}")


def typed(cluster: Cluster, where: Path, text: str) -> str:
    """What commands print that have to succeed."""
    env = cluster.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = run(["bash", "-euo", "pipefail", "-c", text], 300, cwd=where, env=env)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ignored(path: Path) -> bool:
    """Whether git would leave a file alone that lies there in the real tree."""
    name = path.relative_to(path.parents[2])
    return subprocess.run(["git", "check-ignore", "-q", str(name)], cwd=ROOT).returncode == 0
