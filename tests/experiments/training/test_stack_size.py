"""The memory that a stack is planned with is more than it takes."""

import os
import subprocess
import sys

import pytest
from stacks import SMALL

from experiments.schema import build_cell
from experiments.training.stack_size import training_bytes

# In a process of its own: what others freed before would hide what is taken. The first two steps
# warm up what all stacks share (kernels, their buffers); the peak is that of the steps after.
MEASURE = """
import json, re, sys
sys.path.insert(0, "tests/experiments/training")
import torch
from stacks import alone, ready
from experiments.sweep.worker.limits import prepare_torch
from experiments.training.engines import StackedEngine

def status(name):
    with open("/proc/self/status") as lines:
        return int(re.search(name + r":\\s+(\\d+) kB", lines.read()).group(1)) * 1024

prepare_torch()
config, count = json.loads(sys.argv[1]), int(sys.argv[2])
members = [ready(config) for _ in range(count)]
alone(members[0])
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
engine = StackedEngine(members)
for step in range(3):
    engine.step(step)
print(status("VmHWM") - before)
"""
COUNT = 8
LARGE = (  # so large that what a step takes stands out from what a process takes
    "model=mlp model.width=1024 train.batch_size=64",
    "model=two_layer model.channels=32 train.batch_size=128",
    "model=plain model.depth=6 model.width=16 train.batch_size=64",
    "model=plain model.depth=6 model.width=16 model.norm=batch train.batch_size=64",
    "model=alexnet model.lrn=true model.dropout=0.5 train.batch_size=64",
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("optim", ["sgd", "adam"])
@pytest.mark.parametrize("case", LARGE)
def test_a_stack_takes_less_than_is_planned(cell_config, case, optim):
    import json

    words = [*case.split(), "data.image_side=28", "data.train_size=128", f"optim={optim}"]
    given = {text.partition("=")[0] for text in words}
    small = [text for text in SMALL if text.partition("=")[0] not in given]
    config = cell_config(*small, *words, "train.steps=2")
    planned = COUNT * training_bytes(build_cell(config))
    taken = int(
        subprocess.run(
            [sys.executable, "-c", MEASURE, json.dumps(config), str(COUNT)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).stdout
    )
    print(f"planned / taken: {planned / taken:.2f}")
    assert taken <= planned


def test_a_wider_network_or_batch_is_planned_with_more(cell_config):
    def planned(*overrides: str) -> int:
        return training_bytes(
            build_cell(cell_config("data=gaussian", "data.side=null", *overrides))
        )

    least = planned("model=mlp", "model.width=16", "train.batch_size=8")
    assert least < planned("model=mlp", "model.width=16", "train.batch_size=16")
    assert least < planned("model=mlp", "model.width=32", "train.batch_size=8")
    assert planned("train.dtype=float64") == 2 * planned("train.dtype=float32")
