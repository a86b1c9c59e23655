"""The wheel contains only `fanin`, and it works in other projects."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def test_the_wheel_contains_only_fanin(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"fanin"}
    assert "fanin/py.typed" in names
    assert {f"fanin/{folder}/__init__.py" for folder in ("inits", "theory", "probes")} <= set(names)


def test_fanin_works_in_a_project_with_its_own_analysis_package(wheel: Path, tmp_path: Path):
    """Use an environment with the wheel and its dependencies, without this repository."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A .pth file adds a folder without processing the .pth files in it (such as the clone's).
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for package in ("experiments", "analysis"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('not fanin's')")
    process = subprocess.run(
        [venv / "bin" / "python", "-c", USE],
        cwd=tmp_path,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(str(site))
