"""The figures say what the tables say, and have room for their labels."""

from __future__ import annotations

from collections.abc import Callable

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


def made(**law: float) -> pd.DataFrame:
    return simulate_trials(np.random.default_rng(0), surface=PEAKED, **{"strategies": 2, **law})


def lost(planned: pd.DataFrame, which: pd.Series) -> pd.DataFrame:
    planned.loc[which, ["score", "loss"]] = np.nan
    planned.loc[which, "diverged"] = True
    return planned


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize("draw", [standings_figure, tuned_values_figure])
def test_long_names_leave_panels_their_room(draw: Callable[[InitComparison], Figure]) -> None:
    planned = made(settings=2)
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
    assert r"cost=\$5" in panels[0].get_yticklabels()[0].get_text().replace("\n", " ")


def test_the_box_is_round_the_value_that_the_table_calls_best() -> None:
    """Losses at 0.1 are lowest, but one of five runs diverged there."""
    planned = made()
    planned["score"] = 1 - planned["score"]
    here = (planned["tuned"] == 0.1) & (planned["seed"] == "0")
    found = compare_trials(lost(planned, here), ComparisonSpec(metric="test_loss"))
    values = [0.001, 0.01, 0.1, 1.0, 10.0]
    (axis, *_) = tuned_values_figure(found).axes
    boxes = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    boxed = {
        found.order[round(box.get_y() + 0.5)]: values[round(box.get_x() + 0.5)] for box in boxes
    }
    best = found.groups[0].standings.set_index("strategy")["best"]
    assert boxed == {name: value for name, (value,) in best.items()}
    assert 0.1 not in boxed.values()


def test_a_mean_over_settings_is_of_all_of_them() -> None:
    planned = made(settings=2)
    planned["score"] = 1 - planned["score"]
    here = (planned["tuned"] == 0.1) & (planned["setting"] == "t1")
    found = compare_trials(lost(planned, here), ComparisonSpec(metric="test_loss"))
    assert texts(tuned_values_figure(found)).count("–†") == 2


def test_the_dagger_is_explained_where_there_is_one() -> None:
    planned = made()
    assert "†" not in tuned_values_figure(compare_trials(planned, ComparisonSpec())).get_supxlabel()
    some = lost(made(), planned["tuned"] == 10.0).fillna({"score": 0.1})
    assert "†" in tuned_values_figure(compare_trials(some, ComparisonSpec())).get_supxlabel()


def test_an_interval_that_ends_at_its_mean_is_drawn() -> None:
    planned = made(seeds=12)
    planned["score"] = 0.1
    found = compare_trials(planned, ComparisonSpec())
    found.groups[0].standings["low"] += 1e-17
    found.groups[0].standings["low"] *= 1 + 1e-15
    assert len(standings_figure(found).axes) == 1


def test_bars_are_the_intervals_of_the_table() -> None:
    found = compare_trials(made(seeds=12), ComparisonSpec())
    (bars,) = standings_figure(found).axes[0].containers[0][2]
    rows = found.groups[0].standings.set_index("strategy").loc[found.order]
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert np.allclose(ends, rows[["low", "high"]].to_numpy(float))
