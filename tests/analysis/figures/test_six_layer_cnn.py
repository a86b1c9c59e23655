"""The figure of the README."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.figures import six_layer_cnn as figure

ROOT = Path(__file__).parents[3]


def test_prescribe_gives_every_layer_a_second_moment_of_one():
    images = figure.digits()[0][:8]
    initialize = figure.initializers()[figure.AFTER]
    moments = []
    for seed in range(40):
        torch.manual_seed(seed)
        net = figure.six_layer_cnn()
        initialize(net)
        moments.append(np.square(figure.signals(net, images)))
    errors = np.std(moments, axis=0, ddof=1) / len(moments) ** 0.5
    assert len(errors) == 6
    assert (np.abs(np.mean(moments, axis=0) - 1) < 4 * errors).all()
    default = np.square(figure.signals(figure.six_layer_cnn(), images))
    assert (1 - default > 4 * errors).all()  # the test can tell the two inits apart


def test_figure_shows_each_init_at_its_best_learning_rate():
    layers, curves = figure.measure(seeds=[0], learning_rates=[0.0, 0.1], steps=20)
    assert figure.best_learning_rates(curves)[figure.AFTER] == 0.1
    drawn = figure.draw(layers, curves).axes[1].lines[1].get_ydata()
    shown = curves[(curves.init == figure.AFTER) & (curves.lr == 0.1)]
    assert list(drawn) == list(shown.accuracy)


@pytest.mark.slow
def test_command_draws_the_figure_and_the_readme_states_its_numbers(tmp_path, monkeypatch):
    tables = []
    draw = figure.draw
    monkeypatch.setattr(figure, "draw", lambda *args: tables.append(args) or draw(*args))
    figure.main(["--output", str(tmp_path)])
    assert (tmp_path / "six_layer_cnn.png").exists()
    measured = figure.final_accuracies(tables[0][1])
    text = " ".join((ROOT / "README.md").read_text().split())
    stated = re.search(
        r"accuracy is ([\d.]+) with torch's default and ([\d.]+) with prescribe;", text
    ).groups()
    rates = re.search(r"torch's default: ([\d.]+), prescribe: ([\d.]+)\)", text).groups()
    # Rounding differs between CPUs, so that single steps may differ.
    assert (abs(measured["mean"] - list(map(float, stated))) < 2 * measured.se + 0.005).all()
    assert list(measured.lr) == list(map(float, rates))
    assert measured["mean"][figure.AFTER] > measured["mean"][figure.BEFORE]
