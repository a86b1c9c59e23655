"""Axis labels, tick labels and legends of figures drawn from the committed summaries."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from analysis.figures.alexnet_variance.figures import caption
from analysis.scoring.scored_study import scored_study
from analysis.scoring.summary import read_summary


def figures(name: str) -> dict[str, Figure]:
    drawn = dict(scored_study(name).figures(read_summary(name).tables))
    for figure in drawn.values():
        figure.draw_without_rendering()  # sets the tick labels
    return drawn


@pytest.mark.parametrize(
    ("study", "name", "panel"),
    [("he2015", "he2015", 2), ("alexnet_variance", "alexnet_variance_outputs", 1)],
)
def test_a_panel_with_its_own_quantity_has_a_y_label(study: str, name: str, panel: int) -> None:
    assert figures(study)[name].axes[panel].get_ylabel()


def test_hanin2018_has_ticks_at_plain_numbers() -> None:
    left, middle, right = figures("hanin2018")["hanin2018"].axes
    for axis in (left.xaxis, left.yaxis, middle.xaxis, right.xaxis):
        ticks = [text.get_text() for text in axis.get_ticklabels()]
        assert ticks
        assert not any("^" in text for text in ticks), ticks


def test_glorot2010_names_the_layers_of_the_densities() -> None:
    figure = figures("glorot2010")["glorot2010"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["layer 1", "layer 3", "layer 5"]
    assert all(len(axis.lines) == 3 for axis in figure.axes[1:])


def test_depths_that_share_layers_are_one_series() -> None:
    tables = dict(read_summary("alexnet_variance").tables)
    study = scored_study("alexnet_variance")
    assert "the same weights" in caption(tables)
    assert len(study.figures(tables)["alexnet_variance_dead"].axes[0].containers) == 1
    dead = tables["dead"]
    tables["dead"] = dead.assign(value=dead["value"] + (dead["depth"] == 9) * 0.01)
    assert "the same weights" not in caption(tables)
    assert len(study.figures(tables)["alexnet_variance_dead"].axes[0].containers) == 3


def test_dying_relu_draws_all_images_of_a_column_in_equal_size() -> None:
    figure = figures("dying_relu")["dying_relu"]
    boxes = [axis.get_window_extent() for axis in figure.axes if axis.images]
    assert len(boxes) == 12  # two inputs, two filters, eight maps
    assert len({(round(box.x0), round(box.width), round(box.height)) for box in boxes}) == 6
    assert len({round(box.y0) for box in boxes}) == 2


def test_inf_loss_writes_all_numbers_of_networks() -> None:
    (axis,) = figures("inf_loss")["inf_loss_first_layer"].axes
    assert sum(int(text.get_text().replace(",", "")) for text in axis.texts) == 1512
