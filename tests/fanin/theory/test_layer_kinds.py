"""Built-in and custom layer kinds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from scipy import stats
from theory_networks import assert_same_distribution, layer_moments
from torch import Tensor, nn

from fanin.inits import HeNormal, WeightShape
from fanin.theory import UnpredictableLayer, certify, explain, prescribe
from fanin.theory.field import Sampling, predict_field
from fanin.theory.finite_width.dense import simulate_dense
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.layer_kind import LayerKind, Mixing, Units, UnsupportedModule
from fanin.theory.layers import BATCH_NORM, ELEMENTWISE, GROUP_NORM, LAYER_NORM, find_kind
from fanin.theory.network import parse_network
from fanin.theory.predict import THEORIES, predict_moments

EPS = 1e-5
X = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)).double()


class Double(nn.Module):
    """Repeats every pixel along both axes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


class RMSNorm(nn.Module):
    """Divides each image by the root mean square over channels and positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x * rate(x, range(1, x.ndim))


def rate(x: Tensor, axes: Sequence[int]) -> Tensor:
    return (x.square().mean(list(axes), keepdim=True) + EPS).rsqrt()


def unchanged(module: nn.Module, units: Units) -> Units:
    return units


def double_vjp(x: Tensor, cotangent: Tensor) -> Tensor:
    """Return the vector-Jacobian product of `Double`."""
    return 4 * nn.functional.avg_pool2d(cotangent, 2)


DOUBLE = LayerKind((Double,), unchanged, lambda module: Mixing(module, linear=True))
SAMPLED = LayerKind((Double,), unchanged, Mixing)  # backward by autograd
WITH_BACKWARD = LayerKind((Double,), unchanged, lambda module: Mixing(module, double_vjp))
RMS = LayerKind(
    (RMSNorm,),
    scalar=lambda module, units: units.scale((units.average(units.value.square()) + EPS).rsqrt()),
    # With infinitely many channels, no cotangent flows through the root mean square.
    field=lambda module: Mixing(
        forward=lambda x: x * rate(x, range(2, x.ndim)),
        backward=lambda x, cotangent: cotangent * rate(x, range(2, x.ndim)),
        routes=True,
        normalizes=True,
        over_channels=True,
    ),
    dense=lambda module: lambda y, stream: y * rate(y, [2]),
    first_order=False,
)


def equivalent_networks(channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a network with `Double` before a 2 x 2 convolution, and one with a 1 x 1 convolution.

    They are equal in distribution if each weight of the second is the sum of four of the first.
    """

    def net(*middle: nn.Module) -> nn.Sequential:
        first = nn.Conv2d(1, channels, 3, padding=1)
        last = nn.Linear(25 * channels, 4)
        return nn.Sequential(first, *middle, nn.ReLU(), nn.Flatten(), last).double()

    pairs = nn.Conv2d(channels, channels, 2, stride=2)
    return net(nn.ReLU(), Double(), pairs), net(
        nn.ReLU(), nn.Identity(), nn.Conv2d(*pairs.weight.shape[:2], 1)
    )


def variance(shape: WeightShape) -> float:
    """Return 2 / fan_in, without the number of taps for 1 x 1 kernels."""
    return 2 / (shape.fan_in if shape.kernel != (1, 1) else shape.in_features)


@pytest.mark.parametrize("theory", THEORIES[:3])
def test_custom_kind_equals_summed_weights(theory: str) -> None:
    values = [
        predict_moments(
            model, layer_moments(model, variance), X, (theory,), layer_kinds=kinds
        ).value
        for model, kinds in zip(equivalent_networks(channels=8), ([DOUBLE], []), strict=True)
    ]
    assert values[0].to_numpy() == pytest.approx(values[1].to_numpy(), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("kind", [SAMPLED, WITH_BACKWARD])
def test_sampled_rule_agrees_with_closed_form(kind: LayerKind) -> None:
    net, equivalent = equivalent_networks(channels=8)
    sampling = Sampling(repeats=8)
    sampled, exact = (
        predict_field(
            model, layer_moments(model, variance), X[:1], sampling=sampling, layer_kinds=[kind]
        ).to_frame()
        for model in (net, equivalent)
    )
    error = (sampled.value - exact.value).abs()
    n = int((error > 1e-9 * exact.value).sum())
    assert n > 0
    assert (error <= stats.t.isf(1e-3 / (2 * n), 7) * sampled.sampling_se + 1e-9 * exact.value)[
        exact.value.notna()
    ].all()
    assert (sampled.sampling_se <= 0.02 * exact.value)[exact.value.notna()].all()


def test_custom_kind_in_finite_width_theory() -> None:
    log_sds = []
    for model, kinds in zip(equivalent_networks(channels=64), ([DOUBLE], []), strict=True):
        moments = layer_moments(model, variance)
        frame = predict_moments(model, moments, X[:1], ("finite_width",), layer_kinds=kinds)
        log_sds.append(frame[frame.quantity.isin(["preact_m2", "vjp_m2"])].log_sd.to_numpy())
    # The samples of a channel estimate its variance to about 4 %.
    assert log_sds[0] == pytest.approx(log_sds[1], rel=0.1, abs=1e-6)


@pytest.mark.parametrize("theory", ["mean_field", "field"])
def test_rms_norm_equals_layer_norm_without_means(theory: str) -> None:
    def net(norm: nn.Module) -> nn.Sequential:
        first = nn.Conv2d(1, 8, 3), norm, nn.Tanh(), nn.Conv2d(8, 8, 2)
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(32, 4)).double()

    values = []
    for norm, kinds in ((RMSNorm(), [RMS]), (nn.GroupNorm(1, 8), [])):
        model = net(norm)
        moments = layer_moments(model, lambda shape: 2 / shape.fan_in)
        values.append(predict_moments(model, moments, X, (theory,), layer_kinds=kinds).value)
    assert values[0].to_numpy() == pytest.approx(values[1].to_numpy(), rel=1e-9, nan_ok=True)


