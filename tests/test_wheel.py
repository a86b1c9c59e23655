"""The wheel contains only `fanin`, and it works in other projects."""

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import fanin

ROOT = Path(__file__).parents[1]
COMMAND = "from fanin.cli import main; main()"
SUITE_ONLY = ("hydra", "omegaconf", "submitit", "pebble", "pyarrow", "seaborn", "matplotlib")

USE = f"""
import sys
for name in {SUITE_ONLY}:
    sys.modules[name] = None  # importing it fails, as if it were not installed

import torch
from torch import nn
from fanin import assert_healthy, certify, explain, prescribe, probe
from fanin.inits import HeNormal
import fanin

net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
images = torch.randn(2, 64, dtype=torch.float64)
certificate = certify(net, images, init=HeNormal())
assert_healthy(certificate)
assert len(probe(net, images.float())) > 0
assert prescribe(net, images).gains
print(fanin.__file__)
print(explain(net, images, HeNormal()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because building writes files beside the sources
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("docs/figures/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and its dependencies, and no clone."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A .pth file adds a folder without processing the .pth files in it (such as the clone's).
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "python"


def run(python: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_contains_only_fanin(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fanin"}
    assert "fanin/py.typed" in names
    assert {f"fanin/{folder}/__init__.py" for folder in ("inits", "theory", "probes")} <= set(names)


def test_fanin_works_in_a_project_with_its_own_analysis_package(python: Path, tmp_path: Path):
    for package in ("experiments", "analysis"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('not fanin's')")
    process = run(python, tmp_path, "-c", USE)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(str(python.parents[1] / "lib"))


def test_the_example_of_the_readme_needs_only_the_wheel(python: Path, tmp_path: Path):
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    process = run(python, tmp_path, "-c", example)
    assert process.returncode == 0, process.stderr
    assert "def init_weights(model):" in process.stdout


def test_commands_of_the_suite_say_how_to_clone_it(python: Path, tmp_path: Path):
    process = run(python, tmp_path, "-c", COMMAND, "check", "x")
    assert process.returncode == 2
    assert process.stderr.startswith("`fanin check` needs the benchmark suite")
    assert "\n  git clone " in process.stderr


def test_the_wheel_has_the_command_and_the_version(wheel: Path, python: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        assert "fanin = fanin.cli:main" in archive.read(entry_points).decode()
        (metadata,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert {f"Version: {fanin.__version__}", "License-Expression: MIT"} <= set(lines)
    process = run(python, tmp_path, "-c", COMMAND, "--version")
    assert process.stdout == f"fanin {fanin.__version__}\n"
