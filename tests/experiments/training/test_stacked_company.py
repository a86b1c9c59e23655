"""No bit of a cell depends on the cells that it is stacked with, in number or kind."""

import os
import subprocess
import sys

import pytest
from stacks import members, same_bits, together

from experiments.schema import build_cell
from experiments.training.stack_size import stack_padding

# Each where some kernel gives other last bits in other company, if nothing is done about it.
CASES = {
    "products at odd addresses": (
        "model=mlp model.width=13 train.dtype=float64 train.batch_size=7 data.image_side=7"
    ),
    "the end of a vector": "model=mlp model.width=13 activation=silu train.batch_size=7",
    "the end of a vector in maps": (
        "model=two_layer model.channels=3 model.pool=false activation=gelu train.batch_size=7"
    ),
    "batches of one": "model=mlp model.width=5 activation=elu train.batch_size=1",
    "powers in Adam": "model=linear optim=adam train.dtype=float64 train.steps=80",
    "convolutions over two groups": (
        "model=two_layer model.channels=8 data.channels=3 data.image_side=8 train.batch_size=32"
    ),
    "convolutions of eight channels in all": (
        "model=two_layer model.channels=8 data.channels=2 data.image_side=8 train.batch_size=32"
    ),
    "convolutions of single channels": (
        "model=two_layer model.channels=8 data.image_side=8 train.batch_size=32"
    ),
    "features that a norm joins": (
        "model=mlp model.width=13 model.norm=batch activation=sigmoid train.batch_size=32"
    ),
    "everything in AlexNet": (
        "model=alexnet model.width=8 model.dense=11 model.groups=2 model.lrn=true "
        "model.dropout=0.5 activation=gelu data.image_side=15 data.channels=3 optim=adamw "
        "train.batch_size=5"
    ),
}
SLOW = {
    **{
        f"{model} {norm} {dtype} {activation}": (
            f"{model} model.norm={norm} train.dtype={dtype} train.batch_size={size} optim=adam "
            f"activation={activation}"
        )
        for size, activation in ((7, "softplus"), (64, "silu"))
        for model in (
            "model=mlp model.width=256",
            "model=two_layer model.channels=16 data.channels=3 data.image_side=8",
            "model=plain model.depth=4 model.width=6",
            "model=alexnet model.width=8 model.dense=20 model.lrn=true data.image_side=15",
        )
        for norm in ("none", "batch", "layer", "mean_only")
        for dtype in ("float32", "float64")
    },
    **{
        f"{width} wide {dtype}": f"model=mlp model.width={width} train.dtype={dtype}"
        for width in (511, 512, 1024)
        for dtype in ("float32", "float64")
    },
    "CIFAR's shape": (
        "model=plain model.depth=3 model.width=16 data.channels=3 data.image_side=32 "
        "train.batch_size=64 activation=tanh"
    ),
}

pytestmark = pytest.mark.usefixtures("as_in_workers")


def assert_company_changes_no_bit(cell_config, case: str, *sizes: int) -> None:
    length = "" if "train.steps" in case else "train.steps=3"
    stack = members(cell_config, f"{case} {length}", max(sizes))
    first, second = together(stack[:1])[0], together(stack[1:2])[0]
    for size in sizes:
        there = together(stack[:size])
        back = together(stack[:size][::-1])[::-1]
        assert same_bits(there[0], first)
        assert same_bits(there[1], second)
        assert same_bits(back[0], first)
        assert same_bits(back[1], second)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_company_changes_no_bit(cell_config, case):
    assert_company_changes_no_bit(cell_config, case, 2, 3, 5, 17)


def test_company_changes_no_bit_by_the_kernels_of_smaller_vectors():
    """oneDNN asks this machine once what it can do, so another process is told that it can less."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "changes_no_bit and convolutions"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert f"{sum('convolutions' in name for name in CASES)} passed" in ended.stdout, ended.stdout


def test_only_convolutions_of_few_channels_or_images_need_much_company(cell_config):
    def least(*texts: str) -> int:
        return stack_padding(build_cell(cell_config(*texts)), batch_size=64).min_networks

    assert least("model=mlp") == least("model=two_layer", "data=cifar10") == 3
    assert least("model=two_layer", "data=mnist") == 8


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW.values(), ids=SLOW)
def test_company_changes_no_bit_of_larger_networks(cell_config, case):
    assert_company_changes_no_bit(cell_config, f"{case} data.train_size=128", 2, 8, 32)