def test_custom_dense_kind_has_the_sampled_distribution() -> None:
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(25, 16), RMSNorm(), nn.Tanh()),
        *(nn.Linear(16, 16), RMSNorm(), nn.ReLU(), nn.Linear(16, 4)),
    ).double()
    net, moments = (
        parse_network(model, (1, 5, 5), [RMS]),
        layer_moments(model, lambda shape: 2 / shape.fan_in),
    )
    chain = simulate_dense(model, net, moments, net.first_input(X), draws=1000)
    assert_same_distribution(chain, simulate_networks(model, net, moments, X, draws=150))


def test_certify_explain_prescribe_accept_custom_kinds() -> None:
    model, _ = equivalent_networks(channels=8)
    moments = layer_moments(model, variance)
    with pytest.raises(UnpredictableLayer, match="layer 2: Double is neither"):
        certify(model, X, init=moments, theories=("field",))
    certificate = certify(model, X, init=moments, theories=("he", "field"), layer_kinds=[DOUBLE])
    frame = predict_moments(model, moments, X, ("field",), layer_kinds=[DOUBLE])
    q = frame[(frame.quantity == "preact_m2") & (frame.image == -1)].value
    assert [layer.q for layer in certificate.layers] == pytest.approx(q.tolist())
    gains = prescribe(model, X, init=HeNormal(), layer_kinds=[DOUBLE]).gains
    assert list(gains) == [layer.name for layer in certificate.layers]
    explained = explain(model, X, moments, draws=2, layer_kinds=[DOUBLE])
    assert list(explained.ends.layer_name.unique()) == list(gains)


def test_custom_kind_sets_the_he_gain() -> None:
    quarter = LayerKind((Double,), gain=lambda module: 0.25)
    model = equivalent_networks(channels=8)[0]
    moments = layer_moments(model, variance)
    q, unknown = (
        predict_moments(model, moments, X, ("he",), layer_kinds=kinds).value.to_numpy()
        for kinds in ([quarter], [])
    )
    assert q[1] == pytest.approx(unknown[1] / 4)


def test_custom_kinds_take_precedence_and_may_raise() -> None:
    def reject(module: nn.Module) -> None:
        raise UnsupportedModule("not supported in this test")

    custom = LayerKind((nn.ReLU,), field=reject)
    assert find_kind(nn.ReLU(), [custom]) is custom
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)).double()
    with pytest.raises(UnpredictableLayer, match="layer 1: not supported in this test"):
        predict_moments(model, layer_moments(model, variance), X, ("field",), layer_kinds=[custom])


class Residual(nn.Module):
    """A residual block, with a layer of any class between two others."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1)
        self.between, self.last = between, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.between(x + self.second(x.relu()))).mean((2, 3))


@pytest.mark.parametrize("predict", [certify, explain, prescribe])
def test_custom_kinds_in_networks_with_branches(predict) -> None:
    """Kinds of which the network has no layer are ignored; others are an error."""
    options = {"init": "he_normal", "quiet": True, "layer_kinds": [DOUBLE]}
    if predict is explain:
        options["draws"] = 2
    assert predict(Residual(nn.Identity()), X, **options)
    with pytest.raises(UnpredictableLayer, match=r"layer_kinds are supported only in an nn.Seq"):
        predict(Residual(Double()), X, **options)


def test_kind_depends_on_module_state() -> None:
    assert find_kind(nn.BatchNorm2d(4)) is BATCH_NORM
    assert find_kind(nn.BatchNorm2d(4).eval()) is not BATCH_NORM
    assert find_kind(nn.GroupNorm(1, 4)) is LAYER_NORM
    assert find_kind(nn.GroupNorm(2, 4)) is GROUP_NORM
    assert find_kind(nn.Tanh()) is ELEMENTWISE
