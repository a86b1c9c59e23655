"""Optimizations for CPUs change no result, except for rounding by the memory format."""

import copy
import os
import platform
import subprocess
import sys

import pytest
import torch
from stacks import max_difference, max_parameter, stack_specs, train_serial
from torch import Tensor, nn
from torch.func import functional_call

from experiments.training.cpu_performance import (
    WIDE,
    Contiguous,
    memory_format,
    optimized,
    overwrite_in_relus,
)
from experiments.training.loader import BatchLoader
from fanin.models import AlexNet, ResNet, TwoLayer, Vgg

# --- memory format ----------------------------------------------------------------------------

CHANNELS_LAST = "model=two_layer data.channels=3"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (CHANNELS_LAST, torch.channels_last),
        (f"{CHANNELS_LAST} train.dtype=bfloat16", torch.channels_last),
        (f"{CHANNELS_LAST} train.dtype=float64", torch.contiguous_format),
        (f"{CHANNELS_LAST} model.pool=false", torch.channels_last),
        ("model=mlp data.channels=3", torch.contiguous_format),
    ],
)
def test_images_have_the_fastest_memory_format(cell_config, case, expected):
    (spec,) = stack_specs(cell_config, case, 1)
    loader = BatchLoader(spec.cell, spec.step.model, spec.data, spec.scaling)
    assert loader.at(0).x.is_contiguous(memory_format=expected)


def test_images_on_a_gpu_are_contiguous():
    model, cuda = TwoLayer().build((3, 6, 6), 3, nn.ReLU), torch.device("cuda")
    assert memory_format(model, torch.float32, cuda) == torch.contiguous_format


STRIDED = """
import torch
from torch import nn
from experiments.training.cpu_performance import memory_format

torch.set_num_threads(1)
for channels in (1, 3, 4, 12):
    for side in (7, 8):
        model = nn.Sequential(nn.Conv2d(channels, 8, 1, stride=2))
        format = memory_format(model, torch.float32, torch.device("cpu"))
        x = torch.randn(16, channels, side, side).to(memory_format=format).requires_grad_()
        for _ in range(10):
            model.to(memory_format=format)(x).sum().backward()
"""


def test_strided_1x1_convolutions_do_not_corrupt_memory_with_avx2():
    """In the channels-last format, oneDNN's AVX2 code (torch 2.13) does."""
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_CHECK_": "3"}
    subprocess.run([sys.executable, "-c", STRIDED], env=env, check=True)


def test_channels_last_changes_training_by_rounding_only(cell_config, monkeypatch, worker_settings):
    (spec,) = stack_specs(cell_config, f"{CHANNELS_LAST} train.steps=1", 1)
    channels_last = train_serial(spec)
    contiguous = torch.contiguous_format
    monkeypatch.setattr("experiments.training.loader.memory_format", lambda *_: contiguous)
    # Worst-case rounding error of a sum of at most 8 images x 36 positions x 27 products.
    bound = 8 * 36 * 27 * torch.finfo(torch.float32).eps
    difference = max_difference(channels_last, train_serial(spec))
    assert difference <= bound * max_parameter(channels_last)


# --- contiguous maps in wide convolutions -----------------------------------------------------


def conv_formats(model: nn.Module, x: Tensor) -> list[torch.memory_format]:
    """Return the memory format of each convolution's input in the optimized model."""
    formats = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda _, inputs: formats.append(
                    torch.contiguous_format if inputs[0].is_contiguous() else torch.channels_last
                )
            )
    optimized(model)(x.to(memory_format=torch.channels_last))
    return formats


def test_maps_are_contiguous_from_the_first_wide_convolution():
    model = Vgg(depth=11, width=64).build((3, 32, 32), 10, nn.ReLU)
    narrow, wide = [torch.channels_last], [torch.contiguous_format]
    assert conv_formats(model, torch.randn(2, 3, 32, 32)) == 3 * narrow + 5 * wide
    assert all(not isinstance(layer, Contiguous) for layer in model)


def test_a_wide_convolution_in_a_block_counts():
    block = nn.Sequential(nn.Conv2d(4, WIDE, 3), nn.ReLU(), nn.Conv2d(WIDE, 4, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), block)
    narrow, wide = [torch.channels_last], [torch.contiguous_format]
    assert conv_formats(model, torch.randn(2, 3, 8, 8)) == narrow + 2 * wide


