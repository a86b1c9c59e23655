"""Plots of certificates, explanations and probes."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from fanin import certify, explain, plots, prescribe, probe
from fanin.errors import ConfigError, FaninError

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    layers = [m for _ in range(7) for m in (nn.ReLU(), nn.Linear(16, 16))]
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), *layers)


IMAGES = np.ones((2, 1, 4, 4))


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_a_certificate_draws_its_values_and_marks_unhealthy_layers(net):
    certificate = certify(net, IMAGES, init="pytorch_default", measure=4)
    signal, gradient = certificate.plot()
    assert signal.figure is gradient.figure
    np.testing.assert_allclose(
        lines(signal)["predicted"] ** 2, [layer.q for layer in certificate.layers]
    )
    np.testing.assert_allclose(
        lines(signal)["measured"] ** 2,
        [layer.measured["preact_m2"][0] for layer in certificate.layers],
    )
    # All layers have equal widths, so the relative norm is the ratio of rms values.
    np.testing.assert_allclose(
        lines(gradient)["predicted"] ** 2,
        [layer.value("vjp_m2") for layer in certificate.layers],
    )
    bad = {verdict.layer for verdict in certificate.verdicts if verdict.quantity == "vjp_m2"}
    assert len(bad) == len(lines(gradient)["unhealthy"]) > 0
    assert "\n" in signal.get_ylabel()
    assert "dimensionless" in signal.get_ylabel()
    labels = [tick.get_text() for tick in gradient.get_xticklabels()]
    assert labels == [f"{i}: {x.name}\nLinear" for i, x in enumerate(certificate.layers, start=1)]


def test_an_explanation_draws_every_factor_that_is_not_1(net):
    explanation = explain(net, IMAGES, "pytorch_default", draws=4)
    forward, backward = explanation.plot()
    factors = explanation.factors("preact_m2")
    for step in ("biases", "rest"):
        np.testing.assert_allclose(lines(forward)[step], factors[step])
    assert "pooling" not in lines(forward)
    np.testing.assert_allclose(lines(forward)["measured / He"], factors.prod(axis=1))
    np.testing.assert_allclose(
        lines(backward)["measured / He"], explanation.factors("vjp_m2").prod(axis=1)
    )


def test_series_differ_without_colors(net):
    forward, _ = explain(net, IMAGES, "pytorch_default", draws=4).plot()
    styles = [(line.get_marker(), line.get_linestyle()) for line in forward.lines[1:]]
    assert len(set(styles)) == len(styles) > 2


def test_a_probe_draws_a_second_moment(net):
    table = probe(net, IMAGES)
    ax = table.plot("vjp_m2")
    rows = table.query("quantity == 'vjp_m2' and image == -1")
    np.testing.assert_allclose(ax.lines[0].get_ydata() ** 2, rows.value)
    assert "gradient" in ax.get_ylabel()
    with pytest.raises(ConfigError, match="quantity=preact: did you mean preact_m2"):
        table.plot("preact")


def test_selections_of_a_probe_are_ordinary_tables(net):
    rows = probe(net, IMAGES).query("quantity == 'preact_m2'")
    assert rows.plot(y="value", use_index=False) is not None  # the method of pandas


def test_given_axes_are_used_and_counted(net):
    certificate = certify(net, IMAGES, init="he_normal", theories=("he", "mean_field"))
    _, axes = plt.subplots(2)
    assert certificate.plot(axes) == tuple(axes)
    with pytest.raises(ConfigError, match="ax: pass 2 axes, got 1"):
        certificate.plot(axes[0])
    _, ax = plt.subplots()
    assert probe(net, IMAGES).plot(ax=ax) is ax


@pytest.mark.parametrize("init", ["zeros", "constant"])
def test_values_that_a_logarithmic_axis_cannot_show_are_left_out(net, init):
    certificate = certify(net, IMAGES, init=init, theories=("mean_field",))
    for ax in certificate.plot():
        ax.figure.canvas.draw()
        assert all(not (values <= 0).any() for values in lines(ax).values())


def test_a_missing_matplotlib_is_one_line(net, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(FaninError, match=r"^plots need matplotlib; install it: pip install matpl"):
        probe(net, IMAGES).plot()


def test_a_prescription_prints_a_row_per_layer(net):
    prescription = prescribe(net, torch.as_tensor(IMAGES))
    text = str(prescription)
    assert "Linear(16, 16)" in text
    assert "272" in text  # 16 * 16 weights and 16 biases
    for gain in prescription.gains.values():
        assert f"{gain:.3g}" in text
    assert "Linear(16, 16)" in prescription._repr_html_()


def test_tables_have_the_number_of_parameters(net):
    for shown in (
        certify(net, IMAGES, init="he_normal", measure=2),
        explain(net, IMAGES, "he_normal", draws=2),
    ):
        assert "params" in str(shown)
        assert " 272 " in str(shown)
