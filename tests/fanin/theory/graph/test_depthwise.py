"""Depthwise convolutions and groups of few channels: exact moments, and gains of `prescribe`."""

from __future__ import annotations

import pytest
from graph_draws import digits
from rule_modules import Depthwise
from torch import Tensor, nn

from fanin import prescribe
from fanin.inits import to_init
from fanin.theory.certificate import certify
from fanin.theory.field import Sampling
from fanin.theory.graph import predict_graph
from fanin.theory.moments import declared_moments


class SquareOfGroups(nn.Module):
    """The square of a convolution of small groups, at one position."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 48, 8)
        self.groups = nn.Conv2d(48, 48, 1, groups=48 // size)
        self.fc = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.groups(self.stem(x)).flatten(1)
        return self.fc(y * y)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_outputs_of_small_groups_are_not_gaussian(size: int):
    """Y = sum_i w_i x_i of n terms, Var w = 2/n, E[x^2] = q: E[y^4] = (3 + 6/n) (2 q)^2.

    With cotangents u of y^2, each input gets the sum of w 2 y u over n outputs, and
    n E[(w 2 y u)^2] = n 4 (n + 2) (2/n)^2 q E[u^2].
    """
    net, images = SquareOfGroups(size), digits()
    moments = declared_moments(net, to_init("he_normal"))
    prediction = predict_graph(net, moments, images, sampling=Sampling(samples=2**15))
    q, u2 = prediction.value("preact_m2")[0, 0], 4 * 2 / 48
    for repeats, expected in (
        (prediction.repeats["preact_m2"][:, 0, -1], 2 * (3 + 6 / size) * (2 * q) ** 2),
        (prediction.repeats["vjp_m2"][:, 0, 0], 4 * size * (size + 2) * (2 / size) ** 2 * q * u2),
    ):
        error = repeats.std(ddof=1) / len(repeats) ** 0.5
        assert 4 * error < expected / 4  # groups taken as Gaussian would differ by 1/3 or more
        assert abs(repeats.mean() - expected) < 4 * error


def test_prescribe_gives_depthwise_convolutions_the_target():
    net, images = Depthwise(16), digits()
    prescription = prescribe(net, images, target=2.0)
    assert {"stem", "depthwise", "strided", "fc"} <= set(prescription.gains)
    layers = certify(net, images, init=prescription.init, theories=("field",)).layers
    q = {layer.name: layer.q for layer in layers}
    # The last layers of two branches get half of the target.
    for name, expected in {"stem": 2, "depthwise": 1, "pointwise": 1, "strided": 2}.items():
        assert q[name] == pytest.approx(expected, rel=0.02), name
