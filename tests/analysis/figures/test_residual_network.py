"""The README's figure of a ResNet."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures import residual_network as figure


def _table() -> pd.DataFrame:
    rows = [
        {"init": name, "layer": layer, "quantity": quantity, "predicted": 4.0 * layer}
        for name in figure.STYLES
        for quantity, _, _ in figure.PANELS
        for layer in (1, 2)
    ]
    return pd.DataFrame(rows).assign(measured=lambda t: 1.44 * t.predicted, se=0.1)


def test_lines_are_predictions_and_points_are_measurements_with_two_standard_errors():
    for axis in figure.draw(_table()).axes:
        line, points = axis.lines[0], axis.containers[0]
        assert list(line.get_ydata()) == [2.0, 8**0.5]
        data, _, (bars,) = points
        measured = np.array([1.44 * 4, 1.44 * 8])
        assert list(data.get_ydata()) == list(np.sqrt(measured))
        half = np.diff([segment[:, 1] for segment in bars.get_segments()]).ravel() / 2
        # d sqrt(m) = d m / (2 sqrt(m))
        np.testing.assert_allclose(half, 2 * 0.1 / (2 * np.sqrt(measured)))


def test_prescribed_layers_have_their_signal_and_draws_agree():
    table = figure.measure(depth=8, draws=10)
    stated = table[(table.init == figure.AFTER) & (table.quantity == "preact_m2")].predicted
    # The last layers of the three branches have 1/3.
    assert np.allclose(np.minimum(abs(stated - 1), abs(stated - 1 / 3)), 0, atol=0.02)
    assert (np.isclose(stated, 1 / 3, atol=0.02)).sum() == 3
    assert table.layer.max() == len(stated)
