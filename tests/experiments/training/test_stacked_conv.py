"""Convolutions as matrix products equal torch's, alone and in a stack."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from stacks import stack_specs
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.training.engines import StackedEngine
from experiments.training.stacked_conv import UnfoldConv2d, with_stacked_convs
from fanin.models import AlexNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


OPTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "padding": (0, 2), "stride": (2, 1)},
    {"kernel_size": (5, 2), "padding": (2, 1), "stride": (3, 2)},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "stride": 3},  # some pixels are in no patch
    {"kernel_size": (7, 8)},  # one patch
]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_matrix_product_equals_the_convolution(options, images):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, **options).double()
    product = with_stacked_convs(nn.Sequential(layer), CPU, "bmm")
    assert isinstance(product[0], UnfoldConv2d)
    assert product[0].weight is layer.weight
    x = torch.randn(images, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    tensors = [x, *layer.parameters()]
    expected = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    y = product(x)
    assert y.shape == expected.shape
    # A sum of 72 products at most, and of 112 in the gradients (images and positions).
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    for gradient, reference in zip(
        torch.autograd.grad(y, tensors, direction),
        torch.autograd.grad(expected, tensors, direction),
        strict=True,
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_stack_equals_the_convolutions_of_its_networks(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 4, **options))
    model.double()
    product = with_stacked_convs(model, CPU, "bmm")
    weights, images = stack_of(model, 3, 2)
    gradients, loss = stacked_gradients(product, weights, images)
    for index in range(3):
        own = {name: tensor[index] for name, tensor in weights.items()}
        expected, expected_loss = grad_and_value(loss_of, argnums=1)(model, own, images[index])
        # 1e-12: as above
        torch.testing.assert_close(loss[index], expected_loss, rtol=1e-12, atol=1e-12)
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name][index], gradient, rtol=1e-12, atol=1e-12)


def test_the_number_of_operations_depends_neither_on_networks_nor_on_images():
    """Each is a kernel on a GPU."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 4, 3, stride=2))
    model.double()
    product = with_stacked_convs(model, CPU, "bmm")
    counts = []
    for n_networks, n_images in ((3, 2), (9, 5)):
        with Counting() as counting:
            stacked_gradients(product, *stack_of(model, n_networks, n_images))
        counts.append(counting.count)
    assert counts[0] == counts[1]
    assert not {"im2col", "convolution"} & set(counts[0])
    assert counts[0]["bmm"] == 5  # two layers, two gradients of weights, one of images


def stack_of(model: nn.Module, n_networks: int, n_images: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return random weights and images of a stack."""
    weights = {
        name: torch.randn(n_networks, *parameter.shape, dtype=torch.float64)
        for name, parameter in model.named_parameters()
    }
    return weights, torch.randn(n_networks, n_images, 3, 9, 10, dtype=torch.float64)


def loss_of(model: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    return functional_call(model, weights, (images,)).square().mean()


def stacked_gradients(
    model: nn.Module, weights: dict[str, Tensor], images: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    return vmap(lambda w, x: grad_and_value(loss_of, argnums=1)(model, w, x))(weights, images)


class Counting(TorchDispatchMode):
    """Numbers of calls of torch's operations, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_other_convolutions_stay_convolutions():
    for options in ({"groups": 3}, {"dilation": 2}, {"padding": "same"}):
        layer = nn.Conv2d(3, 6, 3, **options)
        (kept,) = with_stacked_convs(nn.Sequential(layer), CPU, "bmm")
        assert type(kept) is nn.Conv2d


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
