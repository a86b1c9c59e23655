"""Convolutions as matrix products equal torch's, alone and in a stack."""

import pytest
import torch
from stacks import stack_specs
from torch import nn

from experiments.training.engines import StackedEngine
from experiments.training.stacked_conv import UnfoldConv2d, with_stacked_convs
from fanin.models import AlexNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": (0, 2), "stride": (2, 1)},
        {"kernel_size": 1, "bias": False},
    ],
    ids=str,
)
def test_a_matrix_product_equals_the_convolution(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, **options).double()
    product = with_stacked_convs(nn.Sequential(layer), CPU, "bmm")
    assert isinstance(product[0], UnfoldConv2d)
    assert product[0].weight is layer.weight
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(product(x), layer(x), rtol=1e-12, atol=1e-12)


def forms(device: torch.device) -> list[type[nn.Module]]:
    model = with_stacked_convs(AlexNet(width=4, groups=2).build((3, 16, 16), 3, nn.ReLU), device)
    return [type(layer) for layer in model if isinstance(layer, nn.Conv2d)]


def test_on_a_gpu_only_convolutions_of_few_channels_are_matrix_products():
    assert forms(CPU) == [nn.Conv2d] * 5
    assert forms(CUDA) == [UnfoldConv2d, *[nn.Conv2d] * 4]


def test_both_forms_train_alike(cell_config, worker_settings):
    case = "model=plain model.depth=3 model.width=3 train.dtype=float64"
    grouped, product = (
        StackedEngine(stack_specs(cell_config, case, 3), conv) for conv in ("grouped", "bmm")
    )
    for number in range(3):
        # 1e-12: as for a step in test_stacked_against_serial.py
        torch.testing.assert_close(
            grouped.step(number), product.step(number), rtol=1e-12, atol=1e-12
        )
