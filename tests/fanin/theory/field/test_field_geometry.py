"""`Taps` equals its layer for padding, stride, dilation and circular padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fanin.theory.field.geometry import Taps

LAYERS = [
    nn.Conv2d(1, 1, 3, padding=1),
    nn.Conv2d(1, 1, (3, 5), padding=(1, 2)),
    nn.Conv2d(1, 1, 3, padding=2, dilation=2),
    nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(1, 1, 3, stride=2, padding=1),
    nn.Conv2d(1, 1, 3),
    nn.Linear(42, 1),
    nn.Conv2d(1, 1, 2, padding=1),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_taps_matrix_equals_the_layer(layer: nn.Module) -> None:
    layer = layer.double()
    matrix = Taps.of("layer", layer, (6, 7), 1, 1).matrix(layer.weight.detach().flatten())
    x = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    expected = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x) - layer.bias
    torch.testing.assert_close(matrix @ x.flatten(), expected.detach().flatten())


@pytest.mark.parametrize("layer", LAYERS)
def test_backward_m2_is_the_transpose_of_forward_m2(layer: nn.Module) -> None:
    taps = Taps.of("layer", layer, (6, 7), 1, 1)
    generator = torch.Generator().manual_seed(0)
    var = torch.rand(1 if taps.is_linear else taps.n_taps, generator=generator).double()
    var = var.expand(taps.n_taps)
    matrix = taps.matrix(var)
    input_m2 = torch.rand(3, 42, generator=generator).double()
    cotangent_m2 = torch.rand(3, len(taps.input_index), generator=generator).double()
    torch.testing.assert_close(taps.forward_m2(input_m2, var), input_m2 @ matrix.T)
    torch.testing.assert_close(taps.backward_m2(cotangent_m2, var), cotangent_m2 @ matrix)


@pytest.mark.parametrize("layer", LAYERS)
def test_shifted_products_equal_indexed_products(layer: nn.Module) -> None:
    taps = Taps.of("layer", layer, (6, 7), 2, 1)
    generator = torch.Generator().manual_seed(0)
    products = torch.randn(3, 84, 84, generator=generator).double()
    products = products + products.mT
    var = torch.ones(taps.n_taps).double()
    if not taps.is_linear:
        var = torch.rand(taps.n_taps, generator=generator).double()
    torch.testing.assert_close(
        taps.forward_products(products, var), taps.forward_products_by_index(products, var)
    )
    torch.testing.assert_close(
        taps.backward_products(taps.forward_products(products, var), var),
        taps.backward_products_by_index(taps.forward_products_by_index(products, var), var),
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_weight_gradient_sums_over_pairs_of_points_of_each_image(layer: nn.Module) -> None:
    taps = Taps.of("layer", layer, (6, 7), 2, 1)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 84, generator=generator).double()
    d = torch.randn(2, len(taps.input_index), generator=generator).double()
    # For one sample, the gradient of a tap is the sum over points of cotangent times input.
    gradient = (d[..., None] * taps.gather(x)).unflatten(1, (2, -1)).sum(2)
    expected = gradient.square().mean(-1)
    products = [v[:, :, None] * v[:, None, :] for v in (d, x)]
    torch.testing.assert_close(taps.gradient_m2_from_products(*products, 2), expected)
