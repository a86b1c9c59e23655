"""Moments that are exactly 0 in some draws have a predicted probability and interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from theory_networks import layer_moments
from torch import Tensor, nn

from fanin import certify, print_certificate
from fanin.inits import Moments
from fanin.statistics.coverage import inside
from fanin.statistics.draw_distribution import interval_probability
from fanin.theory.field import Sampling, propagate_field
from fanin.theory.finite_width import predict_finite_width, simulate
from fanin.theory.finite_width.dead import dead_probability
from fanin.theory.finite_width.dense import simulate_dense
from fanin.theory.finite_width.fit import MAX_ABOVE
from fanin.theory.finite_width.simulate import DrawMoments, simulate_networks
from fanin.theory.moments import LayerMoments
from fanin.theory.network import parse_network

DRAWS = 300
SIDE = 4
Network = tuple[nn.Sequential, dict[str, LayerMoments]]


def image() -> Tensor:
    noise = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return 1 + 0.3 * noise.double()


def network(
    activation: nn.Module, channels: int, depth: int, kernel: int, gain: float, mean: float = 0.0
) -> Network:
    modules: list[nn.Module] = []
    for n in range(depth):
        inputs = channels if n else 1
        modules += [nn.Conv2d(inputs, channels, kernel, padding=kernel // 2), activation]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * SIDE**2, 5)).double()
    moments = layer_moments(
        model, lambda s: gain / s.fan_in, lambda s: mean / s.fan_in**0.5, bias=Moments(0.0, 0.0)
    )
    return model, moments


NETWORKS: dict[str, Network] = {
    "weights of negative mean": network(nn.ReLU(), 4, 3, 3, gain=1.0, mean=-0.7),
    "two channels": network(nn.ReLU(), 2, 3, 1, gain=2.0),
    "saturated": network(nn.Hardtanh(), 3, 2, 1, gain=20.0),
}


def draw(model: nn.Sequential, moments: dict[str, LayerMoments], seed: int) -> DrawMoments:
    net = parse_network(model, (1, SIDE, SIDE))
    return simulate_networks(model, net, moments, image(), draws=DRAWS, seed=seed)


def assert_distributions_match(predicted: DrawMoments, measured: DrawMoments) -> int:
    """Compare the probability of 0 and the intervals with draws; return how many have zeros."""
    n_predicted, n = (len(m.values["vjp_m2"]) for m in (predicted, measured))
    with_zeros = 0
    for quantity, law in predicted.distributions().items():
        values = measured.values[quantity][:, 0].numpy()
        p = np.asarray(law.zero_probability)[0]
        error = np.sqrt(p * (1 - p) * (1 / n_predicted + 1 / n))
        assert (np.abs((values == 0).mean(0) - p) <= 4 * error).all(), quantity
        for layer in np.flatnonzero((p >= 0.05) & (law.log_sd[0] > 0)):
            with np.errstate(divide="ignore"):
                logs = np.log(values[:, layer])
            columns = np.log(law.value[0, layer]), law.log_sd[0, layer], p[layer]
            hits = inside(logs, *columns)
            assert hits[np.isneginf(logs)].all()
            expected = float(interval_probability(p[layer]))
            # The fit accepts twice the nominal 2.5 % of draws above its upper bound.
            tolerance = MAX_ABOVE - (1 - expected) + 4 * (MAX_ABOVE / n) ** 0.5
            assert abs(hits.mean() - expected) <= tolerance, (quantity, layer)
            plain = values[:, layer].mean()
            se = np.hypot(law.sampling_se[0, layer], values[:, layer].std() / n**0.5)
            assert abs(plain - law.value[0, layer]) <= 4 * se, (quantity, layer)
            with_zeros += 1
    return with_zeros


@pytest.mark.parametrize("name", NETWORKS)
def test_independent_draws_have_the_predicted_zeros_and_intervals(name: str) -> None:
    model, moments = NETWORKS[name]
    predicted, measured = (draw(model, moments, seed) for seed in (1, 2))
    assert assert_distributions_match(predicted, measured) >= 2


def test_a_narrow_network_of_linear_layers_has_the_zeros_of_independent_units() -> None:
    """Given a layer that is not 0, all three units of the next are negative in 1 of 8 draws."""
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4))
    ).double()
    moments = layer_moments(model, lambda s: 2 / s.fan_in, bias=Moments(0.0, 0.0))
    net = parse_network(model, (1, SIDE, SIDE))
    inputs = net.first_input(image())
    draws = simulate_dense(model, net, moments, inputs)
    p = draws.distributions()["vjp_m2"].zero_probability
    expected = 1 - (7 / 8) ** 2
    assert np.asarray(p)[0, 0] == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5
    )
    assert assert_distributions_match(draws, simulate_dense(model, net, moments, inputs, seed=1))


def test_slopes_of_saturated_sigmoids_are_exactly_zero_but_not_log_normal() -> None:
    """Float64 rounds sigmoid(y) to 1, with slope 0, above y = 37, and its slope is e^y below 0."""
    model, moments = network(nn.Sigmoid(), 2, 2, 1, gain=3e6)
    law = draw(model, moments, 0).distributions()["vjp_m2"]
    assert 0.5 < np.asarray(law.zero_probability)[0, 0] < 0.95
    assert np.isnan(law.log_sd[0, :2]).all()
    assert np.isfinite(law.value).all()


@pytest.mark.parametrize(("channels", "method"), [(6, "simulated"), (12, "first_order")])
def test_first_order_is_not_used_where_zeros_are_likely(
    channels: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer is dead with probability 2^-channels if all positions see the same input."""
    monkeypatch.setattr(simulate, "MAX_DRAWS", 64)
    model, moments = network(nn.ReLU(), channels, 3, 1, gain=2.0)
    constant = torch.ones(1, 1, SIDE, SIDE).double()
    assert predict_finite_width(model, moments, constant).method == method


def test_the_dead_probability_is_that_of_drawn_networks() -> None:
    model, moments = network(nn.ReLU(), 3, 2, 1, gain=2.0)
    constant = torch.ones(1, 1, SIDE, SIDE).double()
    net = parse_network(model, (1, SIDE, SIDE))
    (layers,) = propagate_field(
        model, moments, constant, sampling=Sampling(repeats=1), keep_covariances=True
    ).passes
    assert dead_probability(net, layers) == pytest.approx(2 * 2**-3, rel=1e-9)
    drawn = simulate_networks(model, net, moments, constant, draws=DRAWS).distributions()
    p = np.asarray(drawn["vjp_m2"].zero_probability)[0, 0]
    exact = 1 - (7 / 8) ** 2
    assert p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / DRAWS) ** 0.5)


def test_a_certificate_names_the_probability_of_zero(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "MAX_DRAWS", 128)
    model, moments = NETWORKS["weights of negative mean"]
    certificate = certify(model, image(), init=moments)
    prediction = certificate.layer("0").predicted["vjp_m2"]
    p = prediction.zero_probability
    assert 0.1 < p < 0.6
    assert prediction.interval is not None
    assert prediction.interval[0] == 0 < prediction.interval[1]
    print_certificate(certificate)
    text = " ".join(capsys.readouterr().out.split())
    assert f"exactly 0 in {100 * p:.2g} % of draws (layers 1, 2, 3)" in text
    rows = certificate.as_dict()["layers"][0]["predicted"]["vjp_m2"]
    assert rows["zero_probability"] == p
    assert rows["interval"][0] == 0.0
    frame = certificate.to_frame()
    assert (frame[frame.theory == "finite_width"].zero_probability >= 0).all()
