"""Tests of the figure of second moments by layer: axes, legend and files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import Results
from analysis.figures.__main__ import main
from analysis.figures.labels import in_words
from analysis.figures.style import THEORY_LINES, save, use_style
from analysis.figures.variance_by_layer import MEAN_STYLE, MEDIAN_STYLE, figures
from analysis.theory_comparison import TheoryComparison, compare_to_theory

MEAN, MEDIAN = MEAN_STYLE["label"], MEDIAN_STYLE["label"]
LABELS = {theory: style["label"] for theory, style in THEORY_LINES.items()}


@pytest.fixture(scope="module")
def drawn(comparisons: list[TheoryComparison]) -> dict[str, Figure]:
    use_style()
    return dict(figures(comparisons))


def _panels(figure: Figure) -> dict[str, Axes]:
    return {axis.get_title().replace("\n", " "): axis for axis in figure.axes if axis.get_visible()}


def _dots(axis: Axes) -> np.ndarray:
    return np.concatenate([np.asarray(c.get_offsets(), float) for c in axis.collections])


def _alone(comparison: TheoryComparison) -> Axes:
    ((_, figure),) = figures([comparison])
    (axis,) = _panels(figure).values()
    return axis


def test_one_figure_per_network_and_one_panel_per_init_and_activation(
    drawn: dict[str, Figure],
) -> None:
    assert set(drawn) == {
        "variance_by_layer-two_layer_channels=4",
        "variance_by_layer-plain_depth=4_width=4",
    }
    for figure in drawn.values():
        assert set(_panels(figure)) == {
            f"{init} · {activation}"
            for activation in ("ReLU", "tanh")
            for init in ("He", "Xavier", "normal, std 0.3", "U(0, 1)", "LSUV")
        }


def test_a_panel_shows_every_draw_and_a_line_per_theory(
    drawn: dict[str, Figure], by_label: dict[str, TheoryComparison]
) -> None:
    panels = _panels(drawn["variance_by_layer-plain_depth=4_width=4"])
    for activation, init in product(
        ("relu", "tanh"),
        ("he_normal", "xavier_normal", "normal std=0.3", "uniform a=0.0 b=1.0", "lsuv"),
    ):
        axis = panels[f"{in_words(init)} · {in_words(activation)}"]
        comparison = by_label[f"plain depth=4 width=4 {activation} {init}"]
        draws = comparison.draws
        draws = draws[(draws.quantity == "preact_m2") & (draws.image == -1)]
        dots = _dots(axis)
        assert len(dots) == len(draws) == 4 * 8  # layers times draws
        np.testing.assert_allclose(dots[:, 1], np.log10(draws.value))
        np.testing.assert_array_equal(dots[:, 0], draws.layer)
        lines = {line.get_label(): line for line in axis.lines}
        median = lines.pop(MEDIAN)
        np.testing.assert_allclose(
            median.get_ydata(), np.log10(draws.value).groupby(draws.layer).median()
        )
        means = draws.value.groupby(draws.layer).mean()
        np.testing.assert_allclose(lines.pop(MEAN).get_ydata(), np.log10(means))
        if init == "lsuv":  # no prediction, only dots
            assert not lines
            continue
        assert set(lines) == set(LABELS.values())
        for theory, label in LABELS.items():
            rows = comparison.predicted
            rows = rows[
                (rows.theory == theory) & (rows.quantity == "preact_m2") & (rows.image == -1)
            ]
            np.testing.assert_array_equal(lines[label].get_xdata(), [1, 2, 3, 4])
            np.testing.assert_allclose(lines[label].get_ydata(), np.log10(rows.value))


def test_nothing_drawn_falls_outside_its_panel(drawn: dict[str, Figure]) -> None:
    """Panels of one init share an axis, which must fit all of them."""
    for figure in drawn.values():
        for axis in _panels(figure).values():
            low, high = axis.get_ylim()
            points = [_dots(axis)[:, 1], *(np.asarray(line.get_ydata()) for line in axis.lines)]
            values = np.concatenate(points)
            assert low <= values.min()
            assert values.max() <= high
            assert high - low >= 2 - 1e-9  # at least two decades


def test_the_legend_has_one_entry_per_theory(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == [
            "measured, one dot per draw of the weights (8 draws)",
            MEAN,
            MEDIAN,
            *LABELS.values(),
        ]


def test_zero_and_infinite_moments_are_left_out(comparisons: list[TheoryComparison]) -> None:
    comparison = next(c for c in comparisons if c.unpredicted is None)
    value = comparison.draws.value.where(comparison.draws.layer != 2, 0.0)
    value = value.where(comparison.draws.draw != 0, np.inf)
    broken = dataclasses.replace(
        comparison,
        draws=comparison.draws.assign(value=value),
        predicted=comparison.predicted.assign(value=np.inf),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axis = _alone(broken)
    dots = _dots(axis)
    dots = dots[np.isfinite(dots).all(1)]
    assert len(dots) == 6  # one layer; two seeds of four draws, of which draw 0 is inf
    assert set(dots[:, 0]) == {1}
    lines = [line for line in axis.lines if line.get_label() not in (MEAN, MEDIAN)]
    assert all(np.isnan(line.get_ydata()).all() for line in lines)


def test_a_panel_without_finite_moments_has_a_note(comparisons: list[TheoryComparison]) -> None:
    comparison = next(c for c in comparisons if c.unpredicted)
    axis = _alone(dataclasses.replace(comparison, draws=comparison.draws.assign(value=0.0)))
    (text,) = axis.texts
    assert text.get_text() == "all measured moments\nare zero or infinite"


def test_a_network_of_one_layer_has_markers(sweep: Callable[..., Results]) -> None:
    """A line through one point has no length, so the figure draws a marker."""
    results = sweep("linear", "model=linear", "train.steps=0")
    ((name, figure),) = figures(compare_to_theory(results))
    assert name == "variance_by_layer"
    ((title, axis),) = _panels(figure).items()
    assert title == ""
    assert len(_dots(axis)) == 4
    assert len(axis.lines) == len(THEORY_LINES) + 2  # and the mean and the median
    assert all(line.get_marker() == "_" for line in axis.lines if line.get_label() != MEAN)
    assert [tick for tick in axis.get_xticks() if 0.7 <= tick <= 1.3] == [1]


def test_a_column_with_a_missing_panel_keeps_its_axis_labels(
    comparisons: list[TheoryComparison],
) -> None:
    """If the lowest panel of a column is missing, the panel above it numbers the layers."""
    complete_but_one = [
        c
        for c in comparisons
        if c.setting.axis_values["model"] == "plain"
        and (c.setting.axis_values["activation"], c.setting.axis_values["init"])
        != ("tanh", "xavier_normal")
    ]
    ((_, figure),) = figures(complete_but_one)
    figure.draw_without_rendering()
    panels = _panels(figure)
    assert len(panels) == 9

    def numbered(title: str) -> bool:
        return bool(panels[title].xaxis.get_tick_params()["labelbottom"])

    assert numbered("Xavier · ReLU")
    assert not numbered("He · ReLU")
    assert numbered("He · tanh")


def test_file_names_have_no_path_separators_or_brackets(
    comparisons: list[TheoryComparison],
) -> None:
    values = {"data": "../x y", "model.layers": [1, 2], **comparisons[0].setting.axis_values}
    setting = dataclasses.replace(comparisons[0].setting, axis_values=values)
    ((name, _),) = figures([dataclasses.replace(comparisons[0], setting=setting)])
    assert not set(name) & set("/\\ []{}:,'\"")


def test_files_have_the_format_of_their_suffix(drawn: dict[str, Figure], tmp_path: Path) -> None:
    paths = save(drawn["variance_by_layer-two_layer_channels=4"], tmp_path / "figures", "v")
    assert [path.name for path in paths] == ["v.pdf", "v.svg", "v.png"]
    starts = {path.suffix: path.read_bytes()[:200] for path in paths}
    assert starts[".pdf"].startswith(b"%PDF")
    assert starts[".png"].startswith(b"\x89PNG")
    assert b"<?xml" in starts[".svg"]
    assert "He · ReLU" in paths[1].read_text()  # text stays text


def test_the_command_saves_into_the_sweeps_folder(
    sweep: Callable[..., Results], capsys: pytest.CaptureFixture[str]
) -> None:
    results = sweep("drawn", "train.steps=0")
    folder = results.folder.root
    main(["drawn", "--results", str(folder.parent)])
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        f"variance_by_layer.{suffix}" for suffix in ("pdf", "png", "svg")
    ]
    assert f"{folder}/figures/variance_by_layer.{{pdf,svg,png}}" in capsys.readouterr().out


def test_a_missing_sweep_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["nothing", "--results", str(tmp_path)])
    assert error.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
