"""The reading table of a layer is the layer: padding, stride, dilation, circular borders."""

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
def test_a_table_with_the_layers_weights_does_what_the_layer_does(layer: nn.Module) -> None:
    layer = layer.double()
    table = Taps.of("layer", layer, (6, 7), 1, 1).matrix(layer.weight.detach().flatten())
    x = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    preact = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x) - layer.bias
    torch.testing.assert_close(table @ x.flatten(), preact.detach().flatten())


@pytest.mark.parametrize("layer", LAYERS)
def test_moments_pass_by_the_table_and_come_back_by_its_transpose(layer: nn.Module) -> None:
    taps = Taps.of("layer", layer, (6, 7), 1, 1)
    generator = torch.Generator().manual_seed(0)
    var = torch.rand(1 if taps.is_linear else taps.n_taps, generator=generator).double()
    var = var.expand(taps.n_taps)
    table = taps.matrix(var)
    read = torch.rand(3, 42, generator=generator).double()
    sent = torch.rand(3, len(taps.input_index), generator=generator).double()
    torch.testing.assert_close(taps.forward_m2(read, var), read @ table.T)
    torch.testing.assert_close(taps.backward_m2(sent, var), sent @ table)


@pytest.mark.parametrize("layer", LAYERS)
def test_shifting_sums_what_the_reading_table_sums(layer: nn.Module) -> None:
    taps = Taps.of("layer", layer, (6, 7), 2, 1)
    generator = torch.Generator().manual_seed(0)
    forms = torch.randn(3, 84, 84, generator=generator).double()
    forms = forms + forms.mT
    var = torch.ones(taps.n_taps).double()
    if not taps.is_linear:
        var = torch.rand(taps.n_taps, generator=generator).double()
    torch.testing.assert_close(
        taps.forward_products(forms, var), taps.forward_products_by_index(forms, var)
    )
