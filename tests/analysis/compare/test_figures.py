"""Tests of the comparison figures: same content as the tables, and space for labels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import InitComparison, compare_trials
from analysis.compare.figures import standings_figure, tuned_values_figure
from analysis.compare.spec import ComparisonSpec

LONG = "truncated_normal fan=fan_avg gain=1.41 negative_slope=0.01 layers={} cost=$5 of <b> "


def make_trials(**options: float) -> pd.DataFrame:
    return simulate_trials(np.random.default_rng(0), surface=PEAKED, **{"strategies": 2, **options})


def diverge(planned: pd.DataFrame, selected: pd.Series) -> pd.DataFrame:
    planned.loc[selected, ["score", "loss"]] = np.nan
    planned.loc[selected, "diverged"] = True
    return planned


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize("draw", [standings_figure, tuned_values_figure])
def test_panels_keep_their_width_with_long_names(draw: Callable[[InitComparison], Figure]) -> None:
    planned = make_trials(settings=2)
    planned["strategy"] = LONG + planned["strategy"]
    planned["group"] = LONG + planned["setting"]
    figure = draw(compare_trials(planned, ComparisonSpec()))
    FigureCanvasAgg(figure).draw()
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 2
    for axis in panels:
        assert axis.get_window_extent().width / figure.dpi > 1.8
        title = axis.title.get_window_extent()
        assert title.width < 1.25 * axis.get_window_extent().width
    assert r"cost \$5" in panels[0].get_yticklabels()[0].get_text().replace("\n", " ")


@pytest.mark.parametrize(("center", "spread"), [(0.9, 1e-3), (0.9, 1e-2), (0.5, 0.3)])
def test_tick_labels_do_not_overlap(center: float, spread: float) -> None:
    planned = make_trials(settings=2)
    planned["group"] = planned["setting"]
    score = planned["score"]
    planned["score"] = center + spread * (score - score.mean()) / score.std()
    figure = standings_figure(compare_trials(planned, ComparisonSpec()))
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert len(ticks) >= 2
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        gaps = [right.x0 - left.x1 for left, right in pairwise(boxes)]
        assert min(gaps) > 0.04 * figure.dpi  # inches


def test_the_box_marks_the_best_value_of_the_table() -> None:
    """The loss is lowest at 0.1, but one of five runs diverged there."""
    planned = make_trials()
    planned["score"] = 1 - planned["score"]
    selected = (planned["tuned"] == 0.1) & (planned["seed"] == "0")
    comparison = compare_trials(diverge(planned, selected), ComparisonSpec(metric="test_loss"))
    values = [0.001, 0.01, 0.1, 1.0, 10.0]
    (axis, *_) = tuned_values_figure(comparison).axes
    boxes = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    boxed = {
        comparison.order[round(box.get_y() + 0.5)]: values[round(box.get_x() + 0.5)]
        for box in boxes
    }
    best = comparison.groups[0].standings.set_index("strategy")["best"]
    assert boxed == {name: value for name, (value,) in best.items()}
    assert 0.1 not in boxed.values()


def test_a_mean_requires_all_settings() -> None:
    planned = make_trials(settings=2)
    planned["score"] = 1 - planned["score"]
    selected = (planned["tuned"] == 0.1) & (planned["setting"] == "t1")
    comparison = compare_trials(diverge(planned, selected), ComparisonSpec(metric="test_loss"))
    assert texts(tuned_values_figure(comparison)).count("–†") == 2


def test_the_dagger_is_explained_if_there_is_one() -> None:
    planned = make_trials()
    assert "†" not in tuned_values_figure(compare_trials(planned, ComparisonSpec())).get_supxlabel()
    diverged = diverge(make_trials(), planned["tuned"] == 10.0).fillna({"score": 0.1})
    assert "†" in tuned_values_figure(compare_trials(diverged, ComparisonSpec())).get_supxlabel()


def test_an_interval_of_zero_width_is_drawn() -> None:
    planned = make_trials(seeds=12)
    planned["score"] = 0.1
    comparison = compare_trials(planned, ComparisonSpec())
    comparison.groups[0].standings["low"] += 1e-17
    comparison.groups[0].standings["low"] *= 1 + 1e-15
    assert len(standings_figure(comparison).axes) == 1


def test_bars_are_the_intervals_of_the_table() -> None:
    comparison = compare_trials(make_trials(seeds=12), ComparisonSpec())
    (bars,) = standings_figure(comparison).axes[0].containers[0][2]
    rows = comparison.groups[0].standings.set_index("strategy").loc[comparison.order]
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert np.allclose(ends, rows[["low", "high"]].to_numpy(float))