# --- max-pool before ReLU ---------------------------------------------------------------------

POOLS = {"disjoint": (2, 2), "overlapping": (3, 2), "dense": (3, 1)}
SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan]


def maps(memory_format: torch.memory_format, *special: float) -> Tensor:
    """Return maps with few distinct values: some windows have ties or no positive value."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 2, (16, 8, 9, 9), generator=rng).float()
    for value in special:
        x[torch.rand(x.shape, generator=rng) < 0.05] = value
    return x.to(memory_format=memory_format)


def output_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    rng = torch.Generator().manual_seed(1)
    (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=rng))
    return y, gradient


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("special", [[], SPECIAL[:2], SPECIAL[2:4], SPECIAL], ids=str)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_swapping_changes_no_output_and_no_gradient(pool, special, memory_format):
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(*pool))
    x = maps(memory_format, *special)
    for swapped, original in zip(
        output_and_gradient(optimized(model), x),
        output_and_gradient(model, x),
        strict=True,
    ):
        torch.testing.assert_close(swapped, original, rtol=0, atol=0, equal_nan=True)


def test_the_swapped_model_has_the_same_parameter_names():
    model = TwoLayer(channels=4).build((1, 8, 8), 3, nn.ReLU)
    swapped = optimized(model)
    assert [name for name, _ in swapped.named_children()] == [
        *("conv1", "pool1", "act1", "flatten", "fc1")
    ]
    params = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(functional_call(swapped, params, x), functional_call(model, params, x))


class Relu6(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=6)


@pytest.mark.parametrize(
    "model",
    [
        TwoLayer().build((1, 8, 8), 3, nn.GELU),
        TwoLayer().build((1, 8, 8), 3, Relu6),
        TwoLayer(pool=False).build((1, 8, 8), 3, nn.ReLU),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.MaxPool2d(2), nn.ReLU()),
        nn.Linear(3, 3),
    ],
)
def test_other_layers_are_not_swapped(model):
    assert [*optimized(model).children()] == [*model.children()]


def test_all_pools_of_a_deep_network_are_swapped():
    names = [
        name for name, _ in optimized(AlexNet().build((3, 32, 32), 10, nn.ReLU)).named_children()
    ]
    for place in (1, 2, 5):
        assert names.index(f"pool{place}") == names.index(f"act{place}") - 1


# --- in-place ReLU ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AlexNet(), TwoLayer(), ResNet(depth=8)], ids=str)
def test_relus_in_place_change_no_output_and_no_gradient(kind):
    model = kind.build((3, 32, 32), 10, nn.ReLU)
    in_place = copy.deepcopy(optimized(model))
    overwrite_in_relus(in_place)
    assert any(layer.inplace for layer in in_place.modules() if isinstance(layer, nn.ReLU))
    x = torch.randn(4, 3, 32, 32)
    for changed, original in zip(
        output_and_gradients(in_place, x), output_and_gradients(optimized(model), x), strict=True
    ):
        assert torch.equal(changed, original)


def output_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


def test_a_relu_used_twice_is_overwritten_in_one_place_only():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Tanh(), relu)
    overwrite_in_relus(model)
    assert [layer.inplace for layer in (model[1], model[3], relu)] == [True, False, False]


# --- malloc -----------------------------------------------------------------------------------

PAGE_FAULTS = """
import resource
import torch
from experiments.training.cpu_performance import keep_freed_memory

def step():
    return [torch.ones(2**22) for _ in range(3)]  # 16 MB each

def page_faults():
    for _ in range(10):  # until the heap's layout is stable
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

torch.set_num_threads(1)
page_faults()
keep_freed_memory()
page_faults()
print(resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    """Count page faults while 48 MB are allocated and freed five times."""
    default_thresholds = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", PAGE_FAULTS]
    env = os.environ | default_thresholds
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    faults_before, faults_after, page_size = map(int, output.split())
    pages_per_step = 48 * 2**20 // page_size
    assert faults_before >= 5 * pages_per_step
    assert faults_after < pages_per_step
