"""The memory of a field: the estimate, and the error that says what would fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from fanin.inits import to_init
from fanin.models import ResNet
from fanin.theory.field import Sampling
from fanin.theory.graph import memory
from fanin.theory.graph.memory import FieldSizes
from fanin.theory.graph.plan import GraphPlan, plan_graph
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments

PREDICT = """
import re, torch
from pathlib import Path
from torch import nn
from fanin.inits import to_init
from fanin.models import ResNet
from fanin.theory.field import Sampling
from fanin.theory.graph import predict_graph
from fanin.theory.moments import declared_moments

def peak():
    # The peak of ru_maxrss includes that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20

torch.set_num_threads(1)
for side in (0, 8, 12, 16, 20):
    if side:
        model = ResNet(depth=8, width=2).build((1, side, side), 10, nn.ReLU)
        moments = declared_moments(model, to_init("he_normal"))
        images = torch.randn(4, 1, side, side)
        predict_graph(model, moments, images, sampling=Sampling(repeats=1))
    print(peak())
"""


def images_of(side: int, count: int = 4) -> Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def plan(images: Tensor, depth: int = 8) -> GraphPlan:
    model = ResNet(depth=depth, width=2).build(tuple(images.shape[1:]), 10, nn.ReLU)
    moments = declared_moments(model, to_init("he_normal"))
    return plan_graph(model, moments, images, Sampling())


def sizes(of: GraphPlan) -> FieldSizes:
    return FieldSizes(of.steps, tuple(layout.n_positions for layout in of.layouts), 1024)


@pytest.mark.slow
def test_the_expected_memory_is_that_of_a_process():
    """Each size needs more than the one before, so the peak is its own."""
    output = subprocess.run(
        [sys.executable, "-c", PREDICT], capture_output=True, text=True, check=True
    ).stdout
    base, first, *peaks = map(float, output.split())
    # The first size loads code that the others use as well.
    for side, peak in zip((12, 16, 20), peaks, strict=True):
        expected = sizes(plan(images_of(side))).expected_gib(4)
        assert 0.7 < (peak - base) / (expected + first - base) < 1.3, side


def test_four_images_fit_in_resnet_20_with_batch_norm():
    of_plan = plan(images_of(32), depth=20)
    assert of_plan.joint
    assert sizes(of_plan).expected_gib(4) < memory.MAX_GIB / 3


def test_too_many_images_are_refused_with_the_number_that_fits(monkeypatch: pytest.MonkeyPatch):
    fields = sizes(plan(images_of(8)))
    monkeypatch.setattr(memory, "MAX_GIB", fields.expected_gib(2) * 1.001)
    with pytest.raises(UnpredictableLayer, match=r"for 4 images.*max_images=2;.*model.eval\(\)"):
        plan(images_of(8))
    assert plan(images_of(8, count=2)).joint
    with pytest.raises(UnpredictableLayer, match="max_images=2;"):
        plan(images_of(8, count=3))


def test_a_large_image_is_refused_with_the_size_that_fits(monkeypatch: pytest.MonkeyPatch):
    fields = sizes(plan(images_of(16, count=1)))
    monkeypatch.setattr(memory, "MAX_GIB", 0.9 * fields.expected_gib(1))
    with pytest.raises(
        UnpredictableLayer, match=r"for an image.*; images of \d\d % of the"
    ) as error:
        plan(images_of(16, count=1))
    percentage = int(str(error.value).split("images of ")[1].split()[0])
    smaller = plan(images_of(16 * percentage // 100, count=1))
    assert len(smaller.steps) == len(fields.steps)
