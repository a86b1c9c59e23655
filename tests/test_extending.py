"""Extend a copy of the repository by the steps of docs/architecture.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COPIED = ("fanin", "experiments", "analysis", "conf")

INIT = '''"""Half of He's variance."""

from dataclasses import dataclass

import torch

from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class HalfHe:
    def moments(self, weight: WeightShape) -> Moments:
        return Moments(0.0, 1.0 / weight.fan_in)

    def sample(self, weight: WeightShape, generator: torch.Generator) -> torch.Tensor:
        normal = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return normal * self.moments(weight).var ** 0.5
'''
MODEL = '''"""One hidden layer and an upsampling that needs a rule in the theory."""

from dataclasses import dataclass

from torch import nn

from fanin.models.base import Activation, ImageShape


@dataclass(frozen=True)
class Upsampled:
    def build(self, shape: ImageShape, n_outputs: int, activation: Activation) -> nn.Sequential:
        channels, height, width = shape
        net = nn.Sequential()
        net.add_module("conv1", nn.Conv2d(channels, 8, 3, padding=1))
        net.add_module("act1", activation())
        net.add_module("upsample", nn.UpsamplingNearest2d(scale_factor=2))
        net.add_module("flatten", nn.Flatten())
        net.add_module("fc1", nn.Linear(32 * height * width, n_outputs))
        return net
'''
DATA = '''"""Images of uniform brightness, which depends on the class."""

from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.data.dataset import Dataset, Split


@dataclass(frozen=True)
class Brightness:
    train_size: int = 64
    test_size: int = 16

    shape = (1, 4, 4)
    n_classes = 2

    def prepare(self, root: Path, download: bool) -> None:
        """Do nothing: there are no files."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        splits = [self._split(n) for n in (self.train_size, self.test_size)]
        return Dataset(*splits, self.n_classes, full_scale=1.0)

    def _split(self, n: int) -> Split:
        label = torch.arange(n) % 2
        return Split((0.2 + 0.6 * label.float())[:, None, None, None].expand(n, 1, 4, 4), label)
'''
FIGURE = '''"""The accuracy of every cell."""

from matplotlib.figure import Figure

from analysis.load import Results
from analysis.scoring.effects import difference
from analysis.scoring.scored_study import ScoredStudy, Tables


def summarize(results: Results) -> Tables:
    cells = results.cells[["seed", "init", "test_accuracy"]].astype({"init": str})
    return {"cells": cells.rename(columns={"test_accuracy": "accuracy"})}


def figures(tables: Tables) -> dict[str, Figure]:
    figure = Figure()
    accuracy = tables["cells"]["accuracy"]
    figure.subplots().plot(range(len(accuracy)), accuracy, "o")
    return {"brightness": figure}


STUDY = ScoredStudy(
    summarize,
    outcomes=("accuracy",),
    effects={"loss_of_half": difference("accuracy", {"init": "he_normal"}, {"init": "half_he"})},
    figures=figures,
    caption=lambda tables: "Accuracies.",
)
'''
SWEEP = """question: Can brightness be learned?
source: field report
scoring:
  seeds: 3
  seeds_reason: our choice
  sizes: {theirs: this test, ours: this test}
  claims:
    half_is_worse:
      main: true
      statement: Half of He's variance lowers the accuracy.
      source: our choice
      effect: loss_of_half
      direction: above
      smallest: 0.1
      smallest_source: our choice
      null_models: [constant]
fixed:
  data: brightness
  model: upsampled
  activation: softsign
  optim.lr: 0.05
  train.steps: 20
  train.batch_size: 16
  probe.draws: 2
grid:
  init: [half_he, he_normal]
  seed: [0, 1, 2]
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the repository and add one extension of each of seven kinds."""
    copy = tmp_path_factory.mktemp("repository")
    tracked = subprocess.check_output(
        [
            "git",
            "ls-files",
            "-z",
            "--",
            "fanin",
            "experiments",
            "analysis",
            "conf",
        ],
        cwd=ROOT,
        text=True,
    )
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    (copy / ".git").mkdir()

    def add(name: str, text: str) -> None:
        assert not (copy / name).exists()
        (copy / name).write_text(text)

    def edit(name: str, anchor: str, line: str) -> None:
        """Insert a line after the first line that contains the anchor."""
        lines = (copy / name).read_text().splitlines(keepends=True)
        index = next(n for n, text in enumerate(lines) if anchor in text) + 1
        (copy / name).write_text("".join([*lines[:index], line + "\n", *lines[index:]]))

    add("fanin/inits/half_he.py", INIT)
    edit("fanin/inits/__init__.py", "import Lsuv", "from fanin.inits.half_he import HalfHe")
    add("conf/init/half_he.yaml", "_target_: fanin.inits.HalfHe\n")
    add("conf/activation/softsign.yaml", "_target_: torch.nn.Softsign\n")
    add("fanin/models/upsampled.py", MODEL)
    edit(
        "fanin/models/__init__.py", "import AlexNet", "from fanin.models.upsampled import Upsampled"
    )
    add("conf/model/upsampled.yaml", "_target_: fanin.models.Upsampled\n")
    add("experiments/data/brightness.py", DATA)
    edit(
        *("experiments/data/__init__.py", "import Cifar10"),
        "from experiments.data.brightness import Brightness",
    )
    add("conf/data/brightness.yaml", "_target_: experiments.data.Brightness\n")
    edit(
        *("fanin/theory/layers.py", "LAYER_KINDS = ("),
        "    LayerKind((nn.UpsamplingNearest2d,), scalar=unchanged,"
        " field=lambda module: Mixing(module, linear=True)),",
    )
    edit(
        *("analysis/compare/spec.py", "for metric in ("),
        '        Metric("seconds", "seconds", larger_is_better=False, bounded=False),',
    )
    add("conf/sweep/brightness.yaml", SWEEP)
    add("analysis/figures/brightness.py", FIGURE)
    return copy


def changed(copy: Path) -> set[str]:
    files = {
        str(path.relative_to(copy))
        for path in copy.rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml")
    }
    return {
        name
        for name in files
        if not (ROOT / name).exists() or (ROOT / name).read_bytes() != (copy / name).read_bytes()
    }


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def test_the_page_names_all_files_that_are_edited(extended: Path):
    rows = re.findall(
        r"^\| (?:an?) .*\| (.*) \|$", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    named = set(re.findall(r"`([a-z_]+/[A-Za-z_/.]+)`", " ".join(rows)))
    for name in changed(extended):
        folder = f"{Path(name).parent}/"
        by_name = f"{folder}NAME{Path(name).suffix}"
        new = not (ROOT / name).exists()
        assert name in named or by_name in named or (new and folder in named), name


@pytest.mark.slow
def test_all_seven_additions_work_together(extended: Path):
    run = python(extended, "experiments.run", "-m", "sweep=brightness")
    assert run.returncode == 0, run.stdout + run.stderr
    check = python(extended, "analysis.check", "brightness")
    assert check.returncode in (0, 1), check.stdout + check.stderr
    assert "no prediction" not in check.stdout + check.stderr
    compare = python(
        extended, "analysis.compare", "brightness", "--by", "init", "--metric", "seconds"
    )
    assert compare.returncode == 0, compare.stdout + compare.stderr
    assert "half_he" in compare.stdout
    figures = python(extended, "analysis.figures", "brightness")
    assert figures.returncode == 0, figures.stdout + figures.stderr
    assert list((extended / "results/brightness").rglob("brightness.png"))
