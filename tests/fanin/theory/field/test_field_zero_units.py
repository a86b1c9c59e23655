"""Theory `field` for units that are 0 because all their inputs are 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from fanin import certify
from fanin.inits import Uniform

LAYERS = 5
DRAWS = 40


@pytest.mark.parametrize("width", [16, 64])
def test_dark_regions_shrink_by_one_position_per_layer(width: int) -> None:
    """With positive weights, a point is 0 in all channels if all points that it reads are 0.

    So zeros are not independent between channels, and a dark region shrinks by the reach of a
    kernel in each layer, at any width.
    """
    digits = torch.tensor(load_digits().images[:1, None])
    image = F.interpolate((digits - digits.mean()) / digits.std(), scale_factor=3.0)
    modules: list[nn.Module] = []
    for layer in range(LAYERS):
        n_in = width if layer else 1
        modules += [nn.Conv2d(n_in, width, 3, padding=1, bias=False), nn.ReLU()]
    net = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * 24 * 24, 2, bias=False))
    certificate = certify(
        net, image, init=Uniform(0.0, 1.0), theories=("field",), joint=False, quiet=True
    )
    predicted = np.array([x.value("act_zero_fraction") for x in certificate.layers[:LAYERS]])

    generator = torch.Generator().manual_seed(0)
    shares = np.empty((DRAWS, LAYERS))
    for draw in range(DRAWS):
        x = image
        for layer in range(LAYERS):
            shape = (width, x.shape[1], 3, 3)
            weight = torch.rand(shape, generator=generator, dtype=torch.float64)
            x = F.relu(F.conv2d(x, weight, padding=1))
            x = x / x.max()
            shares[draw, layer] = float((x == 0).double().mean())
    error = shares.std(0, ddof=1) / DRAWS**0.5
    # The points of a patch are treated as all 0 or all not 0: an error of up to 1 % of positions.
    assert np.abs(predicted - shares.mean(0)).max() < 0.01 + 4 * error.max()
