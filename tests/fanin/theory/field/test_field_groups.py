"""Groups of a convolution have means and cotangents of their own if the weights have a mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_networks import Weights, image, rejected_scores, z_scores
from scipy import stats
from torch import Tensor, nn

from fanin.inits import Moments
from fanin.theory import LayerMoments
from fanin.theory.field import Sampling, predict_field
from fanin.theory.field.channel_pairs import ChannelPairs

WEIGHT = Moments(mean=0.2, var=0.3**2)
SIDE = 2
QUADRATURE_ERROR = 1e-6  # of the mean slope (fanin.theory.quadrature.COARSE)


def build(
    channels: int,
    groups: tuple[int, ...],
    side: int,
    activation=nn.Identity,
    pools=(),
    outputs: int = 3,
) -> nn.Sequential:
    """Build convolutions with these numbers of groups, and a linear readout."""
    modules: list[nn.Module] = []
    for index, n_groups in enumerate(groups):
        in_channels = channels if index else 2
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, groups=n_groups)
        modules += [conv, activation(), *pools[index : index + 1]]
    modules.append(nn.Flatten())
    features = nn.Sequential(*modules)(torch.zeros(1, 2, side, side)).shape[1]
    return nn.Sequential(*modules, nn.Linear(features, outputs)).double()


def weight_matrices(layer: nn.Module, shape: torch.Size) -> Tensor:
    """Return the matrices [weight, out, in] whose sum, weighted by the weights, is the layer."""
    units = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
    basis = torch.eye(layer.weight.numel(), dtype=torch.float64).reshape(-1, *layer.weight.shape)
    zero = torch.zeros(len(layer.bias), dtype=torch.float64)
    outputs = [
        torch.func.functional_call(layer, {"weight": w, "bias": zero}, (units,)) for w in basis
    ]
    return torch.stack([y.flatten(1).T for y in outputs])


def expected_products(products: Tensor, matrices: Tensor) -> Tensor:
    """Return E[J X J^T] for a random matrix J of independent weights, and X = `products`."""
    mean = WEIGHT.mean * matrices.sum(0)
    return mean @ products @ mean.T + WEIGHT.var * (matrices @ products @ matrices.mT).sum(0)


def linear_network_moments(model: nn.Sequential, x: Tensor) -> tuple[list[float], list[float]]:
    """Compute E[y^2] and the cotangent's second moment of all layers from all pairs of units."""
    layers: list[Tensor] = []
    products = x.flatten()[:, None] * x.flatten()
    forward, shape = [], x.shape[1:]
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d | nn.Linear):
                layers.append(weight_matrices(module, shape))
                products = expected_products(products, layers[-1])
                forward.append(float(products.diagonal().mean()))
            shape = module(torch.zeros(1, *shape).double()).shape[1:]
    products = torch.eye(3, dtype=torch.float64)
    backward = [1.0]
    for matrices in layers[:0:-1]:
        products = expected_products(products, matrices.mT)
        backward.append(float(products.diagonal().mean()))
    return forward, backward[::-1]


def predict_linear(model: nn.Sequential, x: Tensor, sampling: Sampling | None = None):
    names = [name for name, module in model.named_modules() if hasattr(module, "weight")]
    moments = {name: LayerMoments(WEIGHT, Moments(0.0, 0.0)) for name in names}
    return predict_field(model, moments, x, sampling=sampling)


def linear_input() -> Tensor:
    return torch.tensor([0.5, -0.3, 0.2, 0.1, -0.6, 0.4, 0.3, -0.2]).double().reshape(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        (4, (1, 1, 1)),
        (4, (1, 2, 2)),
        (4, (1, 2, 4)),
        (4, (1, 4, 2)),
        (4, (2, 4, 1)),
        (4, (1, 2, 1, 2)),
        (4, (1, 4, 1, 4)),
        (6, (1, 2, 3)),
        (6, (2, 3, 3)),
    ],
)
def test_the_cotangents_of_a_linear_network_are_exact(channels, groups):
    model, x = build(channels, groups, SIDE), linear_input()
    _, expected = linear_network_moments(model, x)
    predicted = predict_linear(model, x, Sampling(repeats=1)).value("vjp_m2")[0]
    assert predicted == pytest.approx(expected, rel=QUADRATURE_ERROR)


@pytest.mark.parametrize("groups", [(1, 2, 1), (1, 4, 1), (2, 4, 2), (1, 2, 2), (2, 1, 2)])
def test_the_preactivations_of_a_linear_network_are_unbiased(groups):
    model, x = build(8, groups, SIDE), linear_input()
    expected, _ = linear_network_moments(model, x)
    repeats = predict_linear(model, x, Sampling(repeats=24)).repeats["preact_m2"][:, 0]
    assert repeats.mean(0)[:2] == pytest.approx(expected[:2], rel=1e-10)
    t = stats.ttest_1samp(repeats[:, 2:], expected[2:], axis=0)
    assert t.pvalue.min() > 1e-3 / t.pvalue.size, repeats.mean(0) / np.array(expected)


def test_groups_of_channels_that_differ_share_no_covariance():
    # The two groups of the first layer read constant images of opposite sign. Their difference is
    # known, so the mean of the next layer's pre-activations has the noise of each group only.
    x = torch.ones(1, 2, SIDE, SIDE).double() * torch.tensor([3.0, -3.0]).double()[:, None, None]
    model = build(4, (2, 1, 1), SIDE)
    expected, _ = linear_network_moments(model, x)
    predicted = predict_linear(model, x, Sampling(repeats=1)).value("preact_m2")[0]
    assert predicted[:2] == pytest.approx(expected[:2], rel=1e-10)


@pytest.mark.parametrize(
    ("activation", "groups", "pools", "mean_ratio"),
    [
        (nn.Identity, (1, 4, 1, 4), (), 3.0),
        (nn.Tanh, (1, 4, 1, 4), (), 2.0),
        (nn.ReLU, (1, 2, 1, 2), (), 4.0),
        (nn.Tanh, (1, 4, 1, 4), (nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1)), 2.0),
        (nn.Tanh, (1, 4, 1, 4), (nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)), 2.0),
    ],
)
def test_grouped_weights_with_a_mean_agree_with_drawn_networks(
    activation, groups, pools, mean_ratio
):
    x = image()
    model = build(64, groups, 7, activation, pools, outputs=10)
    weights = Weights(gain=2**0.5 if activation is nn.ReLU else 1.0, mean_ratio=mean_ratio)
    scores = z_scores(model, weights, x - x.mean(), draws=160)
    assert not rejected_scores(scores), scores


@pytest.mark.parametrize(("channels", "groups", "next_groups"), [(12, 2, 3), (8, 4, 2), (6, 1, 6)])
def test_probabilities_of_pairs_match_a_count(channels, groups, next_groups):
    group, reader = (np.arange(channels) * n // channels for n in (groups, next_groups))
    different = ~np.eye(channels, dtype=bool)
    same_reader = reader[:, None] == reader
    within = different & (group[:, None] == group)
    across = different & ~within
    pairs = ChannelPairs.of_sizes(channels, groups, next_groups)
    assert pairs.within == pytest.approx(same_reader[within].mean())
    if groups > 1:
        assert pairs.across == pytest.approx(same_reader[across].mean())
