"""Tests of the activations in conf/activation/."""

from inspect import Parameter
from math import asin, erf, pi
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from experiments.config.instantiate import TARGET, arguments, instantiate, locate
from experiments.schema import coerce_group
from fanin.activations import Erf, Maxout, channels_per_unit
from fanin.errors import ConfigError
from fanin.models import AlexNet, Mlp, Plain, TwoLayer
from fanin.models.layers import Norm

CONF = Path(__file__).parents[2] / "conf" / "activation"
OPTIONS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONF.glob("*.yaml"))}
ELEMENTWISE = OPTIONS.keys() - {"maxout"}

# E[phi(z)^2] and E[phi'(z)^2] for z ~ N(0, 1), as tabulated in docs/appendix/derivations.md.
GAUSSIAN_MOMENTS = {
    "identity": (1.0, 1.0),
    "relu": (0.5, 0.5),
    "leaky_relu": ((1 + 0.01**2) / 2, (1 + 0.01**2) / 2),
    "tanh": (0.394294, 0.464403),
    "sigmoid": (0.293379, 0.044836),
    "erf": (0.464559, 0.569410),
    "gelu": (0.425221, 0.455851),
    "silu": (0.355776, 0.379482),
    "elu": (0.644945, 0.668102),
    "selu": (1.0, 1.071575),
    "softplus": (0.921246, 0.293379),
    # P(|z| < 1) = erf(1/sqrt 2); E[z^2; |z| < 1] = that - 2 phi(1).
    "hard_tanh": (1 - 2 * np.exp(-0.5) / (2 * pi) ** 0.5, erf(0.5**0.5)),
}


def gaussian_average(values, z: torch.Tensor, weights: torch.Tensor) -> float:
    return float(
        (values.detach() * weights * torch.exp(-(z.detach() ** 2) / 2) / (2 * pi) ** 0.5).sum()
    )


def quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gauss-Legendre nodes in panels of width 1 from -10 to 10, with kinks at their ends."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    z = np.add.outer(np.arange(-10, 10) + 0.5, nodes / 2).ravel()
    return torch.from_numpy(z), torch.from_numpy(np.tile(weights / 2, 20))


def test_every_option_has_a_known_gaussian_moment():
    assert GAUSSIAN_MOMENTS.keys() == ELEMENTWISE


@pytest.mark.parametrize("name", GAUSSIAN_MOMENTS)
def test_gaussian_moments_match_theory(name):
    z, weights = quadrature()
    z.requires_grad_()
    phi = instantiate(OPTIONS[name])(z)
    (slope,) = torch.autograd.grad(phi.sum(), z)
    for values, expected in zip((phi, slope), GAUSSIAN_MOMENTS[name], strict=True):
        # The table has six decimal places.
        assert gaussian_average(values**2, z, weights) == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize("name", OPTIONS)
def test_option_arguments_match_the_target_defaults(name):
    node = OPTIONS[name]
    parameters = arguments(locate(node, name))
    for key in node.keys() - {TARGET}:
        default = parameters[key].default
        assert default is not Parameter.empty
        assert (type(node[key]), node[key]) == (type(default), default)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", GAUSSIAN_MOMENTS)
def test_an_activation_is_elementwise_and_keeps_shape_and_dtype(name, dtype):
    activation = instantiate(OPTIONS[name])
    x = torch.linspace(-3, 3, 24, dtype=dtype).reshape(2, 3, 4)
    y = activation(x)
    eps = torch.finfo(dtype).eps
    assert (y.shape, y.dtype) == (x.shape, dtype)
    # Single elements run without SIMD, so a factor of x such as 1 + erf may have other last bits.
    elementwise = torch.stack([activation(v) for v in x.flatten()]).reshape(x.shape)
    torch.testing.assert_close(y, elementwise, rtol=8 * eps, atol=8 * eps * 3)


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
def test_erf_second_moment_matches_the_closed_form(q):
    z, weights = quadrature()
    second_moment = gaussian_average(Erf()(q**0.5 * z) ** 2, z, weights)
    assert second_moment == pytest.approx(2 / pi * asin(2 * q / (1 + 2 * q)), rel=1e-12)


def test_option_arguments_can_be_changed():
    leaky = instantiate(OPTIONS["leaky_relu"] | {"negative_slope": 0.5})
    assert leaky(torch.tensor(-2.0)) == -1.0


def test_maxout_takes_the_maximum_of_adjacent_channels():
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    y = Maxout(3)(x)
    assert y.shape == (2, 2, 3, 4)
    for unit in range(2):
        expected = torch.stack([x[:, 3 * unit + piece] for piece in range(3)]).amax(0)
        assert torch.equal(y[:, unit], expected)
    assert torch.equal(Maxout(2)(torch.tensor([[4.0, 1.0, 2.0, 3.0]])), torch.tensor([[4.0, 3.0]]))


def test_maxout_of_two_gaussian_pieces_keeps_the_second_moment():
    """max^2 + min^2 = a^2 + b^2, and max and -min have one distribution, so E[max(a, b)^2] = q."""
    n, q = 400_000, 2.5
    x = q**0.5 * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    squares = Maxout(2)(x).square()
    assert abs(float(squares.mean()) - q) < 4 * float(squares.std()) / n**0.5


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "mean_only"])
@pytest.mark.parametrize(
    "model", [TwoLayer(channels=4), AlexNet(width=4, dense=8, groups=2, lrn=True), Mlp(), Plain()]
)
def test_maxout_keeps_the_number_of_units(model, norm: Norm):
    """Weight layers have the same number of inputs as with ReLU, and twice as many outputs."""
    model = type(model)(**{**vars(model), "norm": norm})
    relu, maxout = (model.build((1, 16, 16), 10, phi) for phi in (torch.nn.ReLU, Maxout))
    pairs = [
        (a.weight.shape, b.weight.shape)
        for a, b in zip(relu, maxout, strict=True)
        if isinstance(a, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    for (relu_outputs, *relu_inputs), (maxout_outputs, *maxout_inputs) in pairs[:-1]:
        assert (maxout_outputs, maxout_inputs) == (2 * relu_outputs, relu_inputs)
    assert pairs[-1][0] == pairs[-1][1]
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert maxout(images).shape == (4, 10)


def test_custom_activations_may_combine_pieces():
    class Pairs(torch.nn.Module):
        pieces = 2

        def forward(self, x):
            return x[:, ::2] * x[:, 1::2]

    class Mixes(Pairs):
        def forward(self, x):
            return super().forward(x) - x.mean(2, keepdim=True)[:, ::2]

    assert channels_per_unit(Pairs()) == 2
    globals().update(Pairs=Pairs, Mixes=Mixes)
    for target in ("fanin.activations.Maxout", f"{__name__}.Pairs"):
        assert coerce_group("activation", {"_target_": target})
    with pytest.raises(ConfigError, match="not elementwise"):
        coerce_group("activation", {"_target_": f"{__name__}.Mixes"})
    with pytest.raises(ConfigError, match="pieces=1: must be 2 or more"):
        coerce_group("activation", {"_target_": "fanin.activations.Maxout", "pieces": 1})
