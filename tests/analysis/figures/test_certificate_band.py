"""Tests of the certificate figure: dots, lines, band and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import Results
from analysis.figures.certificate_band import band, certificate_band, main
from analysis.figures.style import use_style
from analysis.settings import Setting
from analysis.theory_comparison import TheoryComparison

LAYERS = ("conv1", "conv2", "fc1")
DRAWS = 20


@pytest.fixture(scope="module")
def comparison() -> TheoryComparison:
    """Return three layers; He is exact in the first and 100 times too small in the last."""
    rng = np.random.default_rng(0)
    rows, theory = [], []
    for quantity in ("preact_m2", "vjp_m2"):
        for n, name in enumerate(LAYERS):
            at = {"layer": n + 1, "layer_name": name, "quantity": quantity, "image": -1}
            value = 400.0 / 10 ** (2 - n)
            he = 4.0 if quantity == "preact_m2" else value * 10.0 ** (2 - n)
            values = {"he": (he, np.nan), "finite_width": (value, 0.2)}
            theory += [
                {**at, "theory": theory, "value": v, "log_sd": sd, "zero_probability": 0.0}
                for theory, (v, sd) in values.items()
            ]
            draws = value * np.exp(0.2 * rng.normal(size=DRAWS) - 0.02)
            rows += [{**at, "draw": d, "seed_weights": 0, "value": v} for d, v in enumerate(draws)]
    setting = Setting({}, "label", {}, ("cell",))
    return TheoryComparison(setting, pd.DataFrame(rows), pd.DataFrame(theory), None)


@pytest.fixture(scope="module")
def figure(comparison: TheoryComparison) -> Figure:
    use_style()
    drawn = certificate_band(comparison)
    drawn.draw_without_rendering()
    return drawn


def _dots(axis: Any) -> np.ndarray:
    return np.asarray(axis.collections[-1].get_offsets(), float)


def test_every_draw_is_a_dot_at_its_layer(figure: Figure, comparison: TheoryComparison) -> None:
    for axis, quantity in zip(figure.axes[:2], ("preact_m2", "vjp_m2"), strict=True):
        rows = comparison.draws[comparison.draws.quantity == quantity]
        dots = _dots(axis)
        np.testing.assert_array_equal(dots[:, 0].round(), rows.layer)
        np.testing.assert_allclose(dots[:, 1], rows.value)


def test_the_band_is_the_central_95_percent_of_the_predicted_law() -> None:
    low, high = band(np.array([2.0]), np.array([0.3]))
    draws = 2 * np.exp(0.3 * np.random.default_rng(0).normal(size=100_000) - 0.045)
    inside = ((draws > low) & (draws < high)).mean()
    assert abs(inside - 0.95) < 4 * (0.95 * 0.05 / 100_000) ** 0.5


def test_lines_are_the_predictions(figure: Figure) -> None:
    for axis in figure.axes[:2]:
        certificate, he = (np.asarray(line.get_ydata(), float) for line in axis.lines)
        np.testing.assert_allclose(certificate, [4.0, 40.0, 400.0])
        assert he[0 if axis is figure.axes[0] else -1] in (4.0, 400.0)
    for axis in figure.axes[2:]:
        np.testing.assert_allclose(axis.lines[0].get_ydata(), 1.0)


def test_the_annotation_gives_the_ratio_of_he_to_the_mean(figure: Figure) -> None:
    texts = [axis.texts[0].get_text() for axis in figure.axes[:2]]
    assert [text.startswith("He: ") for text in texts] == [True, True]
    assert texts[0].endswith("times too small")
    assert texts[1].endswith("times too large")
    for text in texts:  # 100, up to the sampling error of 20 draws
        assert 80 <= float(text.split()[1].replace(",", "")) <= 125


def test_axes_have_layer_names_and_symbols(figure: Figure) -> None:
    for axis in figure.axes[2:]:
        assert [tick.get_text() for tick in axis.get_xticklabels()] == list(LAYERS)
    assert all(axis.get_yscale() == "log" for axis in figure.axes)
    assert "y_l^2" in figure.axes[0].get_ylabel()
    assert r"\delta_l^2" in figure.axes[1].get_ylabel()
    (legend,) = figure.legends
    assert f"{DRAWS} draws" in legend.get_texts()[0].get_text()


def test_the_command_writes_three_files(
    sweep: Callable[..., Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("model=mlp", "model.depth=2", "model.width=16", "train.steps=0")
    results = sweep("banded", *overrides, "probe.size=1", "probe.images=[0]")
    output = tmp_path / "out"
    main(["banded", "--results", str(results.folder.root.parent), "--output", str(output)])
    assert sorted(path.suffix for path in output.iterdir()) == [".pdf", ".png", ".svg"]
    assert "certificate_band.{pdf,svg,png}" in capsys.readouterr().out
